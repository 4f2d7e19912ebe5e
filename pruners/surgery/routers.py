"""Experts that are left out in the module itself: routers that no longer choose them, and common tensors without their rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn

from pruners.surgery.blocks import Block
from pruners.surgery.experts import experts
from pruners.surgery.module import is_configuration, mend_layer
from pruners.surgery.rewrite import GraphModel


class Router(nn.Linear):
    """A linear layer with minus infinity in place of some results: the logits of experts that are left out.

    Args:
        layer: what it takes its weight and bias from; they keep their shapes.
        entries: of the result that are minus infinity.
    """

    def __init__(self, layer: nn.Linear, entries: Sequence[int]) -> None:
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        gone = torch.zeros(layer.out_features, dtype=torch.bool)
        gone[list(entries)] = True
        self.register_buffer("left_out", gone.to(layer.weight.device), persistent=False)

    def forward(self, input: Tensor) -> Tensor:  # named as torch names it
        """The logits, (..., experts)."""
        return super().forward(input).masked_fill(self.get_buffer("left_out"), -torch.inf)

    def extra_repr(self) -> str:
        """Its sizes, and which experts are left out."""
        return f"{super().extra_repr()}, left_out={self.get_buffer('left_out').nonzero().flatten().tolist()}"


def leave_out_entries(module: nn.Module, name: str, entries: Sequence[int]) -> None:
    """Let a router of a module no longer choose some experts.

    Raises:
        ValueError: if it is no plain linear layer.
    """
    layer = module.get_submodule(name)
    if type(layer) not in (nn.Linear, Router):
        raise ValueError(f"router {name!r} must be a linear layer to choose fewer experts, got {type(layer).__name__}")
    assert isinstance(layer, nn.Linear)
    if isinstance(layer, Router):  # of an earlier prune
        entries = [*entries, *layer.get_buffer("left_out").nonzero().flatten().tolist()]
    module.set_submodule(name, Router(layer, entries).eval())


def leave_out_rows(module: nn.Module, blocks: Sequence[Block], graph_model: GraphModel) -> None:
    """Give experts in common tensors those of the graph, which lacks tensors that are left out as a whole."""
    left = dict(graph_model.named_parameters())
    numbers = set()
    for names, before in {(b.rows, experts(b.route.logits)) for b in blocks if b.rows and b.route is not None}:
        if all(name in left for name in names):
            _with_rows(module, {name: left[name] for name in names}, before)
            numbers.add((before, len(left[names[0]])))
    if len(numbers) == 1:
        _lower_configurations(module, *numbers.pop())


def _with_rows(module: nn.Module, tensors: Mapping[str, Tensor], before: int) -> None:
    """Give experts in common tensors, and their router, fewer rows, and lower what the modules around say of their number.

    Args:
        module: changed in place.
        tensors: new parameters by name.
        before: how many experts there were.
    """
    after = len(next(iter(tensors.values())))
    holders = [name.split(".")[:-1] for name in tensors]
    common = [names[0] for names in takewhile(lambda names: len(set(names)) == 1, zip(*holders, strict=False))]
    for name, tensor in tensors.items():
        holder, _, key = name.rpartition(".")
        setattr(module.get_submodule(holder), key, tensor)
    for part in module.get_submodule(".".join(common)).modules():
        mend_layer(part)
        _lower(part, before, after)


def _lower_configurations(module: nn.Module, before: int, after: int) -> None:
    """Lower what the whole says of the number of experts, where no part with parameters has as many as before."""
    parts = list(module.modules())
    if not any(_numbers(part, before) for part in parts if part._parameters):
        configs = [part.config for part in parts if is_configuration(getattr(part, "config", None))]
        for holder in (*parts, *configs):
            _lower(holder, before, after)


def _numbers(holder: Any, value: int) -> list[str]:
    """The attributes that may say how many experts there are."""
    held = {key for key, x in vars(holder).items() if type(x) is int and x == value}
    return [key for key in held if "experts" in key and "per" not in key.split("_")]


def _lower(holder: Any, before: int, after: int) -> None:
    for key in _numbers(holder, before):
        setattr(holder, key, after)
