"""Layers whose subnets are slices of shared weights.

A layer holds the weights of its largest form. `choose_` sets the form that the next calls have; the width of the input is always that
of the tensor that comes in, so it need not be said. Narrower forms use the first channels (of each source, where there are
several), smaller kernels the centre of the largest. `extract` gives the chosen form as a plain torch layer with a copy of its weights,
which computes the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from search_spaces.layers.elastic_conv import ElasticConv, PlainConv, initialise_conv_
from search_spaces.layers.widths import Sources, checked, copied


class ElasticLinear(nn.Module):
    """Linear layer with elastic input and output widths.

    Args:
        in_features, out_features: of the largest form.
        bias: whether outputs have a bias.
        sources: the largest width of each of several inputs that are concatenated, as of `ElasticConv`. Default: one input.

    Raises:
        ValueError: sources that do not add up to `in_features`.
    """

    def __init__(
        self, in_features: int, out_features: int, *, bias: bool = True, sources: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.sources = Sources(in_features, sources)
        self.in_features, self.out_features = in_features, out_features
        whole = nn.Linear(in_features, out_features, bias)
        self.weight, self.bias = whole.weight, whole.bias
        self.choose_()

    def choose_(self, out_features: int | None = None, *, sources: Sequence[int] | None = None) -> None:
        """Set the number of outputs and the width of each source of the next calls; all of them if left out."""
        self.width = self.out_features if out_features is None else checked(out_features, self.out_features, "outputs")
        self.sources.choose_(sources)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., chosen outputs)."""
        return F.linear(x, self._slice(x.shape[-1]), None if self.bias is None else self.bias[: self.width])

    def extract(self, in_features: int) -> nn.Linear:
        """The chosen form on inputs of `in_features`."""
        layer = nn.Linear(in_features, self.width, self.bias is not None, device="meta")
        layer.weight = copied(self._slice(in_features))
        if self.bias is not None:
            layer.bias = copied(self.bias[: self.width])
        return layer

    def _slice(self, inputs: int) -> Tensor:
        """The weights of the chosen form; in one piece, because the order of a sum may depend on it."""
        return self.sources.read(self.weight[: self.width], inputs).contiguous()


class ElasticBatchNorm(_BatchNorm):
    """Batch normalisation of the channels that come in: the first ones of scale, shift and running statistics.

    Running statistics that were gathered while several subnets took turns belong to none of them; `nas.supernets.predict` gathers
    them anew for each.
    """

    plain: ClassVar[type[_BatchNorm]]

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) -> the same shape."""
        width = checked(x.shape[1], self.num_features, "channels")
        mean, variance = self.running_mean, self.running_var
        factor = 0.0
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            factor = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        return F.batch_norm(
            x,
            None if mean is None else mean[:width],
            None if variance is None else variance[:width],
            None if self.weight is None else self.weight[:width],
            None if self.bias is None else self.bias[:width],
            self.training or mean is None,
            factor,
            self.eps,
        )

    def extract(self, width: int) -> _BatchNorm:
        """The first `width` channels."""
        norm = self.plain(width, self.eps, self.momentum, self.affine, self.track_running_stats, device="meta")
        if self.affine:
            norm.weight, norm.bias = copied(self.weight[:width]), copied(self.bias[:width])
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            norm.running_mean, norm.running_var = self.running_mean[:width].clone(), self.running_var[:width].clone()
            norm.num_batches_tracked = self.num_batches_tracked.clone()
        return norm


class ElasticBatchNorm1d(ElasticBatchNorm, nn.BatchNorm1d):
    """`ElasticBatchNorm` of signals (N, C, L) or features (N, C)."""

    plain = nn.BatchNorm1d


class ElasticBatchNorm2d(ElasticBatchNorm, nn.BatchNorm2d):
    """`ElasticBatchNorm` of images (N, C, H, W)."""

    plain = nn.BatchNorm2d


class ElasticLayerNorm(nn.LayerNorm):
    """Layer normalisation of the features that come in, the last axis: their own mean and variance, the first ones of scale and shift.

    Args:
        features: of the largest form.
        eps: added to the variance.

    Reference: Liao, Karaman, Sze, "Searching for Efficient Multi-Stage Vision Transformers", 2021, arXiv:2109.00642, which masks the
    features that are left out.
    """

    def __init__(self, features: int, eps: float = 1e-5) -> None:
        super().__init__(features, eps)
        self.features = features

    def forward(self, x: Tensor) -> Tensor:
        """(..., features) -> the same shape."""
        width = checked(x.shape[-1], self.features, "features")
        return F.layer_norm(x, (width,), self.weight[:width], self.bias[:width], self.eps)

    def extract(self, width: int) -> nn.LayerNorm:
        """The first `width` features."""
        norm = nn.LayerNorm(width, self.eps, device="meta")
        norm.weight, norm.bias = copied(self.weight[:width]), copied(self.bias[:width])
        return norm


Elastic = ElasticConv | ElasticLinear | ElasticBatchNorm | ElasticLayerNorm


def initialise_(layer: nn.Module) -> None:
    """Draw new weights: a convolution's for ReLU (He, fan out) with biases of zero, any other layer's as torch does."""
    if isinstance(layer, (ElasticConv, PlainConv)):
        initialise_conv_(layer)
    else:
        layer.reset_parameters()  # type: ignore[operator]
