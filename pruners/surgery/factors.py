"""Layers of low rank in a built model: whether its forward takes them, and the proof that two layers are one with their product."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

from torch import nn

from pruners.surgery.low_rank import Known, factor_, truncate_
from pruners.surgery.masked import difference, run_example
from pruners.surgery.module import computed_tensors
from pruners.tracing import Trace
from search_spaces.core import first_line


def refused_factors(
    module: nn.Module, ranks: Mapping[str, int], full_name: Callable[[str], str], trace: Trace, tolerance: float
) -> str | None:
    """Why the forward of a module does not take two layers for one, as where it reads a layer's weight by itself; None if it does."""
    trial = copy.deepcopy(module, computed_tensors(module))
    try:
        prove_factors_(trial, ranks, {}, full_name, trace, tolerance)
    except Exception as error:  # whatever its forward says
        return first_line(error)
    return None


def prove_factors_(
    smaller: nn.Module,
    ranks: Mapping[str, int],
    known: Mapping[str, Known],
    full_name: Callable[[str], str],
    trace: Trace,
    tolerance: float | None,
) -> float:
    """Replace layers by two of low rank, and prove that the model returns what it does with each weight their product.

    Args:
        smaller: a built model; changed in place.
        ranks: name of a layer in the full model to its rank.
        known: what data say of some of them.
        full_name: from the name of a module here to that in the full model.
        trace: of the example.
        tolerance: largest relative difference allowed; None to prove nothing.

    Returns:
        The largest relative difference; 0 if nothing is proved.

    Raises:
        ValueError: if the difference exceeds the tolerance, or a layer is not there.
    """
    factors = truncate_(smaller, ranks, known, full_name)
    if missing := sorted(ranks.keys() - {full_name(name) for name in factors}):
        raise ValueError(f"layers of low rank must be there, got {missing}; report the model.")
    expected = [] if tolerance is None else run_example(smaller, trace)
    factor_(smaller, factors)
    if tolerance is None:
        return 0.0
    apart = difference(run_example(smaller, trace), expected)
    if apart > tolerance:
        raise ValueError(
            f"two layers must equal one with their product to {tolerance:g}, got {apart:.2g}; report the model."
        )
    return apart
