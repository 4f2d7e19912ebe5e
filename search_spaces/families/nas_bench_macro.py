"""NAS-Bench-Macro: the kind of each of 8 blocks, for which a table of all networks trained alone is published.

Three stages of 2, 3 and 3 blocks; the first block of each has stride 2 and doubles the channels. A label is a digit per block: 0
identity (a strided 1x1 convolution where the shape changes), 1 an inverted residual with a 3x3 kernel and expansion 3, 2 one with a 5x5
kernel and expansion 6.

Reference: Su et al., "Prioritized Architecture Sampling with Monto-Carlo Tree Search", CVPR 2021, arXiv:2103.11922.
Differs: an architecture stands for a network, not for a string. Identities that keep the shape do nothing, so they move to the end of
their stage, and the 6,561 strings are 3,969 architectures; a string of the table is read as the architecture that it describes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import cast

from torch import Tensor, nn

from search_spaces.core import (
    Block,
    Categorical,
    ImageSize,
    Labels,
    Local,
    Network,
    SearchSpace,
    Shape,
    Value,
    check_images,
    image_size_of,
    quoted,
)
from search_spaces.families.resnet import SharedFixed

KINDS = (0, 1, 2)
KERNEL_AND_EXPANSION = {1: (3, 3), 2: (5, 6)}
STEM, HEAD = 32, 1280
STAGES = {64: 2, 128: 3, 256: 3}
"""Blocks by the channels of their stage."""


class InvertedResidual(nn.Module):
    """Widen by 1x1, convolve each channel, narrow by 1x1; each followed by BN, with ReLU between. Where shapes agree, add the input."""

    def __init__(self, c_in: int, c_out: int, stride: int, kernel: int, expansion: int) -> None:
        super().__init__()
        inner = expansion * c_in
        self.body = nn.Sequential(
            *conv_norm(c_in, inner, 1),
            nn.ReLU(),
            *conv_norm(inner, inner, kernel, stride, groups=inner),
            nn.ReLU(),
            *conv_norm(inner, c_out, 1),
        )
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        """(N, c_in, H, W) -> (N, c_out, ceil(H / stride), ceil(W / stride))."""
        return x + self.body(x) if self.residual else self.body(x)

    def zero_residuals_(self) -> None:
        """Where the input is added, let the convolutions contribute nothing at first: the scale of the last normalisation is zero."""
        if self.residual:
            nn.init.zeros_(cast(nn.BatchNorm2d, self.body[-1]).weight)


class SharedKinds(nn.Module):
    """A block of each kind, with weights of its own."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.kinds = nn.ModuleDict({str(kind): make_block(kind, c_in, c_out, stride) for kind in KINDS})

    def forward(self, x: Tensor, local: Local) -> Tensor:
        return self.kinds[str(local)](x)

    def extract(self, local: Local, in_shape: Shape) -> nn.Module:
        return copy.deepcopy(self.kinds[str(local)])


def nas_bench_macro(*, in_channels: int = 3, num_classes: int = 10, image_size: ImageSize = 32) -> SearchSpace:
    """The space of NAS-Bench-Macro: choices `block1` to `block8`, 3,969 architectures.

    Args:
        in_channels: channels of the images.
        num_classes: logits.
        image_size: height and width of the images, in pixels, as one number or a pair. The published table is for 3 channels, 10
            classes and 32 pixels.

    Raises:
        ValueError: an option that is not a positive integer, or a single class.
    """
    height, width = check_images(in_channels, num_classes, image_size)
    widths = [channels for channels, blocks in STAGES.items() for _ in range(blocks)]
    names = tuple(f"block{at}" for at in range(1, len(widths) + 1))
    blocks = [_fixed("stem", lambda: nn.Sequential(*conv_norm(in_channels, STEM, 3), nn.ReLU()))]
    for name, c_in, c_out in zip(names, [STEM, *widths], widths, strict=False):
        blocks.append(_block(name, c_in, c_out, 1 if c_in == c_out else 2))
    blocks.append(_fixed("head", lambda: _head(widths[-1], num_classes)))
    return SearchSpace(
        name="nas-bench-macro",
        choices=tuple(Categorical(name, KINDS) for name in names),
        canonical=_canonical,
        labels=_labels(names),
        network=Network(tuple(blocks), (in_channels, height, width), num_classes),
        options={"in_channels": in_channels, "num_classes": num_classes, "image_size": image_size_of(height, width)},
    )


def conv_norm(c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> tuple[nn.Module, nn.Module]:
    """A convolution without bias that keeps the resolution (up to the stride), and its BN."""
    conv = nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return conv, nn.BatchNorm2d(c_out)


def make_block(kind: int, c_in: int, c_out: int, stride: int) -> nn.Module:
    """A freshly initialised block of one of `KINDS`."""
    if kind:
        return InvertedResidual(c_in, c_out, stride, *KERNEL_AND_EXPANSION[kind])
    return nn.Identity() if c_in == c_out and stride == 1 else nn.Sequential(*conv_norm(c_in, c_out, 1, stride))


def _block(name: str, c_in: int, c_out: int, stride: int) -> Block:
    return Block(
        name=name,
        columns=(name,),
        read=lambda kind: kind,
        alone=lambda local, shape: make_block(local, c_in, c_out, stride),  # type: ignore[arg-type]
        shared=partial(SharedKinds, c_in, c_out, stride),
    )


def _fixed(name: str, make: Callable[[], nn.Module]) -> Block:
    return Block(name, (), lambda: None, lambda local, shape: make(), lambda: SharedFixed(make()))


def _head(c_in: int, num_classes: int) -> nn.Module:
    pooled = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(HEAD, num_classes))
    return nn.Sequential(*conv_norm(c_in, HEAD, 1), nn.ReLU(), *pooled)


def _canonical(values: dict[str, Value]) -> dict[str, Value]:
    """Move identities behind the first block of a stage to the end of the stage."""
    kinds = list(values.values())
    moved: list[Value] = []
    for blocks in STAGES.values():
        first, *rest = kinds[len(moved) : len(moved) + blocks]
        moved += [first, *sorted(rest, key=lambda kind: kind == 0)]
    return dict(zip(values, moved, strict=True))


def _labels(names: tuple[str, ...]) -> Labels:
    def write(values: Mapping[str, Value]) -> str:
        return "".join(str(values[name]) for name in names)

    def read(text: str) -> Mapping[str, Value]:
        if len(text) != len(names) or not set(text) <= set(map(str, KINDS)):
            raise ValueError(f"a label must be {len(names)} digits, each 0, 1 or 2, as in 22212220; got {quoted(text)}")
        return dict(zip(names, map(int, text), strict=True))

    return Labels(write, read)
