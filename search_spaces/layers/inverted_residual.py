"""The inverted residual block of elastic MobileNets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.core import Shape
from search_spaces.layers.elastic import Elastic, ElasticBatchNorm2d
from search_spaces.layers.elastic_conv import ElasticConv2d
from search_spaces.layers.grouping import Grouping
from search_spaces.layers.sorting import sort_channels_

SQUEEZE = 4


class InvertedForm(NamedTuple):
    """An inverted residual block's local choice: output channels, size of the depthwise kernel, channels inside as a multiple of the
    input's, and whether squeeze-excitation follows the depthwise convolution."""

    width: int
    kernel: int
    expansion: int
    squeezes: bool


class SqueezeExcitation(nn.Module):
    """Scales each channel by a number that depends on the means of all channels; a quarter as many channels inside.

    Reference: Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018, arXiv:1709.01507; with ReLU and hard sigmoid as in Howard et
    al., "Searching for MobileNetV3", ICCV 2019, arXiv:1905.02244.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(1, channels // SQUEEZE)
        self.reduce = ElasticConv2d(channels, inner, 1, bias=True)
        self.expand = ElasticConv2d(inner, channels, 1, bias=True)

    def choose_(self, channels: int) -> None:
        self.reduce.choose_(max(1, channels // SQUEEZE))
        self.expand.choose_(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        return x * F.hardsigmoid(self.expand(F.relu(self.reduce(x.mean((2, 3), keepdim=True)))))


class ElasticInvertedResidual(nn.Module):
    """Expand by a 1x1 convolution, depthwise convolution, squeeze-excitation if chosen, project by a 1x1 convolution.

    Args:
        c_in, c_out, kernel, expansion: of the largest form; with expansion 1 there is no convolution that expands.
        stride: of the depthwise convolution.
        squeezes: whether any form has squeeze-excitation.
        residual: whether the input is added to the output, in every form.
        activation: makes the activation function.
        transforms: kernel sizes that have a learned transform.

    Reference: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, arXiv:1801.04381.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int,
        expansion: int,
        *,
        stride: int = 1,
        squeezes: bool = False,
        residual: bool = False,
        activation: Callable[[], nn.Module] = nn.ReLU,
        transforms: Sequence[int] = (),
    ) -> None:
        super().__init__()
        inner = c_in * expansion
        self.stride, self.residual, self.activation = stride, residual, activation()
        self.expand = ElasticConv2d(c_in, inner, 1) if expansion > 1 else None
        self.expand_norm = ElasticBatchNorm2d(inner) if expansion > 1 else None
        self.depthwise = ElasticConv2d(inner, inner, kernel, group_size=1, transforms=transforms)
        self.depthwise_norm = ElasticBatchNorm2d(inner)
        self.squeeze = SqueezeExcitation(inner) if squeezes else None
        self.project, self.project_norm = ElasticConv2d(inner, c_out, 1), ElasticBatchNorm2d(c_out)

    def choose_(self, local: InvertedForm, in_shape: Shape) -> None:
        inner = in_shape[0] * local.expansion
        if self.expand is not None:
            self.expand.choose_(inner)
        self.depthwise.choose_(inner, local.kernel, grouping=Grouping(size=1), stride=self.stride)
        self.squeezes = local.squeezes
        if self.squeeze is not None:
            self.squeeze.choose_(inner)
        self.project.choose_(local.width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, width, H', W')."""
        out = x
        if self.expand is not None and self.expand_norm is not None:
            out = self.activation(self.expand_norm(self.expand(out)))
        out = self.activation(self.depthwise_norm(self.depthwise(out)))
        if self.squeeze is not None and self.squeezes:
            out = self.squeeze(out)
        out = self.project_norm(self.project(out))
        return out + x if self.residual else out

    def zero_residuals_(self) -> None:
        """Where the input is added, let the convolutions contribute nothing at first: the scale of the last normalisation is zero."""
        if self.residual:
            nn.init.zeros_(self.project_norm.weight)

    def sort_channels_(self) -> None:
        """Sort the channels inside by what the projection makes of them, and those inside the squeeze-excitation."""
        if self.expand is None or self.expand_norm is None:
            return
        makers: list[Elastic] = [self.expand, self.expand_norm, self.depthwise, self.depthwise_norm]
        if self.squeeze is None:
            sort_channels_(self.project, makers)
        else:
            sort_channels_(self.project, [*makers, self.squeeze.expand], [self.squeeze.reduce])
            sort_channels_(self.squeeze.expand, [self.squeeze.reduce])
