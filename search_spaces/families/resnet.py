"""Where a ResNet should pool: the placements of downsampling in ResNet-20, ResNet-18 and ResNet-50.

Depth and channels are fixed to positions; an architecture only says before which blocks the resolution halves, and by which operator.
Its label counts the layers at each resolution, stem included: `4-3-3` is the usual ResNet-20.

Reference: Roshtkhari, Toews, Pedersoli, "Balanced Mixture of SuperNets for Learning the CNN Pooling Architecture", AutoML-Conf 2023,
arXiv:2306.11982.
Differs: ResNet-50 has C(16, 3) = 560 placements, as in the paper's lookup table (its enumerating code visits 455 of them). Any of the
operators of `search_spaces.pooling` can be used in any of the networks, or be searched beside the placement; the paper pools
ResNet-20 by maximum and strides the other two.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.core import (
    Block,
    Categorical,
    Choice,
    ImageSize,
    Labels,
    Local,
    Network,
    SearchSpace,
    Shape,
    Subset,
    Value,
    check_images,
    image_size_of,
    quoted,
)
from search_spaces.layers import ByResolution
from search_spaces.pooling import check_image_size, check_operators, make_pooling, stride

Norm = Callable[[int], nn.Module]
Weights = Literal["shared", "per-resolution", "parting"]


def affine_norm(channels: int) -> nn.Module:
    """Ordinary BN: scale and shift, running statistics. A supernet's running statistics need calibration for each subnet."""
    return nn.BatchNorm2d(channels)


def fixed_scale_norm(channels: int) -> nn.Module:
    """BN with running statistics and without scale and shift."""
    return nn.BatchNorm2d(channels, affine=False)


def batch_norm(channels: int) -> nn.Module:
    """BN without scale, shift and running statistics: every batch is normalised by its own, in evaluation too."""
    return nn.BatchNorm2d(channels, affine=False, track_running_stats=False)


@dataclass(frozen=True)
class Norms:
    """The normalisations of a network: `first` after the first convolution of a residual block, `other` everywhere else."""

    first: Norm
    other: Norm


SHARED_NORMS = {"paper": Norms(batch_norm, batch_norm), "affine": Norms(affine_norm, affine_norm)}
ALONE_NORMS = {"paper": Norms(fixed_scale_norm, affine_norm), "affine": Norms(affine_norm, affine_norm)}


