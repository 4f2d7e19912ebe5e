"""Layers whose subnets are slices of shared weights.

A layer holds the weights of its largest form. `choose_` sets the form that the next calls have; the width of the input is always that
of the tensor that comes in, so it need not be said. Narrower forms use the first channels, smaller kernels the centre of the largest.
`extract` gives the chosen form as a plain torch layer with a copy of its weights, which computes the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.layers.grouping import DENSE, Grouping


class ElasticConv2d(nn.Module):
    """Convolution with elastic input and output widths, kernel, groups and stride; the padding keeps the resolution.

    The shared weight has shape (out_channels, group_size, kernel_size, kernel_size), and its element [p, q mod group_size] joins
    input q with output p, in every form in which the two are in one group. So with `group_size = in_channels` a grouped form is the
    dense one with the weights between groups left out; and where inputs and outputs are as many and groups have a constant size, a
    narrower form is the first groups of a wider one.

    Args:
        in_channels, out_channels, kernel_size: of the largest form; kernels are odd.
        group_size: the largest number of inputs that one output reads in any form, 1 for a depthwise convolution. Default: all.
        bias: whether outputs have a bias.
        transforms: smaller kernel sizes that are reached by a learned matrix. The centre of the next larger of these kernels (or
            of the largest kernel) is multiplied by it; it belongs to the layer and starts as the identity.

    Reference: Cai et al., "Once-for-All: Train One Network and Specialize it for Efficient Deployment", ICLR 2020, arXiv:1908.09791,
    for kernels and their transforms.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        group_size: int | None = None,
        bias: bool = False,
        transforms: Sequence[int] = (),
    ) -> None:
        super().__init__()
        for size in (kernel_size, *transforms):
            _check_kernel(size, kernel_size)
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, kernel_size
        self.weight = nn.Parameter(torch.empty(out_channels, group_size or in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.transforms = nn.ParameterDict(
            {str(size): torch.eye(size * size) for size in transforms if size < kernel_size}
        )
        initialise_(self)
        self.choose_()

    def choose_(
        self,
        out_channels: int | None = None,
        kernel_size: int | None = None,
        *,
        grouping: Grouping = DENSE,
        stride: int = 1,
    ) -> None:
        """Set the form of the next calls; what is left out is largest, dense and without stride.

        Raises:
            ValueError: more outputs or a larger kernel than the layer has.
        """
        self.width = self.out_channels if out_channels is None else _checked(out_channels, self.out_channels, "outputs")
        self.kernel = self.kernel_size if kernel_size is None else _check_kernel(kernel_size, self.kernel_size)
        self.grouping, self.stride = grouping, stride

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, chosen outputs, H', W') with H' = ceil(H / stride).

        Raises:
            ValueError: the groups do not divide the channels, or more inputs than the layer has weights for.
        """
        groups = self.grouping.groups(x.shape[1], self.width)
        bias = None if self.bias is None else self.bias[: self.width]
        return F.conv2d(x, self._slice(x.shape[1], groups), bias, self.stride, self.kernel // 2, groups=groups)

    def extract(self, in_channels: int) -> nn.Conv2d:
        """The chosen form on inputs of `in_channels`."""
        groups = self.grouping.groups(in_channels, self.width)
        layer = nn.Conv2d(
            in_channels,
            self.width,
            self.kernel,
            self.stride,
            padding=self.kernel // 2,
            groups=groups,
            bias=self.bias is not None,
            device="meta",
        )
        layer.weight = _copy(self._slice(in_channels, groups))
        if self.bias is not None:
            layer.bias = _copy(self.bias[: self.width])
        return layer

    def _slice(self, c_in: int, groups: int) -> Tensor:
        """The weights of the chosen form, shape (width, c_in / groups, kernel, kernel)."""
        _checked(c_in, self.in_channels, "inputs")
        weight, size = self.weight[: self.width], c_in // groups
        held = weight.shape[1]
        if size > held:
            raise ValueError(
                f"a group must have at most {held} inputs, got {size} ({c_in} inputs in {groups} groups); make the layer with "
                f"group_size={size}"
            )
        if groups == 1 or size == held:
            weight = weight[:, :size]
        else:
            inputs = torch.arange(c_in, device=weight.device).view(groups, size) % held
            index = inputs.repeat_interleave(self.width // groups, dim=0)[:, :, None, None]
            weight = weight.gather(1, index.expand(-1, -1, self.kernel_size, self.kernel_size))
        for size in sorted(map(int, self.transforms), reverse=True):
            if size >= self.kernel:
                weight = _centre(weight, size)
                weight = (weight.flatten(2) @ self.transforms[str(size)]).view_as(weight)
        return _centre(weight, self.kernel)


class ElasticLinear(nn.Module):
    """Linear layer with elastic input and output widths.

    Args:
        in_features, out_features: of the largest form.
        bias: whether outputs have a bias.
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool = True) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        whole = nn.Linear(in_features, out_features, bias)
        self.weight, self.bias = whole.weight, whole.bias
        self.choose_()

    def choose_(self, out_features: int | None = None) -> None:
        """Set the number of outputs of the next calls; all of them if left out."""
        self.width = self.out_features if out_features is None else _checked(out_features, self.out_features, "outputs")

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., chosen outputs)."""
        return F.linear(x, self._slice(x.shape[-1]), None if self.bias is None else self.bias[: self.width])

    def extract(self, in_features: int) -> nn.Linear:
        """The chosen form on inputs of `in_features`."""
        layer = nn.Linear(in_features, self.width, self.bias is not None, device="meta")
        layer.weight = _copy(self._slice(in_features))
        if self.bias is not None:
            layer.bias = _copy(self.bias[: self.width])
        return layer

    def _slice(self, inputs: int) -> Tensor:
        """The weights of the chosen form; in one piece, because the order of a sum may depend on it."""
        return self.weight[: self.width, : _checked(inputs, self.in_features, "inputs")].contiguous()


class ElasticBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation of the channels that come in: the first ones of scale, shift and running statistics.

    Running statistics that were gathered while several subnets took turns belong to none of them; `nas.supernets.predict` gathers
    them anew for each.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        width = _checked(x.shape[1], self.num_features, "channels")
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

    def extract(self, width: int) -> nn.BatchNorm2d:
        """The first `width` channels."""
        norm = nn.BatchNorm2d(width, self.eps, self.momentum, self.affine, self.track_running_stats, device="meta")
        if self.affine:
            norm.weight, norm.bias = _copy(self.weight[:width]), _copy(self.bias[:width])
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            norm.running_mean, norm.running_var = self.running_mean[:width].clone(), self.running_var[:width].clone()
            norm.num_batches_tracked = self.num_batches_tracked.clone()
        return norm


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
        width = _checked(x.shape[-1], self.features, "features")
        return F.layer_norm(x, (width,), self.weight[:width], self.bias[:width], self.eps)

    def extract(self, width: int) -> nn.LayerNorm:
        """The first `width` features."""
        norm = nn.LayerNorm(width, self.eps, device="meta")
        norm.weight, norm.bias = _copy(self.weight[:width]), _copy(self.bias[:width])
        return norm


Elastic = ElasticConv2d | ElasticLinear | ElasticBatchNorm2d | ElasticLayerNorm


def initialise_(layer: nn.Module) -> None:
    """Draw new weights: a convolution's for ReLU (He, fan out) with biases of zero, any other layer's as torch does."""
    if isinstance(layer, (ElasticConv2d, nn.Conv2d)):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    else:
        layer.reset_parameters()  # type: ignore[operator]


def _centre(weight: Tensor, size: int) -> Tensor:
    """The middle of the kernel, (..., K, K) -> (..., size, size)."""
    edge = (weight.shape[-1] - size) // 2
    return weight[..., edge : edge + size, edge : edge + size]


def _copy(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight.detach().clone(memory_format=torch.contiguous_format))


def _checked(width: int, most: int, what: Literal["inputs", "outputs", "channels", "features"]) -> int:
    if not 1 <= width <= most:
        raise ValueError(f"an elastic layer of {most} {what} must be used with 1 to {most}, got {width}")
    return width


def _check_kernel(size: int, most: int) -> int:
    if not 1 <= size <= most or size % 2 == 0:
        raise ValueError(f"`kernel_size` must be odd and from 1 to {most}, got {size}")
    return size
