"""Constants that a forward computes from a size, such as 1/sqrt(d) of a head: another size gives another, made up for in a layer.

What stays of a head is still to be divided by the root of its whole width. A module that works its scale out divides by the
root of the smaller width. Then the layer that makes the queries is multiplied by the ratio.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Field
from torch import nn
from torch.fx import Node

from pruners.operators import Axis, arguments, owner
from pruners.surgery.rewrite import GraphModel, Removal, rewrite
from pruners.tracing import Runner

POWERS = (-0.5, 0.5, -0.25, 0.25, -1.0, 1.0)  # of a size, that constants are taken to be
CLOSE = 1e-6  # relative
Index = Annotated[int, Field(ge=0)]

SCALED = ("mul", "div")  # by a number
MOVES = (
    "view", "reshape", "_unsafe_view", "flatten", "unflatten", "transpose", "permute", "movedim", "swapaxes", "t", "mT",
    "numpy_T", "contiguous", "clone", "alias", "expand", "slice", "select", "narrow", "squeeze", "unsqueeze", "split",
    "split_with_sizes", "chunk", "unbind", "getitem", "neg", "repeat", "repeat_interleave", "to", "_to_copy", "relu", "matmul",
    "bmm", "mm", "roll", "flip", "detach",
)  # fmt: skip
"""Operators that multiply what they return where their first operand is multiplied."""
JOINS = ("add", "sub", "cat")  # if all that they join is multiplied


@dataclass(frozen=True)
class Factors:
    """What the indices of one dimension of a tensor are multiplied by, in runs.

    Attributes:
        dim: the dimension.
        counts: how many indices each run has.
        factors: one for each run.
    """

    dim: int
    counts: Sequence[Index]
    factors: Sequence[float]

    def of(self, tensor: torch.Tensor, inverse: bool = False) -> torch.Tensor:
        """A tensor multiplied, or divided where `inverse` is set."""
        values = torch.tensor(self.factors, dtype=torch.float64)
        every = (1 / values if inverse else values).repeat_interleave(torch.tensor(self.counts))
        shape = [-1 if d == self.dim % tensor.dim() else 1 for d in range(tensor.dim())]
        wide = torch.promote_types(tensor.dtype, torch.float32)  # half precision rounds once
        return (tensor.to(wide) * every.to(tensor.device, wide).view(shape)).to(tensor.dtype)


Folded = Mapping[str, Factors]  # by the name of a parameter


class Scale(NamedTuple):
    """A constant that equals a power of a size that changes.

    Attributes:
        node: the operator that multiplies by it.
        x: what it multiplies.
        layer: whose outputs end there.
        old: the constant.
        new: the same power of the smaller size.
        divides: whether the operator divides by it.
    """

    node: Node
    x: Node
    layer: Node
    old: float
    new: float
    divides: bool

    @property
    def factor(self) -> float:
        """What the outputs of the layer must be multiplied by where the constant is the new one."""
        return self.new / self.old if self.divides else self.old / self.new


def scales(removal: Removal) -> list[Scale]:
    """The constants of a graph that a forward may have computed from a size that changes."""
    found = (_scale(removal, node) for node in removal.graph.trace.nodes if node.op == "call_function")
    return [scale for scale in found if scale is not None]


def fold(removal: Removal, some: Collection[Scale]) -> tuple[GraphModel, Folded]:
    """The rewritten graph with other constants and the layers before them multiplied, which computes the same.

    Returns:
        The graph, and what its parameters were multiplied by.
    """
    graph_model = rewrite(removal)
    folded: dict[str, Factors] = {}
    for scale, mask in zip(some, _features(removal, graph_model, some), strict=True):
        every = torch.where(mask, scale.factor, 1.0).tolist()
        for name, dim in _parameters(removal, scale.layer):
            if name not in folded:  # a layer that runs several times is multiplied once
                runs = [(len(list(run)), value) for value, run in groupby(every)]
                folded[name] = Factors(dim, [n for n, _ in runs], [value for _, value in runs])
    multiply_(graph_model, folded)
    by_name = {node.name: node for node in graph_model.graph.nodes}
    for scale in some:
        _replace(by_name[scale.node.name], scale)
    graph_model.recompile()
    return graph_model, folded


def multiply_(model: nn.Module, folded: Folded) -> None:
    """Multiply parameters of a model in place; those that it does not have any more are left out."""
    own = dict(model.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name in own.keys() & folded.keys():
            own[name].copy_(folded[name].of(own[name]))


def multiplied(state: Mapping[str, torch.Tensor], folded: Folded, inverse: bool = False) -> dict[str, torch.Tensor]:
    """The tensors of a model by name, some of them multiplied, or divided."""
    return {name: folded[name].of(x, inverse) if name in folded else x for name, x in state.items()}


def float_attributes(model: nn.Module, some: Collection[Scale]) -> dict[str, float]:
    """Attributes of modules that hold such a constant, and what it becomes."""
    found, parts = {}, dict(model.named_modules())
    for scale in some:
        name = owner(scale.node)
        for key, value in vars(parts[name]).items() if name in parts else ():
            for new, old in ((scale.new, scale.old), (1 / scale.new, 1 / scale.old)):
                if type(value) is float and math.isclose(value, old, rel_tol=CLOSE):
                    found[f"{name}.{key}".lstrip(".")] = new
    return found


def _scale(removal: Removal, node: Node) -> Scale | None:
    kind, a = _kind(node), arguments(node)
    if kind == "scaled_dot_product_attention":
        x, divides = a["query"], False
        axes = [removal.graph.dims(x)[-1]]
        old = a["scale"] or axes[0].size ** -0.5
    elif kind in SCALED and isinstance(a.get("other"), (int, float)) and a["other"] and not a.get("rounding_mode"):
        x, old, divides = a["self"], a["other"], kind == "div"
        axes = _axes_behind(removal, x)
    else:
        return None
    layer = _layer(removal, x, {})
    new = next((new for axis in axes if removal.touched(axis) for new in _powers(axis, removal, old)), None)
    return None if new is None or layer is None else Scale(node, x, layer, old, new, divides)


def _powers(axis: Axis, removal: Removal, constant: float) -> Iterator[float]:
    """The powers of the smaller size that the constant is of the whole size."""
    for power in POWERS:
        if constant > 0 and math.isclose(constant, axis.size**power, rel_tol=CLOSE):
            yield removal.size(axis) ** power


def _axes_behind(removal: Removal, x: Node) -> list[Axis]:
    """The axes of a tensor, and those that were summed over in a product just before."""
    axes = list(removal.graph.dims(x))
    while _kind(x) in (*MOVES, *JOINS, *SCALED):
        first = next((value for value in arguments(x).values() if isinstance(value, Node)), None)
        if first is None or _kind(x) in JOINS:
            break
        axes += removal.graph.dims(first)[-1:]
        x = first
    return axes


def _kind(node: Node) -> str:
    if node.op != "call_function":
        return ""
    if isinstance(node.target, torch._ops.OpOverload):
        return node.target._schema.name.split("::")[1]
    return getattr(node.target, "__name__", "")


def _layer(removal: Removal, x: Any, known: dict[Node, Node | None]) -> Node | None:
    """The layer that everything in a tensor is a multiple of."""
    if not isinstance(x, Node) or x.op != "call_function":
        return None
    if x not in known:
        known[x] = None
        known[x] = _behind(removal, x, known)
    return known[x]


def _behind(removal: Removal, x: Node, known: dict[Node, Node | None]) -> Node | None:
    kind = _kind(x)
    if any(True for _ in _parameters(removal, x)):
        return x
    if kind in JOINS:
        parts = [_layer(removal, part, known) for part in x.all_input_nodes]
        return parts[0] if parts and all(part is parts[0] for part in parts) else None
    if kind in SCALED:
        parts = [_layer(removal, part, known) for part in x.all_input_nodes[: 2 if kind == "mul" else 1]]
        found = [part for part in parts if part is not None]
        return found[0] if len(found) == 1 else None
    return _layer(removal, x.all_input_nodes[0], known) if kind in MOVES and x.all_input_nodes else None


def _parameters(removal: Removal, layer: Node) -> Iterator[tuple[str, int]]:
    """The parameters that make the outputs of a layer a multiple where they are one, and their dimension of outputs."""
    kind, a = _kind(layer), arguments(layer)
    if kind in ("linear", "conv1d", "conv2d", "layer_norm", "rms_norm"):
        pairs = [(a["weight"], 0), (a.get("bias"), 0)]
    elif kind == "addmm":
        pairs = [(a["mat2"], 1), (a["self"], 0)]
    elif kind == "mul" and "other" in a:  # the weight of a norm that is written out
        pairs = [(x, 0) for x in (a["self"], a["other"]) if _parameter(removal, x) and x.meta["val"].dim() == 1]
    else:
        return
    named = [(_parameter(removal, x), dim) for x, dim in pairs if isinstance(x, Node)]
    if named and all(name for name, _ in named):
        yield from ((str(name), dim) for name, dim in named)


def _parameter(removal: Removal, x: Any) -> str | None:
    trace = removal.graph.trace
    name = trace.tensors.get(x.name) if isinstance(x, Node) else None
    return name if name is not None and isinstance(trace.tensor(name), nn.Parameter) else None


class _Marked(Runner):
    """Finds which outputs of a layer end up in a tensor, by derivatives; weights count as constants."""

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        return super().get_attr(target, args, kwargs).detach()


def _features(removal: Removal, graph_model: GraphModel, some: Collection[Scale]) -> list[torch.Tensor]:
    """For each constant, which outputs of its layer it multiplies; booleans, in the smaller sizes."""
    trace = removal.graph.trace
    inputs = [value for name, value in trace.values().items() if name not in trace.tensors]
    layers = {scale.layer.name for scale in some}
    ends = {scale.x.name for scale in some}
    outputs: dict[str, torch.Tensor] = {}
    found: dict[str, torch.Tensor] = {}
    runner = _Marked(graph_model)
    with torch.enable_grad():
        for node, value in runner.steps(inputs):
            if node.name in layers:
                value = runner.env[node] = outputs[node.name] = value.detach().requires_grad_()
            if node.name in ends:
                for scale in (scale for scale in some if scale.x.name == node.name):
                    noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(0)).to(value)
                    output = outputs[scale.layer.name]
                    (slope,) = torch.autograd.grad((value * noise).sum(), output, retain_graph=True, allow_unused=True)
                    channel = 1 if _kind(scale.layer).startswith("conv") else output.dim() - 1
                    slope = torch.ones_like(output) if slope is None else slope
                    found[scale.node.name] = slope.transpose(0, channel).flatten(1).abs().sum(1) > 0
    return [found[scale.node.name] for scale in some]


def _replace(node: Node, scale: Scale) -> None:
    if _kind(node) == "scaled_dot_product_attention":
        node.kwargs = {**node.kwargs, "scale": scale.new}
    else:
        node.args = (node.args[0], scale.new)
