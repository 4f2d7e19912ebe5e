"""Which parameters weight decay acts on."""

from __future__ import annotations

from torch import nn

from search_spaces.elastic import ElasticConv2d
from search_spaces.pooling.windows import WindowPool


def decaying(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The parameters of a network that weight decay draws to zero, and those that it spares.

    Spared are parameters of fewer than two dimensions, which are biases and what normalisations scale and shift by, the transforms
    of smaller kernels, which should stay near the identity, and what local pooling learns.

    Reference: Cai et al., "Once-for-All: Train One Network and Specialize it for Efficient Deployment", ICLR 2020, arXiv:1908.09791,
    for biases and normalisations; Lee, Gallagher, Tu, "Generalizing Pooling Functions in Convolutional Neural Networks", AISTATS 2016,
    arXiv:1509.08985, for the gates of pooling.
    Differs: the filters, shares and exponents of pooling are spared as its gates are.
    """
    spared = {parameter for parameter in module.parameters() if parameter.ndim < 2}
    for layer in module.modules():
        if isinstance(layer, ElasticConv2d):
            spared |= set(layer.transforms.values())
        elif isinstance(layer, WindowPool):
            spared |= set(layer.parameters())
    every = list(module.parameters())
    return [p for p in every if p not in spared], [p for p in every if p in spared]
