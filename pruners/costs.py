"""What a removal costs, from the axes alone, and what a built model costs, counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.fx import Node
from torch.utils.flop_counter import FlopCounterMode

from pruners.axes import Axis, count
from pruners.groups import AxisGraph
from pruners.tracing import arguments, evaluating

Counts = Mapping[Axis, int]
Product = tuple[int, tuple[Axis, ...]]  # a constant times the sizes of some axes


def count_macs(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """Multiply-accumulates of one forward pass on the example: half the flops that torch counts.

    Differs: torch counts nothing for its fused attention on CPU, and nothing for a whole attention layer that takes its
    fast path; here both count as the products that they fuse.
    """
    fused = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
    constants = {name: p.detach() for name, p in model.named_parameters()}  # the counter hooks what requires gradients
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with evaluating(model), torch.no_grad(), FlopCounterMode(display=False, custom_mapping=fused) as counter:
            functional_call(model, constants, args, dict(kwargs))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    return counter.get_total_flops() // 2


def count_params(model: nn.Module) -> int:
    """Entries of all parameters, shared ones once."""
    return sum(p.numel() for p in model.parameters())


def count_weight_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers, shared ones once."""
    buffers = {id(b): b for b in model.buffers()}.values()
    return sum(t.numel() * t.element_size() for t in (*model.parameters(), *buffers))


class CostModel:
    """Costs as sums of products of axis sizes: exact, and cheap enough to be asked thousands of times.

    Args:
        graph: the traced model with its axes.
        model: the model, for what it holds beyond the graph (heads that only training uses).
    """

    def __init__(self, graph: AxisGraph, model: nn.Module) -> None:
        self.macs_terms = [term for node in graph.trace.nodes for term in _macs(graph, node)]
        tensors = _distinct(graph)
        self.params_terms = [
            (1, tuple(graph.tensors[name])) for name, t in tensors.items() if isinstance(t, nn.Parameter)
        ]
        self.bytes_terms = [(t.element_size(), tuple(graph.tensors[name])) for name, t in tensors.items()]
        self.copies = graph.trace.copies
        self.extra_params = count_params(model) - _total(self.params_terms, {})
        self.extra_bytes = count_weight_bytes(model) - _total(self.bytes_terms, {})

    def macs(self, counts: Counts) -> int:
        """Multiply-accumulates on the example inputs when each axis keeps `counts[axis]` indices."""
        return _total(self.macs_terms, counts) // self.copies

    def params(self, counts: Counts) -> int:
        """Entries of all parameters."""
        return _total(self.params_terms, counts) + self.extra_params

    def weight_bytes(self, counts: Counts) -> int:
        """Bytes of all parameters and buffers."""
        return _total(self.bytes_terms, counts) + self.extra_bytes

    def of(self, target: str) -> Callable[[Counts], int]:
        """The cost function called `target`."""
        return {"macs": self.macs, "params": self.params, "weight_bytes": self.weight_bytes}[target]


def _attention_flops(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    """Flops of attention, from shapes (B, H, L, E), (B, H, S, E) and (B, H, S, V)."""
    batch, heads, length, width = query
    return 2 * batch * heads * length * key[-2] * (width + value[-1])


def _total(terms: list[Product], counts: Counts) -> int:
    total = 0
    for constant, axes in terms:
        for axis in axes:
            constant *= count(axis, counts)
        total += constant
    return total


def _distinct(graph: AxisGraph) -> dict[str, torch.Tensor]:
    """Tensors of the model in the graph, each once however many names it has."""
    found: dict[int, tuple[str, torch.Tensor]] = {}
    for name in graph.tensors:
        if name not in graph.trace.constants:
            tensor = graph.trace.tensor(name)
            found.setdefault(id(tensor), (name, tensor))
    return dict(found.values())


def _macs(graph: AxisGraph, node: Node) -> list[Product]:
    """Terms of one operator, as torch's flop counter counts it; none for operators that it does not count."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return []
    name = node.target._schema.name.split("::")[1]
    out = tuple(graph.dims(node))
    a = arguments(node)
    if name.startswith("conv"):
        weight = graph.dims(a["weight"])
        if "transpose" in name:
            return [(1, (*graph.dims(a["input"]), *weight[1:]))]
        return [(1, (*out, *weight[1:]))]
    if name == "linear":
        return [(1, (*out, graph.dims(a["input"])[-1]))]
    if name in ("mm", "bmm", "matmul", "addmm", "baddbmm"):
        operands = [value for value in a.values() if isinstance(value, Node)][-2:]
        return [(1, (*out, graph.dims(operands[0])[-1]))]
    if name == "einsum" and len(a["tensors"]) == 2:
        inputs, _, output = a["equation"].replace(" ", "").partition("->")
        letters: dict[str, Axis] = {}
        for term, value in zip(inputs.split(","), a["tensors"], strict=True):
            letters |= {
                c: axis for c, axis in zip(term[::-1], graph.dims(value)[::-1], strict=False) if c not in output
            }
        letters.pop(".", None)
        return [(1, (*out, *letters.values()))]
    if name == "scaled_dot_product_attention":
        query, key = graph.dims(a["query"]), graph.dims(a["key"])
        return [(1, (*out[:-1], query[-1], key[-2])), (1, (*out, key[-2]))]
    return []
