"""Repairs by name, and which of them can be done."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pruners.progress import Progress, silent
from pruners.repair.batch_norm import recalibrate_
from pruners.repair.in_order import Repaired
from pruners.repair.least_squares import MAX_BYTES, least_squares_
from pruners.surgery import PruningPlan
from search_spaces.core import first_line

NONE = "none"
"""No repair."""
Repairing = Callable[[nn.Module, nn.Module, PruningPlan, Iterable[Any], Progress, int], str]


class RepairEntry(NamedTuple):
    """One way of repair without training: what it does, and how, from the smaller model, the full one, the plan, batches, whom to tell
    how far it is, and the bytes that it may take, about; it says what it did.
    """

    help: str
    repair: Repairing


def _calibrated(
    smaller: nn.Module, model: nn.Module, plan: PruningPlan, batches: Iterable[Any], progress: Progress, max_bytes: int
) -> str:
    recalibrate_(smaller, batches, progress)
    return "calibrate"


def _solved(
    smaller: nn.Module, model: nn.Module, plan: PruningPlan, batches: Iterable[Any], progress: Progress, max_bytes: int
) -> str:
    return _words(least_squares_(smaller, model, plan, batches, max_bytes=max_bytes, progress=progress))


REPAIRS: dict[str, RepairEntry] = {
    "calibrate": RepairEntry("gathers the statistics of batch norms anew", _calibrated),
    "least-squares": RepairEntry(
        "fits each layer to the outputs that the unpruned one had, by linear least squares", _solved
    ),
}


def best_repair(
    smaller: nn.Module,
    model: nn.Module,
    plan: PruningPlan,
    batches: Iterable[Any],
    progress: Progress = silent,
    max_bytes: int = MAX_BYTES,
) -> str:
    """Repair by least squares, or, where they cannot be solved, by batch statistics; return what was done, in words.

    Args:
        smaller: the pruned model, changed in place.
        model: the full model.
        plan: what was removed.
        batches: examples.
        progress: told how far it is.
        max_bytes: about how much memory least squares may take.
    """
    try:
        return _solved(smaller, model, plan, batches, progress, max_bytes)
    except ValueError as error:
        reason = first_line(error)
    if not any(isinstance(part, _BatchNorm) and part.track_running_stats for part in smaller.modules()):
        return f"none: {reason}"
    return f"{_calibrated(smaller, model, plan, batches, progress, max_bytes)}: {reason}"


def _words(repaired: Repaired) -> str:
    """What was repaired, what was left out, and whether more examples would help."""
    words = f"least-squares: {repaired.solved} layers"
    if repaired.used:
        words += f", on {repaired.used[0]:,} of {repaired.used[1]:,} examples, as many as fit into memory"
    if repaired.left_out:
        words += f"; left as they were: {', '.join(repaired.left_out)}"
    return words + ("; more examples would help" if repaired.more_examples else "")
