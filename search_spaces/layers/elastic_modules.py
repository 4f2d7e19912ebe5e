"""Modules of elastic layers that convolutional families share: input resolution, convolution with normalisation, classifier."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.core import Shape
from search_spaces.layers.elastic import ElasticBatchNorm2d, ElasticLinear
from search_spaces.layers.elastic_conv import ElasticConv2d


class Resize(nn.Module):
    """Brings images to the chosen resolution, bilinearly, and keeps their proportions; local choice: (pixels of the shorter side,)."""

    def choose_(self, local: tuple[int], in_shape: Shape) -> None:
        shorter = min(in_shape[1:])
        self.size = tuple((2 * side * local[0] + shorter) // (2 * shorter) for side in in_shape[1:])

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H', W'), the longer side rounded."""
        if x.shape[2:] == self.size:
            return x
        return F.interpolate(x, self.size, mode="bilinear", align_corners=False)


class ConvNorm(nn.Module):
    """Convolution, batch normalisation and activation; local choice: (channels,), or () for all of them.

    Args:
        c_in, c_out: channels of the largest form.
        kernel, stride: of the convolution.
        activation: makes the activation function.
    """

    def __init__(
        self, c_in: int, c_out: int, kernel: int = 3, stride: int = 1, activation: Callable[[], nn.Module] = nn.ReLU
    ) -> None:
        super().__init__()
        self.conv, self.norm, self.activation = (
            ElasticConv2d(c_in, c_out, kernel),
            ElasticBatchNorm2d(c_out),
            activation(),
        )
        self.stride = stride
        self.conv.choose_(stride=stride)

    def choose_(self, local: tuple[int], in_shape: Shape) -> None:
        self.conv.choose_(*local, stride=self.stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, channels, H', W')."""
        return self.activation(self.norm(self.conv(x)))


def classifier(c_in: int, num_classes: int) -> nn.Sequential:
    """Global average pooling and a linear layer, for any number of channels up to `c_in`."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), ElasticLinear(c_in, num_classes))
