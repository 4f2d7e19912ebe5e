"""How passes over data report where they are, without knowing who listens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import length_hint
from typing import Any, Protocol


class Progress(Protocol):
    """Called with the name of a long step, how much of it is done, and how much there is."""

    def __call__(self, step: str, done: float, total: float) -> None: ...


class Batches(Protocol):
    """Batches that can be passed over again and again: a list, a data loader."""

    def __iter__(self) -> Iterator[Any]: ...

    def __len__(self) -> int: ...


def silent(step: str, done: float, total: float) -> None:
    """Report nothing: the default."""


def watched(batches: Iterable[Any], step: str, progress: Progress) -> Iterator[Any]:
    """Yield batches and report each as done. Without a known length, the total is the number done so far."""
    for done, batch in enumerate(batches, 1):
        yield batch
        progress(step, done, max(done, length_hint(batches, done)))
