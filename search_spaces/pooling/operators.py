"""Pooling operators by name: local ones that shrink an image, and global ones that leave one value per channel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from search_spaces.core import unknown_name
from search_spaces.pooling.attention import SimPool
from search_spaces.pooling.learned import GatedPool2d, MixedPool2d, TreePool2d
from search_spaces.pooling.power import GeMPool2d, GlobalGeMPool
from search_spaces.pooling.transport import GeneralisedSumPool
from search_spaces.pooling.weighted import AdaPool2d, SoftPool2d
from search_spaces.pooling.windows import tokens

GROUPS = 4


class Pooling(NamedTuple):
    """An operator.

    Attributes:
        help: what it computes.
        make: from channels, kernel, stride and options, or of a global one from channels and options.
        in_heads: elastic heads can choose it, if it is global.
    """

    help: str
    make: Callable[..., nn.Module]
    in_heads: bool = True


class GlobalAveragePool(nn.Module):
    """The mean over the whole image."""

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) or tokens (B, N, C) -> (B, C)."""
        return tokens(x).mean(1)


def make_pooling(name: str, channels: int, kernel: int = 2, stride: int | None = None, **options: Any) -> nn.Module:
    """A freshly initialised local pooling operator, (B, C, H, W) -> (B, C, H', W').

    Sizes are rounded down, as by `torch.nn.MaxPool2d`: H' = floor((H - kernel) / stride) + 1.

    Args:
        name: one of `POOLINGS`.
        channels: C.
        kernel: height and width of the window, in pixels.
        stride: pixels from one window to the next; the kernel by default.
        options: further keyword arguments of the operator's class: `groups` and `p` of gem and ggem, `levels` of tree, `size` of
            adapool.

    Raises:
        ValueError: no operator has that name (the nearest names are offered), or a value is not allowed.
    """
    if name not in POOLINGS:
        raise unknown_name("pooling operator", name, POOLINGS)
    return POOLINGS[name].make(channels, kernel, kernel if stride is None else stride, **options)


def make_global_pooling(name: str, channels: int, **options: Any) -> nn.Module:
    """A freshly initialised global pooling operator, (B, C, H, W) or (B, N, C) -> (B, C).

    Args:
        name: one of `GLOBAL_POOLINGS`.
        channels: C.
        options: further keyword arguments of the operator's class: `groups` and `p` of gem and ggem, `gamma` of simpool, `prototypes`,
            `mass` and `sharpness` of gsp.

    Raises:
        ValueError: no operator has that name (the nearest names are offered), or a value is not allowed.
    """
    if name not in GLOBAL_POOLINGS:
        raise unknown_name("global pooling operator", name, GLOBAL_POOLINGS)
    return GLOBAL_POOLINGS[name].make(channels, **options)


def _without_channels(kind: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """An operator whose weights serve any number of channels."""
    return lambda channels, kernel, stride, **options: kind(kernel, stride, **options)


def _strided(channels: int, kernel: int, stride: int) -> nn.Module:
    return nn.Conv2d(channels, channels, kernel, stride, bias=False)


def _grouped(kind: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    return lambda *sizes, groups=GROUPS, **options: kind(*sizes, groups=groups, **options)


POOLINGS: dict[str, Pooling] = {
    "max": Pooling("the largest value of the window", _without_channels(nn.MaxPool2d)),
    "avg": Pooling("the mean of the window", _without_channels(nn.AvgPool2d)),
    "conv": Pooling("a strided convolution: inside a block, the block's own convolution takes the stride", _strided),
    "mixed": Pooling("a learned mix of maximum and mean, the same everywhere", _without_channels(MixedPool2d)),
    "gated": Pooling("a mix of maximum and mean that depends on the window", _without_channels(GatedPool2d)),
    "tree": Pooling("learned filters, mixed by gates that look at the window", _without_channels(TreePool2d)),
    "softpool": Pooling("the mean weighted by the softmax of the values", _without_channels(SoftPool2d)),
    "adapool": Pooling(
        "a learned mix of SoftPool and a mean weighted by likeness to the mean", _without_channels(AdaPool2d)
    ),
    "gem": Pooling("the power mean with a learned exponent", GeMPool2d),
    "ggem": Pooling("the power mean with a learned exponent for each of 4 groups of channels", _grouped(GeMPool2d)),
}

GLOBAL_POOLINGS: dict[str, Pooling] = {
    "avg": Pooling("the mean over the image", lambda channels: GlobalAveragePool()),
    "gem": Pooling("the power mean with a learned exponent", GlobalGeMPool),
    "ggem": Pooling("the power mean with a learned exponent for each of 4 groups of channels", _grouped(GlobalGeMPool)),
    "simpool": Pooling("attention of the average to every position", SimPool),
    "gsp": Pooling(
        "an average without what no prototype wants; for learning distances, by a loss of its own",
        GeneralisedSumPool,
        False,
    ),
}
