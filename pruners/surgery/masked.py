"""Removing equals masking: the smaller model against the full one with the removed channels silenced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from torch import fx, nn
from torch.fx import Node

from pruners.operators import Axis, is_random, leaves, operator, owner, seeded, several, tensors_in
from pruners.surgery.rewrite import GraphModel, Removal
from pruners.tracing import Runner, Trace
from pruners.untouched import untouched
from search_spaces.core import first_line

VANISHED = 1e-30  # what is smaller counts as zero


@dataclass(frozen=True)
class Comparison:
    """How far the smaller model is from the masked one.

    Attributes:
        outputs: largest difference of an output, relative to the largest value of that output.
        inside: the same over every intermediate tensor, so that nothing hides behind a head that outputs zeros.
        where: operator and module of the first tensor beyond the tolerance, "" if there is none.
        axes: elementary axes with removed indices in that tensor.
        reference: what the masked model returns; the rewritten one where the model draws random numbers, in shapes that the
            removal may change.
    """

    outputs: float
    inside: float
    where: str = ""
    axes: tuple[Axis, ...] = ()
    reference: tuple[torch.Tensor, ...] = ()


class Masked(Runner):
    """Runs the full graph with every removed index silenced (zero) wherever it occurs.

    An operator that takes statistics over an axis with removed indices gets only the indices that stay.

    Args:
        removal: what stays; with nothing removed the traced model runs as it is.
    """

    def __init__(self, removal: Removal) -> None:
        super().__init__(removal.graph.trace.graph_module)
        self.removal = removal

    def run_node(self, node: Node) -> Any:
        """Run one operator and silence its result."""
        if node.op == "output":
            return super().run_node(node)
        if node.op == "call_function" and self._loses_statistics(node):
            return self._on_what_stays(node)
        result = super().run_node(node)
        if node.op == "placeholder" and all(_is_weight_of(user, node) for user in node.users):
            return result  # what it reads is silent already, what it writes will be
        return self.each(node, result, self.removal.silence)

    def each(self, node: Node, result: Any, change: Callable[[torch.Tensor, list[Axis]], torch.Tensor]) -> Any:
        """Apply `change` to every tensor of a result with its axes."""
        if isinstance(result, torch.Tensor):
            return change(result, self.removal.graph.dims(node))
        if isinstance(result, (tuple, list)):
            pairs = zip(result, self.removal.graph.results(node), strict=False)
            return [change(r, dims) if isinstance(r, torch.Tensor) else r for r, dims in pairs]
        return result

    def _loses_statistics(self, node: Node) -> bool:
        graph = self.removal.graph
        axes = (axis for source in node.all_input_nodes for dims in graph.results(source) for axis in dims)
        return graph.is_statistic(node) and any(map(self.removal.touched, axes))

    def _on_what_stays(self, node: Node) -> Any:
        """Run an operator on the sliced inputs and put the result back among zeros."""

        def load(source: Node) -> Any:
            value = self.env[source]
            return (
                self.removal.slice(value, self.removal.graph.dims(source)) if isinstance(value, torch.Tensor) else value
            )

        target, named = self.removal.call(node)
        values = fx.node.map_arg(named, load)
        schema = target._schema.arguments
        args = tuple(values[argument.name] for argument in schema if not argument.kwarg_only)
        kwargs = {argument.name: values[argument.name] for argument in schema if argument.kwarg_only}
        return self.each(node, self.call_function(target, args, kwargs), self.removal.among_zeros)


def compare(removal: Removal, model: GraphModel, tolerance: float) -> Comparison:
    """Run the masked graph and the rewritten one side by side on the example inputs, tensor by tensor.

    What random operators draw for the masked graph is handed to the rewritten one.

    Where they differ in float32, say in a cosine of nearly zero vectors, the comparison is repeated in float64:
    rounding vanishes, mistakes stay.

    Args:
        removal: what stays.
        model: the rewritten graph of that removal.
        tolerance: relative difference beyond which a tensor is named.
    """
    found = _compared(removal, model, tolerance, precise=False)
    return _compared(removal, model, tolerance, precise=True) if found.where and isfinite(found.outputs) else found


def _compared(removal: Removal, model: GraphModel, tolerance: float, precise: bool) -> Comparison:
    trace = removal.graph.trace
    values = trace.values()
    inputs = [value for name, value in values.items() if name not in trace.tensors]
    masked, smaller = Masked(removal), Runner(model)
    masked.precise = smaller.precise = precise
    theirs = smaller.steps(inputs)
    names = {node.name for node in model.graph.nodes}
    outputs = inside = 0.0
    reference: list[torch.Tensor] = []
    with torch.no_grad(), seeded():
        for node, value in masked.steps(list(values.values())):
            if node.op == "output" or node.name not in names:
                if node.op == "output":
                    reference = tensors_in(trace.returned(value))
                    outputs = difference(tensors_in(next(v for n, v in theirs if n.op == "output")), reference)
                continue
            try:
                other, result = next((n, v) for n, v in theirs if n.name == node.name)
            except Exception as error:
                return _found(removal, node, float("inf"), first_line(error))
            if is_random(node):
                smaller.env[other] = masked.each(node, value, removal.slice)
                continue
            comparable = node.op == "call_function" and "empty" not in node.name
            if comparable and isinstance(value, torch.Tensor) and isinstance(result, torch.Tensor):
                found = difference([result], [removal.slice(value, removal.graph.dims(node))])
                if found > tolerance:
                    return _found(removal, node, found, f"differs by {found:.2g}")
                inside = max(inside, found)
    if any(map(is_random, trace.nodes)):
        reference = run_example(model, trace)
    return Comparison(outputs, inside, "the outputs" if outputs > tolerance else "", reference=tuple(reference))


def needs_copies(removal: Removal) -> bool:
    """Whether a batch of one is checked as two copies.

    It is where the graph would squeeze the batch away, or merges it with a dimension that loses indices, as masks have
    the traced size.
    """
    return removal.graph.trace.copies > 1 and any(
        operator(node).startswith("aten.squeeze.") or _merges_batch(removal, node)
        for node in removal.graph.trace.nodes
        if node.op == "call_function"
    )


def _merges_batch(removal: Removal, node: Node) -> bool:
    return any(
        isinstance(value.shape[dim], torch.SymInt)
        for value, dims in zip(several(node.meta.get("val")), removal.graph.results(node), strict=False)
        if isinstance(value, torch.Tensor)
        for cut in removal.cuts(dims)
        for dim in (cut.dim, *cut.across)
    )


def run_example(model: nn.Module, trace: Trace) -> list[torch.Tensor]:
    """The tensors that a model returns on the example inputs in eval mode; the same random numbers are drawn every time.

    The model is left as it was, whatever it writes to itself.
    """
    with untouched(model, trace.written), torch.no_grad(), seeded():
        return tensors_in(model(*trace.args, **trace.kwargs))


def run_traced(removal: Removal) -> list[torch.Tensor]:
    """The tensors that the masked graph returns on the example inputs, random numbers as in `run_example`."""
    with torch.no_grad(), seeded():
        trace = removal.graph.trace
        *_, (_, value) = Masked(removal).steps(list(trace.values().values()))
    return tensors_in(trace.returned(value))


def difference(results: list[torch.Tensor], references: list[torch.Tensor]) -> float:
    """Largest difference relative to the largest reference value; infinite where shapes or finiteness differ."""
    if [x.shape for x in results] != [x.shape for x in references]:
        return float("inf")
    return max((_difference(x, y) for x, y in zip(results, references, strict=True) if x.numel()), default=0.0)


def _difference(x: torch.Tensor, y: torch.Tensor) -> float:
    if x.is_complex() and y.is_complex():
        x, y = torch.view_as_real(x), torch.view_as_real(y)
    if not (x.is_floating_point() and y.is_floating_point()):
        return 0.0 if torch.equal(x, y) else float("inf")
    apart, largest = float((x - y).abs().max()), float(y.abs().max())
    if not (isfinite(apart) and isfinite(largest)):
        if not torch.equal(torch.isfinite(x), torch.isfinite(y)):
            return float("inf")
        apart = float((x - y).abs().nan_to_num(posinf=0.0).max())  # infinities of one sign cancel to NaN
        largest = float(y.nan_to_num(posinf=0.0, neginf=0.0).abs().max())
    return apart / max(largest, VANISHED)


def _is_weight_of(layer: Node, weight: Node) -> bool:
    return operator(layer).startswith(("aten.conv", "aten.linear.")) and layer.args[0] is not weight


def _found(removal: Removal, node: Node, found: float, what: str) -> Comparison:
    sources = (node, *node.all_input_nodes)
    every = (axis for source in sources for dims in removal.graph.results(source) for axis in dims)
    axes = [leaf for axis in every for leaf in leaves(axis)]
    lost = tuple(dict.fromkeys(leaf for leaf in axes if removal.touched(leaf)))
    return Comparison(found, found, f"{operator(node)} of module {owner(node)!r} ({what})", lost)
