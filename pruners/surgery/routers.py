"""Routers in the module itself that no longer choose some of their experts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


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
