"""Channels in order of importance, so that the narrow forms of a layer are made of the best channels of the widest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from search_spaces.core import Supernet
from search_spaces.layers.elastic import Elastic, ElasticBatchNorm, ElasticLinear
from search_spaces.layers.elastic_conv import ElasticConv


@runtime_checkable
class Sortable(Protocol):
    """A module that can sort its inner channels."""

    def sort_channels_(self) -> None:
        """Sort the inner channels without changing what the module computes in its largest form."""
        ...


def sort_supernet_(supernet: Supernet) -> None:
    """Sort the inner channels of every block that can; the largest subnet computes the same as before, up to rounding.

    Do it once before a phase of training that opens widths. What an optimiser remembers of the weights, such as momentum, is not
    sorted: start with a new one.

    Reference: Cai et al., "Once-for-All: Train One Network and Specialize it for Efficient Deployment", ICLR 2020, arXiv:1908.09791.
    """
    for module in supernet.modules():
        if isinstance(module, Sortable):
            module.sort_channels_()


def sort_channels_(
    by: ElasticConv | ElasticLinear, outputs: Sequence[Elastic], inputs: Sequence[ElasticConv | ElasticLinear] = ()
) -> None:
    """Sort the channels that enter `by`, by the L1 norm of the weights that read them, the largest first.

    Args:
        by: the layer that reads the channels; its largest form must be dense.
        outputs: the layers that make the channels: convolutions (depthwise ones too) and normalisations between them and `by`.
        inputs: other layers that read them, also dense.

    Raises:
        ValueError: a layer that reads the channels is grouped in its largest form or has several sources, so inputs cannot change
            places.
    """
    for layer in (by, *inputs):
        if layer.sources.several:
            raise ValueError(
                f"the inputs of a layer can be sorted only if they are one source, got {len(layer.sources.largest)} sources; do not "
                "sort these channels"
            )
        if isinstance(layer, ElasticConv) and layer.weight.shape[1] < layer.in_channels:
            raise ValueError(
                f"the inputs of a convolution can be sorted only if its largest form is dense, got groups of at most "
                f"{layer.weight.shape[1]} of {layer.in_channels} inputs; do not sort these channels"
            )
    with torch.no_grad():
        order = by.weight.abs().transpose(0, 1).flatten(1).sum(1).argsort(descending=True, stable=True)
        for layer in (by, *inputs):
            layer.weight.copy_(layer.weight[:, order])
        for made in outputs:
            for tensor in _per_output(made):
                tensor.copy_(tensor[order])


def _per_output(layer: Elastic) -> list[Tensor]:
    tensors = [layer.weight, layer.bias]
    if isinstance(layer, ElasticBatchNorm):
        tensors += [layer.running_mean, layer.running_var]
    return [tensor for tensor in tensors if tensor is not None]
