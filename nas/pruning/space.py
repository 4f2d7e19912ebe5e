"""A trained model as a search space for `nas search`: `pruned:module:function`, and what scores its architectures."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nas.pruning.weights import load_model
from nas.runtime import shape
from pruners import PrunableSpace
from pruners.config import WidthsConfig
from pruners.operators import evaluating
from search_spaces import Architecture, SearchSpace
from search_spaces.core import Local, Network, Value, keywords

PRUNED = "pruned"
"""What the name of a trained model's space starts with, and the space of one that is given as an object."""
PREFIX = f"{PRUNED}:"
OPTIONS = ("input", "weights", "arguments")


@dataclass(frozen=True, eq=False)
class PrunedNetwork(Network):
    """The smaller models inside a trained one, where other spaces have a chain of blocks.

    Args:
        source: what builds them, each with its part of the trained weights.
    """

    source: PrunableSpace

    def locals(self, columns: Mapping[str, Value]) -> tuple[Local, ...]:
        """The choices that exist, with their values."""
        return tuple((name, value) for name, value in columns.items() if value is not None)

    def build(self, locals: Sequence[Hashable], seed: int = 0) -> nn.Module:
        """The smaller model of these choices, proved against the masked one; nothing about it is random."""
        arch = self.source.space.architecture(dict(locals))  # type: ignore[arg-type]
        return self.source.build(arch, every_size=False).model


def searchable(prunable: PrunableSpace) -> SearchSpace:
    """The space of a prunable image classifier, with what `nas.search` needs to build its networks.

    Raises:
        ValueError: the model does not take one tensor of images, or does not return logits (images, classes).
    """
    model, args = prunable.model, prunable.args
    with evaluating(model), torch.no_grad():
        logits = model(*args, **prunable.kwargs)
    images = args[0] if len(args) == 1 and not prunable.kwargs else None
    if (
        not isinstance(images, torch.Tensor)
        or images.dim() != 4
        or not isinstance(logits, torch.Tensor)
        or logits.dim() != 2
    ):
        raise ValueError("a model to search must take one batch of images (N, C, H, W) and return logits (N, classes)")
    if not prunable.graph.trace.batched:
        raise ValueError("a model to search must take batches of any size, got one that is traced for one size only")
    return replace(prunable.space, network=PrunedNetwork((), tuple(images.shape[1:]), logits.shape[1], prunable))


def uniform(network: PrunedNetwork) -> list[Architecture]:
    """Where a search starts: the trained model, and the same share of every group for each smaller step."""
    return list(dict.fromkeys(network.source.uniform(step) for step in range(network.source.steps, 0, -1)))


def pruned_space(
    name: str,
    *,
    input: str,
    weights: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    **settings: Any,
) -> SearchSpace:
    """The search space of the trained model that a function returns.

    Args:
        name: `pruned:module:function`.
        input: shape of an example input, batch first, such as 1x3x32x32.
        weights: a weights file, see `nas.pruning.load_model`.
        arguments: keyword arguments of the function.
        settings: see `pruners.PrunableSpace`; the criterion must do without data.

    Raises:
        ValueError: an argument does not fit; the message says which.
    """
    sizes = shape(input)
    assert sizes is not None
    model = load_model(name.removeprefix(PREFIX), arguments or {}, None if weights is None else Path(weights))
    example = torch.randn(*sizes, generator=torch.Generator().manual_seed(0))
    return searchable(PrunableSpace(model, example, name=name, **settings))


def known_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `pruned_space`, once none is unknown."""
    known = [*OPTIONS, *keywords(WidthsConfig)]
    unknown = [option for option in options if option not in known]
    if unknown or "input" not in options:
        raise ValueError(
            f"options of {name!r} must be among {', '.join(known)}, with `input`; got {', '.join(options)}"
        )
    return dict(options)
