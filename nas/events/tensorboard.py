"""Events as curves in TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nas.events.event import Event, curves

FOLDER = "tensorboard"


class TensorBoard:
    """Writes scalars below a run folder; `tensorboard --logdir DIR` shows them."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / FOLDER))

    def write(self, events: Sequence[Event]) -> None:
        for event in events:
            for name, value, at in curves(event):
                self._writer.add_scalar(name, value, at)

    def close(self, how: str) -> None:
        self._writer.close()
