"""Training state on disk: tensors and JSON in one safetensors file, and the one before it."""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from nas.runtime.files import replacing
from search_spaces.core import load_tensors, parse_json, save_tensors

SECONDS = 30.0
"""Between two checkpoints of a training that has no epochs, at least."""
SHARE = 0.02
"""Of the time that writing them takes, at most."""


OF_EPOCHS: Mapping[str, type] = {"epochs": int, "history": list}
"""What the checkpoint of a training says."""


class Checkpoint(NamedTuple):
    """What training needs to go on: tensors by name, and JSON data."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]


class Pace:
    """Says when it is time for the next checkpoint: as often as costs next to nothing."""

    def __init__(self) -> None:
        self._next = time.monotonic() + SECONDS

    def due(self) -> bool:
        """Whether to write one now."""
        return time.monotonic() >= self._next

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Around the writing, whose time is taken."""
        began = time.monotonic()
        yield
        now = time.monotonic()
        self._next = now + max(SECONDS, (now - began) / SHARE)


def save(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, object]) -> None:
    """Write a checkpoint; the one it replaces is kept as `<path>.previous`."""
    with replacing(path) as temporary:
        save_tensors(temporary, tensors, {"state": json.dumps(state)})
        if path.exists():
            os.replace(path, _previous(path))


def load(path: Path, kinds: Mapping[str, type] = OF_EPOCHS) -> Checkpoint | None:
    """Read a checkpoint, or the previous one with a warning if it is damaged; None if none was written.

    Args:
        path: of the checkpoint.
        kinds: what its state must hold, by name.

    Raises:
        ValueError: every checkpoint that was written is damaged.
    """
    written = [candidate for candidate in (path, _previous(path)) if candidate.exists()]
    for number, candidate in enumerate(written, start=1):
        try:
            return _read(candidate, kinds)
        except (ValueError, OSError) as error:
            rest = f"; going on from an earlier state, {written[number]}" if number < len(written) else ""
            warnings.warn(f"{candidate} is damaged ({error}){rest}", stacklevel=2)
    if written:
        raise ValueError(f"no readable checkpoint is left at {path}; remove {path.parent} to train this part again")
    return None


def _read(path: Path, kinds: Mapping[str, type]) -> Checkpoint:
    tensors, metadata, _ = load_tensors(path)
    state = parse_json(metadata.get("state", "null"))
    if not isinstance(state, dict) or {name: type(state.get(name)) for name in kinds} != kinds:
        raise ValueError(f"its state has not {' and '.join(kinds)}")
    return Checkpoint(tensors, state)


def remove(path: Path) -> None:
    """Delete a checkpoint and the one before it."""
    path.unlink(missing_ok=True)
    _previous(path).unlink(missing_ok=True)


def _previous(path: Path) -> Path:
    return path.with_name(path.name + ".previous")
