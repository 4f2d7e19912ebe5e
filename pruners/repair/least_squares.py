"""Repair after removal without training: every layer's weights by least squares, in order of execution."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.utils import _pytree as pytree

from pruners.groups import uncompiled
from pruners.operators import is_random, operator, owner, tensors_in
from pruners.progress import Progress, silent
from pruners.repair.closer import is_closer
from pruners.repair.in_order import NO_BETTER, Repair, Repaired, last_solved
from pruners.repair.lanes import Lane, fits, lanes, most_bytes
from pruners.repair.positions import few
from pruners.surgery import PruningPlan, Removal, find_again, multiplied, replay, smaller_graph
from pruners.tracing import Batch, like_example, trace

RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
MAX_BYTES = 2**31


def least_squares_(
    smaller: nn.Module,
    model: nn.Module,
    plan: PruningPlan,
    batches: Iterable[Any],
    ridge: float | Sequence[float] = RIDGES,
    iterations: int = 5,
    *,
    device: torch.device | str | None = None,
    max_bytes: int | None = MAX_BYTES,
    max_seconds: float | None = None,
    progress: Progress = silent,
) -> Repaired:
    """Solve every layer that reads what was cut, in order of execution, for what the full model computes there.

    Layers are linear ones, convolutions of every kind, recurrent ones, and scales and shifts of norms. Each sees the inputs that the
    repaired layers before it produce. Its aims are the full model's values on the channels that stay: after the batch norm if one
    follows, whose mean takes up the shift; after the addition of a shortcut, whose error is thereby part of the aim (in a language
    model the hidden state, each position relative to its own size, as a norm will see it); and after a ReLU, in that a value which
    the full model cuts off may lie anywhere beyond the cut. Batch norms get the statistics of the repaired model, and scales and
    shifts that keep its outputs, so training on data like `batches` starts from what the model computes.

    It never makes things worse: every fifth example is held out. On these the ridge of each layer is chosen; a layer that does not
    come closer on them stays as it is, and all do where the model's outputs do not. Weights that several layers share stay as they
    are, and so do experts that see the tokens routed to them.

    Examples may be of several sizes where the model can be traced so; equal ones run together. Both models run operator by operator
    over all examples, and of each only what is still needed is held in memory. A layer with more columns than positions is solved
    over positions.

    Args:
        smaller: the pruned model, changed in place; its dtype and mode stay.
        model: the full model that `plan` was made for; it is left untouched.
        plan: what was removed.
        batches: iterable of inputs, or of (inputs, targets); a thousand images, or some ten thousand tokens, are plenty.
        ridge: weight of staying close to the weights as they are, columns scaled to unit variance; of several the least that serves
            the examples held out about as well as any.
        iterations: how often a layer before a ReLU is solved again, for values behind the ReLU that may lie anywhere beyond it.
        device: where it runs; the model's own if None.
        max_bytes: about how much memory it may take; examples beyond are left out evenly. None for all examples.
        max_seconds: after so long the layers that remain are left as they are.
        progress: called as ("least squares", layers done, all layers).

    Raises:
        ValueError: if a batch does not fit the model or is not finite, the model draws random numbers in evaluation, or `max_bytes`
            does not hold two examples.

    Reference: He et al., Channel pruning for accelerating very deep neural networks, ICCV 2017 (reconstruction); Zhang
        et al., Accelerating very deep convolutional networks for classification and detection, TPAMI 2016 (aims behind
        the ReLU, inputs of the approximated layers).
    Differs: ridge towards the old weights, chosen on held-out examples; shortcut error in the aim; the values behind a ReLU are
        relaxed by projection in place of a penalty method; recurrent layers by their gates.
    """
    smaller, model = uncompiled(smaller), uncompiled(model)
    begun = time.monotonic()
    ridges = (float(ridge),) if isinstance(ridge, (int, float)) else tuple(map(float, ridge))
    given, here = _device(model), torch.device(device) if device is not None else _device(model)
    if here != given:
        model = copy.deepcopy(model).to(here)
    removal, ready = _traced(model, plan, pytree.tree_map_only(Tensor, lambda x: x.to(here), list(batches)))
    _refuse_random(removal)
    rewritten = smaller_graph(plan, removal)
    own = {plan.full_name(name): tensor for name, tensor in smaller.state_dict().items()}
    rewritten.load_state_dict(multiplied(own, plan.multiplied, inverse=True), strict=False)
    before = copy.deepcopy(rewritten)
    with torch.no_grad():
        found, used = _lanes(removal, ready, max_bytes, last_solved(rewritten))
        deadline = math.inf if max_seconds is None else begun + max_seconds
        repair = Repair(removal, rewritten, found, ridges, iterations, max_bytes, deadline, progress)
        repaired = replace(repair.repair(), used=used)
        if repaired.solved and not is_closer(removal, rewritten, before, found):
            rewritten.load_state_dict(before.state_dict())
            why = f"the model's outputs are {NO_BETTER}"
            return replace(
                repaired, solved=0, left_out=(*repaired.left_out, f"all other layers ({why})"), more_examples=True
            )
        now = multiplied(rewritten.state_dict(), plan.multiplied)
        for name in own.keys() & now.keys():
            own[name].copy_(now[name])
    return repaired


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _traced(model: nn.Module, plan: PruningPlan, batches: list[Any]) -> tuple[Removal, list[Batch]]:
    """A trace that takes all batches, with the plan's removal, and the batches as it takes them.

    Raises:
        ValueError: if there is none, or a batch is not finite.
    """
    removal = replay(plan, model)
    found = removal.graph.trace
    ready = list(like_example(batches, found, traced=False))
    if not all(x.isfinite().all() for batch in ready for x in tensors_in(batch.inputs)):
        raise ValueError("`batches` must be finite, got NaN or infinity; weights solved on them would be NaN.")
    if all(fits(batch, found) for batch in ready):
        return removal, ready
    if not plan.every_size:
        try:
            other = find_again(plan, trace(model, found.args, found.kwargs, every_size=True))
        except Exception:  # whatever tracing says of sizes that are no numbers
            other = None
        if other is not None:
            ready = [replace(batch, free=other.graph.trace.free or None) for batch in ready]
            if all(fits(batch, other.graph.trace) for batch in ready):
                return other, ready
    for _ in like_example(batches, found):  # says which does not fit, and how
        pass
    raise ValueError(
        "`batches` must be of sizes that the model serves, got one that it does not take; cut or pad them to those of `example_inputs`."
    )


def _refuse_random(removal: Removal) -> None:
    """Refuse a model whose outputs the inputs do not determine.

    Raises:
        ValueError: naming the operator.
    """
    for node in removal.graph.trace.nodes:
        if node.op == "call_function" and is_random(node) and not _is_empty(node):
            raise ValueError(
                f"`model` must compute the same from the same batch, got {operator(node)} of module {owner(node)!r}, which draws "
                "random numbers in evaluation, too; repair it without, or recalibrate it instead."
            )


def _is_empty(node: Node) -> bool:
    return "empty" in operator(node)


def _lanes(
    removal: Removal, batches: Sequence[Batch], max_bytes: int | None, last: str
) -> tuple[list[Lane], tuple[int, int] | None]:
    """As many examples as fit into memory up to an operator of that name, in pieces; and how many of how many, if not all.

    Raises:
        ValueError: if two do not.
    """
    found = removal.graph.trace
    if max_bytes is None:
        return lanes(batches, found), None
    biggest = max(
        batches, key=lambda batch: sum(x.numel() / max(len(x), 1) for x in tensors_in(batch.inputs) if x.dim())
    )
    part = biggest.part(0, few(biggest)) if found.batched else biggest
    (inputs,) = [lane.inputs for lane in lanes([part], found)][:1]
    users = [name for name in found.values() if name not in found.tensors]
    each = most_bytes(found.graph_module, {**found.values(), **dict(zip(users, inputs, strict=True))}, last)
    samples = max((len(inputs[place]) for place in found.free), default=1)
    total = sum(max((len(batch.inputs[place]) for place in found.free), default=1) for batch in batches)
    affordable = int(max_bytes / (3 * max(each / samples, 1)))  # both models, and columns of one layer
    if affordable < min(total, 2):
        raise ValueError(
            f"`max_bytes` must hold two examples at least, got {max_bytes:,} where one takes about {3 * each // samples:,}; give more."
        )
    every = max(1, math.ceil(total / affordable))
    return lanes(batches, found, every), (math.ceil(total / every), total) if every > 1 else None
