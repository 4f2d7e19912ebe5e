"""Heads that choose how the whole image is pooled."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from search_spaces.core import Block, Settings, Shape
from search_spaces.layers.elastic import ElasticLayerNorm, ElasticLinear
from search_spaces.layers.elastic_block import elastic_block
from search_spaces.pooling import GLOBAL_POOLINGS, LEAST, SimPool, make_global_pooling

HEAD_OPERATORS = tuple(name for name, pooling in GLOBAL_POOLINGS.items() if pooling.in_heads)
USUAL = ("avg", "gem", "simpool")


class ElasticHead(nn.Module):
    """Global pooling by the chosen operator, then a classifier; local choice: (operator,).

    Args:
        operators: of `HEAD_OPERATORS`; each has weights of its own.
        channels: of the widest input.
        classifier: (N, channels of the input) -> logits.
    """

    def __init__(self, operators: Sequence[str], channels: int, classifier: nn.Module) -> None:
        super().__init__()
        self.poolings = nn.ModuleDict({operator: _elastic(operator, channels) for operator in operators})
        self.classifier = classifier

    def choose_(self, local: tuple[str], in_shape: Shape) -> None:
        (self.operator,) = local
        for layer in self.poolings[self.operator].modules():
            if isinstance(layer, ElasticLinear):
                layer.choose_(in_shape[0])

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, classes)."""
        return self.classifier(self.poolings[self.operator](x))


def head_block(
    settings: Settings, operators: Sequence[str], widths: Sequence[int], layers: Callable[[], Sequence[nn.Module]]
) -> Block:
    """The last block of a network: average pooling, or the choice `head.pooling` if `head` is switched on.

    Args:
        settings: collects the choice.
        operators: what it chooses from, see `check_head_operators`.
        widths: of the inputs that there are.
        layers: makes what follows the pooling, from (N, C) to logits.

    Raises:
        ValueError: a width that the groups of an operator do not divide.
    """
    pooling = settings.add("head", "head.pooling", operators, None)
    if pooling.column is None:
        return elastic_block("head", (), lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), *layers()))
    for width in widths:
        for operator in operators:
            with torch.device("meta"):
                make_global_pooling(operator, width)  # raises where groups of channels do not fit
    return elastic_block(
        "head", (pooling.column,), lambda: ElasticHead(operators, max(widths), nn.Sequential(*layers()))
    )


def check_head_operators(operators: str | Sequence[str] | None) -> tuple[str, ...]:
    """The operators that the choice `head.pooling` has, in the given order; avg, gem and simpool by default.

    Raises:
        ValueError: an operator that is not of `HEAD_OPERATORS`, none at all, or one twice.
    """
    found = (operators,) if isinstance(operators, str) else tuple(USUAL if operators is None else operators)
    if not found or not set(found) <= set(HEAD_OPERATORS) or len(set(found)) != len(found):
        raise ValueError(
            f"`head_operators` must be among {', '.join(HEAD_OPERATORS)}, at least one and none twice; got {list(found)}"
        )
    return found


def _elastic(operator: str, channels: int) -> nn.Module:
    """The operator for any number of channels up to `channels`."""
    pooling = make_global_pooling(operator, channels)
    if isinstance(pooling, SimPool):
        pooling.norm = ElasticLayerNorm(channels, LEAST)
        for name in ("query", "key"):
            pooling.set_submodule(name, ElasticLinear(channels, channels, bias=False))
    return pooling