class ResidualBlock(nn.Module):
    """ReLU(body(x) + shortcut(x)), where `downsample` is None or the operator that halves the resolution at this block.

    Body: 3x3, 3x3 (basic) or 1x1, 3x3, 1x1 with a quarter of the output channels inside (bottleneck), each followed by a
    normalisation, with ReLU between. Shortcut: 1x1 convolution with normalisation where the channels change, else the input
    itself (every other pixel of it where the convolution is strided).
    """

    def __init__(self, c_in: int, c_out: int, bottleneck: bool, norms: Norms, downsample: str | None = None) -> None:
        super().__init__()
        inner = c_out // 4 if bottleneck else c_out
        widths, kernels = ([inner, inner, c_out], [1, 3, 1]) if bottleneck else ([c_out, c_out], [3, 3])
        self.convs = nn.ModuleList(conv(a, b, k) for a, b, k in zip([c_in, *widths], widths, kernels, strict=False))
        self.norms = nn.ModuleList([norms.first(widths[0]), *(norms.other(width) for width in widths[1:])])
        self.shortcut = nn.Sequential(conv(c_in, c_out, 1), norms.other(c_out)) if c_in != c_out else nn.Sequential()
        self.strided = 1 if bottleneck else 0
        self.pooling: nn.Module | None = None
        self.stride_(stride(downsample))
        if downsample is not None and self.step == 1:
            self.pooling = make_pooling(downsample, c_in)

    def stride_(self, step: int) -> None:
        """Set the stride of this block's convolutions."""
        self.step = step
        cast(nn.Conv2d, self.convs[self.strided]).stride = (step, step)

    def forward(self, x: Tensor) -> Tensor:
        """(N, c_in, H, W) -> (N, c_out, H', W')."""
        if self.pooling is not None:
            x = self.pooling(x)
        out = x
        for at, (layer, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            out = norm(layer(F.relu(out) if at else out))
        return F.relu(out + self.shortcut(x[..., :: self.step, :: self.step] if self.step > 1 else x))

    def zero_residuals_(self) -> None:
        """Let the body contribute nothing at first: the scale of its last normalisation, where that has one, is zero."""
        if isinstance(scale := self.norms[-1].weight, Tensor):
            nn.init.zeros_(scale)


class SharedResidualBlock(nn.Module):
    """A residual block whose weights are shared by all downsampling operators. Operators that stand in front of it have
    modules of their own.
    """

    def __init__(self, c_in: int, c_out: int, bottleneck: bool, norms: Norms, operators: Sequence[str]) -> None:
        super().__init__()
        self.body = ResidualBlock(c_in, c_out, bottleneck, norms)
        poolings = (operator for operator in operators if stride(operator) == 1)
        self.poolings = nn.ModuleDict({operator: make_pooling(operator, c_in) for operator in poolings})

    def forward(self, x: Tensor, local: Local) -> Tensor:
        if local in self.poolings:  # type: ignore[operator]
            x = self.poolings[local](x)  # type: ignore[index]
        self.body.stride_(stride(local))  # type: ignore[arg-type]
        return self.body(x)

    def extract(self, local: Local, in_shape: Shape) -> nn.Module:
        block = copy.deepcopy(self.body)
        block.stride_(stride(local))  # type: ignore[arg-type]
        if local in self.poolings:  # type: ignore[operator]
            block.pooling = copy.deepcopy(self.poolings[local])  # type: ignore[index]
        return block


class SharedFixed(nn.Module):
    """A block that is the same in every architecture."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor, local: Local) -> Tensor:
        return self.body(x)

    def extract(self, local: Local, in_shape: Shape) -> nn.Module:
        return copy.deepcopy(self.body)


def conv(c_in: int, c_out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Convolution without bias that keeps the resolution (up to the stride), initialised for ReLU (He, fan out)."""
    layer = nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


@dataclass(frozen=True)
class Plan:
    """The fixed part of a family: channels after the stem and after each residual block, and how many of the blocks pool."""

    stem: int
    blocks: tuple[int, ...]
    bottleneck: bool
    poolings: int
    operators: tuple[str, ...]


PLANS = {
    20: Plan(16, (16,) * 3 + (32,) * 3 + (64,) * 3, False, 2, ("max",)),
    18: Plan(64, (64,) * 2 + (128,) * 2 + (256,) * 2 + (512,) * 2, False, 3, ("conv",)),
    50: Plan(64, (256,) * 3 + (512,) * 4 + (1024,) * 6 + (2048,) * 3, True, 3, ("conv",)),
}


def pooling_space(
    depth: int,
    *,
    in_channels: int = 3,
    num_classes: int = 10,
    image_size: ImageSize = 32,
    operators: Sequence[str] | None = None,
    bn: Literal["paper", "affine"] = "paper",
    stem: Literal["small", "large"] = "small",
    weights: Weights = "shared",
) -> SearchSpace:
    """The pooling placements of a ResNet.

    Args:
        depth: 20 (36 placements: 2 of 9 blocks pool), 18 (56: 3 of 8) or 50 (560: 3 of 16).
        in_channels: channels of the images.
        num_classes: logits.
        image_size: height and width of the images, in pixels, as one number or a pair.
        operators: any of `search_spaces.pooling.POOLINGS` (`conv` strides the block's own convolution); several make the operator
            a choice of its own. A supernet holds the weights of each operator once per block. Default: max pooling for ResNet-20,
            strided convolution for the others.
        bn: `paper` normalises a supernet by batch statistics, without scale and shift, in training and evaluation; networks
            trained alone have ordinary BN, except that the first one of each block has no scale and shift. `affine` is
            ordinary BN everywhere, and a supernet's subnets need calibration.
        stem: `small` is a 3x3 convolution; `large` a 7x7 convolution with stride 2 and 3x3 max pooling with stride 2.
        weights: of a supernet: `shared` gives a block one set of weights, `per-resolution` one for each resolution that
            it can compute at. `parting` is `per-resolution` with sets that start equal and part in training.

    Raises:
        ValueError: an unknown option, or images too small for the poolings, or which they do not divide into weights per resolution.
    """
    if depth not in PLANS:
        raise ValueError(f"`depth` must be one of {', '.join(map(str, PLANS))}; got {depth}")
    if bn not in ALONE_NORMS:
        raise ValueError(f"`bn` must be one of {', '.join(ALONE_NORMS)}; got {bn!r}")
    if stem not in ("small", "large"):
        raise ValueError(f"`stem` must be small or large; got {stem!r}")
    if weights not in get_args(Weights):
        raise ValueError(f"`weights` must be one of {', '.join(get_args(Weights))}; got {weights!r}")
    height, width = check_images(in_channels, num_classes, image_size)
    plan = PLANS[depth]
    operators = (
        plan.operators if operators is None else (operators,) if isinstance(operators, str) else tuple(operators)
    )
    check_operators(operators)
    reduction = 4 if stem == "large" else 1
    check_image_size(min(height, width), plan.poolings, reduction)
    sides = () if weights == "shared" else _sides(height, width, plan.poolings, reduction)

    choices: list[Choice] = [Subset("pools", tuple(range(1, len(plan.blocks) + 1)), plan.poolings)]
    if len(operators) > 1:
        choices.append(Categorical("operator", operators))
    return SearchSpace(
        name=f"resnet{depth}-pooling",
        choices=tuple(choices),
        labels=_labels(len(plan.blocks), plan.poolings, operators),
        network=Network(
            _blocks(plan, in_channels, num_classes, operators, bn, stem, sides, weights == "parting"),
            (in_channels, height, width),
            num_classes,
        ),
        options={
            "in_channels": in_channels,
            "num_classes": num_classes,
            "image_size": image_size_of(height, width),
            "operators": list(operators),
            "bn": bn,
            "stem": stem,
            "weights": weights,
        },
    )


def _sides(height: int, width: int, poolings: int, reduction: int) -> tuple[int, ...]:
    """The widths of the images after 0, 1, ... poolings, for all operators alike."""
    largest = reduction * 2**poolings
    for side in (height, width):
        if side % largest:
            raise ValueError(
                f"`image_size` must be a multiple of {largest} for weights per resolution and {poolings} poolings, got {side}; "
                "resize images, or share the weights"
            )
    return tuple(width // reduction // 2**count for count in range(poolings + 1))


def _blocks(
    plan: Plan,
    in_channels: int,
    num_classes: int,
    operators: tuple[str, ...],
    bn: str,
    stem: str,
    sides: tuple[int, ...],
    parting: bool,
) -> tuple[Block, ...]:
    alone, shared = ALONE_NORMS[bn], SHARED_NORMS[bn]
    blocks = [_fixed("stem", lambda norms: _stem(in_channels, plan.stem, norms, stem), alone, shared)]
    c_in = plan.stem
    for position, c_out in enumerate(plan.blocks, start=1):
        fewest, most = max(0, plan.poolings - len(plan.blocks) + position), min(position, plan.poolings)
        at = sides[fewest : most + 1]
        blocks.append(_residual(position, c_in, c_out, plan.bottleneck, operators, alone, shared, at, parting))
        c_in = c_out
    blocks.append(_fixed("head", lambda norms: _head(c_in, num_classes), alone, shared))
    return tuple(blocks)


def _fixed(name: str, make: Callable[[Norms], nn.Module], alone: Norms, shared: Norms) -> Block:
    return Block(name, (), lambda: None, lambda local, shape: make(alone), lambda: SharedFixed(make(shared)))


def _residual(
    position: int,
    c_in: int,
    c_out: int,
    bottleneck: bool,
    operators: tuple[str, ...],
    alone: Norms,
    shared: Norms,
    sides: tuple[int, ...],
    parting: bool,
) -> Block:
    searched = len(operators) > 1

    def one() -> SharedResidualBlock:
        return SharedResidualBlock(c_in, c_out, bottleneck, shared, operators)

    def read(pools: Value, operator: Value = operators[0]) -> Local:
        return operator if pools else None

    return Block(
        name=f"block{position}",
        columns=(f"pools[{position}]", "operator") if searched else (f"pools[{position}]",),
        read=read,
        alone=lambda local, shape: ResidualBlock(c_in, c_out, bottleneck, alone, local),  # type: ignore[arg-type]
        shared=lambda: ByResolution(one, sides, _side_after, parting) if sides else one(),
    )


def _side_after(side: int, pools: Local) -> int:
    return side // 2 if pools else side


def _stem(c_in: int, c_out: int, norms: Norms, kind: str) -> nn.Sequential:
    if kind == "small":
        return nn.Sequential(conv(c_in, c_out, 3), norms.other(c_out), nn.ReLU())
    return nn.Sequential(conv(c_in, c_out, 7, stride=2), norms.other(c_out), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1))


def _head(c_in: int, num_classes: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c_in, num_classes))


