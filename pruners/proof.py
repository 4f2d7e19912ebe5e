"""The proof in every prune call: the trace is the model, removing equals masking, and what was built is what was proved."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from pruners.check import Comparison, compare, difference, needs_copies, run_example, run_traced
from pruners.groups import AxisGraph, Group, dependency_groups, tie_axes
from pruners.plan import PruningPlan, fingerprint, kept_by
from pruners.rewrite import GraphModel, Removal, rewrite
from pruners.tracing import evaluating, fitting, is_random, operator, trace


def verify(
    removal: Removal, rewritten: GraphModel, found: Sequence[Group], model: nn.Module, tolerance: float
) -> Comparison:
    """Prove that the trace is the model and that removing equals masking.

    Raises:
        ValueError: if the model does not run on its inputs or returns nothing to compare; naming the operator where they part,
            and the groups that it lost indices of.
    """
    given = removal.graph.trace
    with evaluating(model), fitting(given.args, given.kwargs):
        outputs = run_example(model, given)
    _refuse_no_numbers(outputs)
    apart = difference(run_traced(Removal(removal.graph, {})), outputs)
    if apart > tolerance:
        drawn = sorted({operator(node) for node in given.nodes if is_random(node)})
        hint = (
            f"; it draws random numbers ({', '.join(drawn)}), which came out differently: take them as an input"
            if drawn
            else ""
        )
        raise ValueError(f"the traced model must return what the model returns, got a difference of {apart:.2g}{hint}.")
    comparison = compare(removal, rewritten, tolerance)
    if comparison.where:
        names = [group.name for group in found if group.axis in comparison.axes]
        raise ValueError(
            f"removing must equal masking to {tolerance:g}, got a difference at {comparison.where}, groups {names}; pass "
            "these in `ignore`, and report the operator."
        )
    return comparison


def prove(smaller: nn.Module, graph: AxisGraph, comparison: Comparison, tolerance: float) -> float:
    """Largest relative difference between what the built model and the masked one return.

    Raises:
        ValueError: if it exceeds the tolerance.
    """
    apart = difference(run_example(smaller, graph.trace), list(comparison.reference))
    if apart > tolerance:
        raise ValueError(
            f"removing must equal masking to {tolerance:g}, got {apart:.2g} on the built model; report the model."
        )
    return apart


def prove_in(
    dtype: torch.dtype, smaller: nn.Module, model: nn.Module, plan: PruningPlan, graph: AxisGraph, tolerance: float
) -> tuple[float, float]:
    """Verify and prove on copies of both models in another floating-point type.

    In float64, what rounding adds up to in a deep model is far below any tolerance, and what remains is a wrong cut.

    Args:
        dtype: of weights, inputs and everything between.
        smaller: the built model.
        model: the full model.
        plan: what was removed.
        graph: the traced full model.
        tolerance: largest relative difference allowed.

    Returns:
        Largest relative differences of the outputs, and of every tensor inside.

    Raises:
        ValueError: if removing does not equal masking, or the model cannot run in that type.
    """

    def converted(value: Any) -> Any:
        return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    if not dtype.is_floating_point:
        raise ValueError(f"`check_dtype` must be a floating-point type, got {dtype}; take torch.float64.")
    wide = copy.deepcopy(model).to(dtype)
    args, kwargs = pytree.tree_map(converted, (graph.trace.args, dict(graph.trace.kwargs)))
    try:
        with evaluating(wide), torch.no_grad():
            wide(*args, **kwargs)
    except Exception as error:
        raise ValueError(
            f"the check in {dtype} needs a model that runs in it, got: {error}; leave `check_dtype` out."
        ) from error
    again = tie_axes(trace(wide, args, kwargs))
    found = dependency_groups(again)
    removal = Removal(again, kept_by(replace(plan, fingerprint=fingerprint(again)), again, found))
    if needs_copies(removal):
        again.trace = again.trace.enlarged()
    comparison = verify(removal, rewrite(removal), found, wide, tolerance)
    return prove(copy.deepcopy(smaller).to(dtype), again, comparison, tolerance), comparison.inside


def _refuse_no_numbers(outputs: Sequence[torch.Tensor]) -> None:
    """NaN differs from nothing, and so would every wrong model: minus infinity beside numbers is fine."""
    for position, x in enumerate(outputs):
        nan = int(x.isnan().sum())
        if nan or (x.numel() and not x.isfinite().any()):
            raise ValueError(
                f"the model must return numbers on `example_inputs`, got {f'{nan} NaN' if nan else 'no finite one'} among the "
                f"{x.numel()} of output {position}; give inputs on which it does, or leave out the proof (`check=False`)."
            )
