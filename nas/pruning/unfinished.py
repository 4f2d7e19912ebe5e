"""What a pruning has done so far, kept in the folder that it is for until all of it is there.

of.json              what is pruned: the settings, and digests of the weights, the inputs and the data
figures.json         what measurements found, by name
ranking.safetensors  what the next of several steps of the cut is taken by
pruned/              the smaller model, as it is behind the last finished step of repair
step*.safetensors    checkpoint of the step of repair that is under way
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn

from nas.runtime import checkpoint, different, locked, replacing, sweep, sweep_beside, write_json
from nas.training import below, under
from pruners import PruneResult, PruningPlan, Summary, load
from pruners.allocation import Ranking, Rankings
from pruners.result import PLAN
from search_spaces.core import load_json, of_file, read_bytes

UNFINISHED = ".unfinished"
"""The folder in that of a pruned model."""
OF, FIGURES, RANKING, PRUNED, DONE = "of.json", "figures.json", "ranking.safetensors", "pruned", "done.json"
RANKED: Mapping[str, type] = {"step": int, "gone": dict}
"""What the state of a ranking holds."""
Found = TypeVar("Found")


class Reached(NamedTuple):
    """A smaller model on its way.

    Attributes:
        result: with the model as the last finished step of repair left it.
        notes: what people should know of each of these steps.
    """

    result: PruneResult
    notes: list[dict[str, Any]]


@dataclass(frozen=True)
class Kept:
    """What one part of a pruning keeps; nothing without a folder.

    Attributes:
        folder: of all parts.
        name: of this one.
        of: what is pruned.
    """

    folder: Path | None = None
    name: str = ""
    of: Mapping[str, Any] | None = None

    def part(self, name: str) -> Kept:
        """What a part of this part keeps."""
        return Kept(self.folder, f"{self.name} {name}".strip(), self.of)

    def once(self, name: str, find: Callable[[], Found]) -> Found:
        """What `find` gave the first time, as plain data."""
        if self.folder is None:
            return find()
        path, name = self.folder / FIGURES, f"{self.name} {name}".strip()
        known = load_json(path, self.otherwise) if path.exists() else {}
        if name not in known:
            known[name] = find()
            self.begin()
            write_json(path, known)
        return known[name]

    @property
    def training(self) -> Path | None:
        """Where a training keeps its checkpoint."""
        return None if self.folder is None else self.begin() / f"{self.name.replace(' ', '')}.safetensors"

    @property
    def rankings(self) -> Rankings | None:
        """Where a cut in several steps keeps its rankings."""
        return None if self.folder is None else _Rankings(self)

    def reached(self, model: nn.Module) -> Reached | None:
        """The smaller model of `model` as far as it came; None if it was not cut yet."""
        if self.folder is None or not (folder := self.folder / PRUNED).exists():
            return None
        done = load_json(folder / DONE, self.otherwise)
        with of_file(folder / PLAN, self.otherwise):
            plan = PruningPlan.from_json(read_bytes(folder / PLAN))
        notes = [{**note, "tried": _by_rate(note["tried"])} if "tried" in note else note for note in done["notes"]]
        return Reached(PruneResult(load(folder, model), plan, Summary.from_dict(done["summary"])), notes)

    def keep(self, reached: Reached) -> Reached:
        """Write down a finished step; the checkpoints of what led to it go."""
        if self.folder is not None:
            with replacing(self.begin() / PRUNED) as temporary:
                reached.result.save(temporary)
                write_json(temporary / DONE, {"summary": reached.result.summary.to_dict(), "notes": reached.notes})
            for path in self.folder.glob("*.safetensors"):
                checkpoint.remove(path)
        return reached

    def begin(self) -> Path:
        """Write down what is pruned, before anything else is kept; the folder."""
        assert self.folder is not None
        if not (self.folder / OF).exists():
            write_json(self.folder / OF, self.of)
        return self.folder

    @property
    def otherwise(self) -> str:
        """What to do about a damaged file."""
        return f"remove {self.folder} to start anew"


def _by_rate(tried: Mapping[str, float]) -> dict[float, float]:
    """What learning rates came to; JSON has no numbers for names."""
    return {float(rate): figure for rate, figure in tried.items()}


NOTHING = Kept()


class _Rankings:
    """Rankings in a file, written now and then."""

    def __init__(self, kept: Kept) -> None:
        assert kept.folder is not None
        self.kept, self.path, self.pace = kept, kept.folder / RANKING, checkpoint.Pace()

    def last(self) -> tuple[int, Ranking] | None:
        found = checkpoint.load(self.path, RANKED)
        if found is None:
            return None
        damages = {name: x.numpy() for name, x in below("damages", found.tensors).items()}
        ranking = Ranking(below("scores", found.tensors), damages or None, found.state["gone"])
        return found.state["step"], ranking

    def keep(self, step: int, ranking: Ranking) -> None:
        if not self.pace.due():
            return
        damages = {name: torch.from_numpy(x) for name, x in (ranking.damages or {}).items()}
        with self.pace.writing():
            self.kept.begin()
            tensors = {**under("scores", ranking.scores), **under("damages", damages)}
            checkpoint.save(self.path, tensors, {"step": step, "gone": dict(ranking.gone)})


@contextmanager
def unfinished(folder: Path | None, of: Callable[[], Mapping[str, Any]]) -> Iterator[Kept]:
    """What a pruning for a folder keeps until it is finished; the same one goes on with it. No other process works there meanwhile.

    Args:
        folder: of the pruned model; nothing is kept if None.
        of: says what is pruned, as plain data: another pruning does not go on.

    Raises:
        ValueError: another process is at work for the folder, or another pruning was not finished there.
    """
    if folder is None:
        yield NOTHING
        return
    made, place = not folder.exists(), folder / UNFINISHED
    place.mkdir(parents=True, exist_ok=True)
    with locked(place / ".lock", folder):
        sweep(place)
        sweep_beside(folder)
        kept = Kept(place, of=of())
        try:
            if (place / OF).exists() and (found := different(load_json(place / OF, kept.otherwise), kept.of or {})):
                raise ValueError(
                    f"{folder} holds the unfinished work of another pruning ({'; '.join(found)}); give another folder, or "
                    f"remove {place} to start anew"
                )
            yield kept
        finally:
            if not (place / OF).exists():
                shutil.rmtree(place, ignore_errors=True)
                with suppress(OSError):
                    if made:
                        folder.rmdir()
