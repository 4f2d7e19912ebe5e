"""The proof in every prune call: the trace is the model, removing equals masking, and what was built is what was proved."""

from __future__ import annotations

import copy
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from pruners.errors import fitting
from pruners.groups import AxisGraph, Group, dependency_groups, tie_axes
from pruners.operators import NothingChosen, is_random, operator, routing, seeded, tensors_in
from pruners.surgery.blocks import named_blocks
from pruners.surgery.bypass import Bypassed, bypassed_outputs
from pruners.surgery.masked import Comparison, Masked, compare, difference, needs_copies, run_example, run_traced
from pruners.surgery.module import computed_tensors
from pruners.surgery.plan import PruningPlan, fingerprint, kept_by
from pruners.surgery.rewrite import GraphModel, Removal, rewrite
from pruners.tracing import Trace, trace
from pruners.untouched import untouched
from search_spaces.core import first_line


def verify(
    removal: Removal, rewritten: GraphModel, found: Sequence[Group], model: nn.Module, tolerance: float
) -> Comparison:
    """Prove that the trace is the model and that removing equals masking.

    Raises:
        ValueError: if the model does not run on its inputs or returns nothing to compare; naming the operator where they part,
            and the groups that it lost indices of.
    """
    given = removal.graph.trace
    with fitting(given.args, given.kwargs):
        outputs = run_example(model, given)
    _refuse_no_numbers(outputs)
    apart = difference(run_traced(Removal(removal.graph, {})), outputs)
    if apart > tolerance:
        drawn = sorted({operator(node) for node in given.nodes if is_random(node)})
        hint = (
            f"; it draws random numbers ({', '.join(drawn)}), which came out differently: take them as an input"
            if drawn
            else "; it chooses rows by their values, and must not use their number or branch on what else is chosen"
            if given.choosing
            else "; a batch of one is traced as two samples: where the model treats one unlike several, give several"
            if given.copies > 1
            else ""
        )
        raise ValueError(f"the traced model must return what the model returns, got a difference of {apart:.2g}{hint}.")
    if given.choosing:
        _prove_for_nothing(removal.graph, model, tolerance)
    comparison = compare(removal, rewritten, tolerance)
    if comparison.where:
        names = [group.name for group in found if group.axis in comparison.axes]
        advice = f", groups {names}; pass these in `ignore`, and" if names else ";"
        raise ValueError(
            f"removing must equal masking to {tolerance:g}, got a difference at {comparison.where}{advice} report the operator."
        )
    return comparison


def prove(smaller: nn.Module, masked: Masked, comparison: Comparison, tolerance: float) -> float:
    """Largest relative difference between what the built model and the masked one return.

    Beyond the tolerance, float64 decides: what is rounding goes, what is a mistake stays.

    Args:
        smaller: the built model.
        masked: the masked full one, to run again in float64.
        comparison: what the masked one returned.
        tolerance: largest relative difference allowed.

    Raises:
        ValueError: if it exceeds the tolerance.
    """
    apart = difference(run_example(smaller, masked.removal.graph.trace), list(comparison.reference))
    if apart > tolerance and isfinite(apart):
        apart = _apart_in_float64(smaller, masked, apart)
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
        ValueError: if removing does not equal masking, or the model or the result cannot run in that type.
    """
    wide = _copy_in(dtype, model)
    args, kwargs = _converted(graph.trace, dtype)
    try:
        with untouched(wide, graph.trace.written), torch.no_grad():
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
    blocks = named_blocks(again, plan.blocks)
    if blocks:
        comparison = replace(comparison, reference=tuple(bypassed_outputs(removal, blocks)))
    try:
        return prove(_copy_in(dtype, smaller), Bypassed(removal, blocks), comparison, tolerance), comparison.inside
    except RuntimeError as error:
        raise ValueError(
            f"the check in {dtype} needs a result that runs in it, got: {first_line(error)}; leave `check_dtype` out (a graph keeps "
            "the types that it was traced with)."
        ) from error


def _prove_for_nothing(graph: AxisGraph, model: nn.Module, tolerance: float) -> None:
    """Prove that the trace, in which something is chosen everywhere, is the model also where nothing is.

    Counts of what is chosen are zero, too, unless the model then does not run (it splits by them). A model whose own code raises where
    nothing is chosen never goes on from there.
    """
    for counts in (True, False):
        try:
            with NothingChosen(counts):
                outputs = run_example(model, graph.trace)
            break
        except Exception as error:
            if not counts and _raised_by_an_operator(error):
                raise _undecided(f"an error: {first_line(error)}") from error
            if not counts:
                return
    with NothingChosen(counts):
        apart = difference(run_traced(Removal(graph, {})), outputs)
    if apart > tolerance:
        raise _undecided(f"a difference of {apart:.2g}")


def _raised_by_an_operator(error: BaseException) -> bool:
    """Whether an operator failed, rather than that the model refused to go on, by `raise` or by `torch._check`."""
    *_, last = traceback.extract_tb(error.__traceback__)
    within_torch = "torch" in Path(last.filename).parts and not last.name.startswith("_check")
    return within_torch or last.filename == routing.__file__


def _undecided(what: str) -> ValueError:
    return ValueError(
        "a model that chooses rows by their values must compute the same for no rows as where it leaves them out, got "
        f"{what}; branch on nothing else, or let every expert see every token, weighted by zero where the router did not choose it."
    )


def _refuse_no_numbers(outputs: Sequence[torch.Tensor]) -> None:
    """NaN differs from nothing, and so would every wrong model: minus infinity beside numbers is fine."""
    for position, x in enumerate(outputs):
        nan = int(x.isnan().sum())
        if nan or (x.numel() and not x.isfinite().any()):
            raise ValueError(
                f"the model must return numbers on `example_inputs`, got {f'{nan} NaN' if nan else 'no finite one'} among the "
                f"{x.numel()} of output {position}; give inputs on which it does, or leave out the proof (`check=False`)."
            )


def _apart_in_float64(smaller: nn.Module, masked: Masked, otherwise: float) -> float:
    """The difference in float64, or `otherwise` if the built model does not run in it."""
    trace = masked.removal.graph.trace
    args, kwargs = _converted(trace, torch.float64)
    masked.precise = True
    try:
        outputs = run_example(_copy_in(torch.float64, smaller), replace(trace, args=args, kwargs=kwargs))
    except Exception:
        return otherwise
    with torch.no_grad(), seeded():
        *_, (_, value) = masked.steps(list(trace.values().values()))
    return difference(outputs, tensors_in(trace.returned(value)))


def _copy_in(dtype: torch.dtype, model: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch's own when it copies a graph
        return copy.deepcopy(model, computed_tensors(model)).to(dtype)


def _converted(trace: Trace, dtype: torch.dtype) -> Any:
    """The example inputs with real numbers in another type."""

    def converted(value: Any) -> Any:
        return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    return pytree.tree_map(converted, (trace.args, dict(trace.kwargs)))