def _labels(blocks: int, poolings: int, operators: tuple[str, ...]) -> Labels:
    layers = blocks + 1

    def write(values: Mapping[str, Value]) -> str:
        edges = [0, *values["pools"], layers]  # type: ignore[misc]
        code = "-".join(str(b - a) for a, b in zip(edges, edges[1:], strict=False))
        return f"{code}/{values['operator']}" if len(operators) > 1 else code

    def read(text: str) -> Mapping[str, Value]:
        code, _, operator = text.partition("/")
        example = write({"pools": tuple(range(1, poolings + 1)), "operator": operators[0]})
        try:
            counts = [int(part) for part in code.replace(",", "-").split("-")]
        except ValueError:
            counts = []
        if (
            len(counts) != poolings + 1
            or min(counts) < 1
            or sum(counts) != layers
            or bool(operator) != (len(operators) > 1)
        ):
            raise ValueError(
                f"a label must be {poolings + 1} counts of layers, each at least 1, that add up to {layers}"
                f"{', then / and an operator' if len(operators) > 1 else ''}, as in {example}; got {quoted(text)}"
            )
        pools = tuple(sum(counts[: end + 1]) for end in range(poolings))
        return {"pools": pools, "operator": operator} if operator else {"pools": pools}

    return Labels(write, read)
