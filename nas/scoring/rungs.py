"""Rungs of training: numbers of epochs after which a trial is measured, and can be stopped."""

from __future__ import annotations

STOPPED = "stopped_early"
"""The note of a trial that was stopped: after how many epochs."""
Bars = dict[int, float | None]
"""By epochs of a rung: the largest loss, of the first metric, that goes on; None where everything does."""


def rungs(first: int, reduction: int, epochs: int) -> list[int]:
    """`first` epochs, `reduction` times as many, and so on, below all `epochs`."""
    found, at = [], first
    while at < epochs:
        found.append(at)
        at *= reduction
    return found


def at_rung(metric: str, epochs: int) -> str:
    """What a metric is called after so many epochs, in notes of a trial."""
    return f"{metric}_epoch{epochs}"
