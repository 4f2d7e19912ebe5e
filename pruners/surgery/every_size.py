"""A graph that serves every size that the model allows: lengths, heights and widths, as well as the batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import nn
from torch.utils import _pytree as pytree

from pruners.groups import dependency_groups, tie_axes
from pruners.operators import BATCH, LEAST, Sizes, of_size, sizes
from pruners.surgery.bypass import bypassed_outputs
from pruners.surgery.masked import difference, run_example
from pruners.surgery.plan import PruningPlan, fingerprint, kept_by
from pruners.surgery.proof import verify
from pruners.surgery.repeats import named_repeats
from pruners.surgery.replay import left_out, smaller_graph
from pruners.surgery.rewrite import GraphModel, Removal, rewrite
from pruners.tracing import Trace, trace
from search_spaces.core import first_line

STEPS = (1, 2, 3, 4, 8, 16, 32, 64)  # to another size that the model allows


class Served(NamedTuple):
    """A graph, and what it serves.

    Attributes:
        model: the graph.
        removal: that it was rewritten for.
        plan: that leads to it.
        fixed: why it serves no other sizes than the example's, but for the batch; None if it serves some.
    """

    model: GraphModel
    removal: Removal
    plan: PruningPlan
    fixed: str | None = None


def serve_sizes(
    removal: Removal,
    rewritten: GraphModel,
    plan: PruningPlan,
    model: nn.Module,
    tolerance: float,
    check: bool,
    every_size: bool = True,
) -> Served:
    """The smaller graph with dynamic shapes, as far as the model allows and the proof holds; else the graph of the traced shapes.

    It must return what the given graph does on the example, and equal the masked model at other sizes, too, with the same
    code. A size of 1, which tracing takes for granted not to be, is served where it is the example's or proved.

    Args:
        removal: what stays, in the trace of the example.
        rewritten: its graph, which holds for the traced sizes.
        plan: that leads to it.
        model: the full model.
        tolerance: largest relative difference allowed.
        check: prove it; else sizes of at least 2 are taken to be served as traced.
        every_size: try other sizes than the example's; else only the batch is free.
    """
    given = removal.graph.trace
    found = as_traced = Served(rewritten, removal, plan, "no others are asked for")
    if every_size:
        try:
            found = _every_size(given, rewritten, plan, model, tolerance, check)
        except Exception as error:  # whatever tracing, a rule or the model says of sizes that are no numbers
            found = as_traced = as_traced._replace(fixed=first_line(error))
    least = _least(found, model, tolerance) if check else dict.fromkeys(found.removal.graph.trace.sizes.traced, LEAST)
    if given.copies > 1 and BATCH in least:
        if check:
            # other sizes join with a batch of one, which is the example's
            return as_traced._replace(fixed=found.fixed or "a batch of one is proved at no others")
        del least[BATCH]
    if not least:
        return found
    plan = replace(found.plan, least=least)
    return Served(smaller_graph(plan, found.removal), found.removal, plan, found.fixed)


def find_again(plan: PruningPlan, traced: Trace) -> Removal:
    """A plan's removal in another trace of its model.

    Raises:
        ValueError: if it is not there.
    """
    graph = tie_axes(traced)
    return Removal(graph, kept_by(replace(plan, fingerprint=fingerprint(graph)), graph, dependency_groups(graph)))


def other_sizes(sizes: Sizes) -> dict[str, int] | None:
    """Free sizes of about half of those that were traced, or near them, each of them another; None where the rules allow none."""
    found = dict(sizes.traced)
    for name, traced in sizes.traced.items():
        near = [start + way * step for start in (traced // 2, traced) for step in STEPS for way in (-1, 1)]
        good = (n for n in (*near, traced // 2, 2 * traced) if n >= LEAST and n != traced)
        other = next((n for n in good if sizes.allow({**found, name: n})), None)
        if other is None:
            return None
        found[name] = other
    return found


def smallest_sizes(sizes: Sizes) -> dict[str, int]:
    """A small value for each dynamic size: at least 2, and allowed by the guards beside the values chosen before it."""
    found = dict(sizes.traced)
    for name in found:
        near = (LEAST + step for step in (0, *STEPS))
        found[name] = next((n for n in near if sizes.allow({**found, name: n})), found[name])
    return found


def _every_size(
    given: Trace, rewritten: GraphModel, plan: PruningPlan, model: nn.Module, tolerance: float, check: bool
) -> Served:
    """The graph traced with every size free.

    Raises:
        ValueError: saying why there is none that is proved; or whatever tracing, a rule or the model raises.
    """
    if not _runs_at_other_sizes(model, given):
        raise ValueError("the model runs at no others")
    traced = trace(model, given.args, given.kwargs, every_size=True, seconds=sizes.MOST_SECONDS)
    if len(traced.sizes.traced) <= len(given.sizes.traced):
        raise ValueError("tracing fixes them all, as the model computes with them as numbers")
    removal = find_again(plan, traced)
    plan = replace(plan, fingerprint=fingerprint(removal.graph), every_size=True)
    found = Served(smaller_graph(plan, removal), removal, plan)
    apart = difference(run_example(found.model, given), run_example(rewritten, given))
    if not apart <= tolerance:
        raise ValueError(f"the graph of every size differs by {apart:.2g} on the example")
    others = other_sizes(traced.sizes) if check else None
    if others is None and check:
        raise ValueError(f"no others are near that meet what tracing took for granted: {', '.join(traced.sizes.rules)}")
    if others is not None:
        prove_at(others, found, model, tolerance)
    return found


def _runs_at_other_sizes(model: nn.Module, given: Trace) -> bool:
    """Whether a model runs with any dimension but the batch, or all those of one size, half or twice as large."""
    leaves, spec = pytree.tree_flatten((given.args, dict(given.kwargs)))
    by_size: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for place, leaf in enumerate(leaves):
        for dim, size in enumerate(leaf.shape) if isinstance(leaf, torch.Tensor) else ():
            if size > 1 and not (dim == 0 and place in given.free):
                by_size[size].append((place, dim))
    for size, found in by_size.items():
        for dims in [found] if len(found) == 1 else [found, *([one] for one in found)]:
            for other in (size // 2, 2 * size):
                changed = list(leaves)
                for place, dim in dims:
                    changed[place] = of_size(changed[place], dim, other)
                args, kwargs = pytree.tree_unflatten(changed, spec)
                if _runs(model, replace(given, args=args, kwargs=kwargs)):
                    return True
    return False


def prove_at(sizes: Mapping[str, int], served: Served, model: nn.Module, tolerance: float) -> None:
    """Prove that a graph equals the masked model at other sizes than those traced.

    Raises:
        ValueError: if it does not, or its code would be another.
    """
    traced = served.removal.graph.trace
    with traced.sizes.supposed(sizes):
        removal = find_again(served.plan, traced.resized(sizes))
        smaller = smaller_graph(served.plan, removal)
        if smaller.code != served.model.code:
            raise ValueError(f"a graph must be the same at every size, got another at {dict(sizes)}.")
        of_blocks = served.plan.blocks or served.plan.repeated
        whole = rewrite(removal) if of_blocks else smaller
        verify(removal, whole, dependency_groups(removal.graph), model, tolerance)
        if of_blocks:
            again = [twice.part for twice in named_repeats(removal.graph, served.plan.repeated)]
            masked = bypassed_outputs(removal, left_out(served.plan, removal), again)
            apart = difference(run_example(smaller, removal.graph.trace), masked)
            if apart > tolerance:
                raise ValueError(
                    f"leaving out must equal bypassing, and repeating running again, got a difference of {apart:.2g} at {dict(sizes)}."
                )


def _least(served: Served, model: nn.Module, tolerance: float) -> dict[str, int]:
    """The dynamic sizes that the graph must not serve at 1.

    A size may be 1 if the graph is proved with that size at 1 and the others as traced, and again with the others as
    small as they may be. The second proof is skipped where neither the model nor the graph runs. Last, all such sizes
    are set to 1 together: if that is not proved, only the batch may be 1.
    """
    traced = served.removal.graph.trace
    sizes = traced.sizes
    few = smallest_sizes(sizes)
    example = {**sizes.traced, **({BATCH: 1} if traced.copies > 1 else {})}

    def proved(at: Mapping[str, int]) -> bool:
        if at == example or not sizes.allow(at):
            return True
        try:
            prove_at(at, served, model, tolerance)
        except Exception:  # whatever the model says, too
            return False
        return True

    def proved_or_refused(at: Mapping[str, int]) -> bool:
        """Or neither the model nor the graph runs at these sizes, which says nothing of others."""
        resized = traced.resized(at)
        return proved(at) or not (_runs(model, resized) or _runs(served.model, resized))

    least = {
        name: LEAST
        for name in sizes.traced
        if not (proved({**sizes.traced, name: 1}) and proved_or_refused({**few, name: 1}))
    }
    at_once = {**dict.fromkeys(sizes.traced, 1), **{name: few[name] for name in least}}
    return least if proved_or_refused(at_once) else least | {name: LEAST for name in sizes.traced if name != BATCH}


def _runs(model: nn.Module, traced: Trace) -> bool:
    """Whether a model runs on the example of a trace."""
    try:
        run_example(model, traced)
    except Exception:  # whatever a model says of sizes that it does not allow
        return False
    return True
