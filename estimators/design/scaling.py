"""From one architecture and a budget to a family: rules that say how depth, width and resolution grow together.

A rule gives multipliers, and rounding moves the cost by up to a tenth. So `scaled_to` asks for the cost of what would be built and
takes the largest that fits the budget.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

STEPS = 2**40
LARGEST_SCALE = 2**20
TINYNET_VARIANTS = {
    "A": (1.0, 1.2, 0.86, 339e6),
    "B": (0.75, 1.1, 0.84, 202e6),
    "C": (0.54, 0.85, 0.825, 100e6),
    "D": (0.54, 0.695, 0.68, 52e6),
    "E": (0.51, 0.6, 0.475, 24e6),
}
"""Published multipliers of width, depth and resolution of EfficientNet-B0 (387 million macs), and the published macs."""
EFFICIENTNET_B0_MACS = 387e6
RESNET_RS_BLOCKS = {
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
    270: (4, 29, 53, 4),
    350: (4, 36, 72, 4),
    420: (4, 44, 87, 4),
}
RESNET_RS = (
    (50, 160),
    (101, 160),
    (101, 192),
    (152, 192),
    (152, 224),
    (152, 256),
    (200, 256),
    (270, 256),
    (350, 256),
    (350, 320),
    (420, 320),
)
"""Depth and side of the image of each published network, smallest first."""


@dataclass(frozen=True)
class Multipliers:
    """How much deeper, wider and finer a network becomes; width also multiplies the channels of a group."""

    depth: float
    width: float
    resolution: float

    @property
    def macs(self) -> float:
        """What macs are multiplied by where all layers scale alike: depth x width^2 x resolution^2."""
        return self.depth * self.width**2 * self.resolution**2

    @property
    def activations(self) -> float:
        """What activations are multiplied by: depth x width x resolution^2."""
        return self.depth * self.width * self.resolution**2


@dataclass(frozen=True)
class Stages:
    """A network as stages: blocks and channels of each, and the side of the image.

    Attributes:
        depths: blocks of each stage.
        widths: channels of each stage.
        side: pixels of the image's side.
        group_width: channels in a group of grouped convolutions; None without them.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    side: int
    group_width: int | None = None


def compound(scale: float, alpha: float = 0.8) -> Multipliers:
    """Fast compound scaling to `scale` times the macs: mostly in width, so that activations, which time follows, grow little.

    Args:
        scale: positive.
        alpha: 1 scales width only (activations grow by sqrt(scale)), 1/3 all three alike, 0 depth and resolution only.

    Raises:
        ValueError: a scale that is not positive, or alpha outside of 0 to 1.

    Reference: Dollár, Singh, Girshick, "Fast and Accurate Model Scaling", CVPR 2021, arXiv:2103.06877.
    """
    _check_scale(scale)
    if not 0 <= alpha <= 1:
        raise ValueError(f"`alpha` must be 0 to 1, got {alpha}; 0.8 is the recommended one")
    return Multipliers(scale ** ((1 - alpha) / 2), scale ** (alpha / 2), scale ** ((1 - alpha) / 4))


def tinynet(ratio: float) -> Multipliers:
    """The model Rubik's cube: shrink width first, then depth, and resolution least.

    Args:
        ratio: macs to those of the base network, at most 1.

    Returns:
        Depth and resolution for the ratio, and the ideal width sqrt(ratio / (depth x resolution^2)), too large where stem and head
        do not scale; `tinynet_to` solves for it on what is really built.

    Raises:
        ValueError: a ratio that is not above 0 and at most 1.

    Reference: Han et al., "Model Rubik's Cube: Twisting Resolution, Depth and Width for TinyNets", NeurIPS 2020, arXiv:2010.14819.
    Differs: the paper fits depth and resolution by Gaussian processes on networks that it trained; here they are interpolated over the
    logarithm of the ratio between its five published networks, and held beyond them.
    """
    _check_scale(ratio)
    if ratio > 1:
        raise ValueError(f"`ratio` must be at most 1, the rule shrinks, got {ratio}; use `compound` to grow")
    points = sorted(
        (math.log(macs / EFFICIENTNET_B0_MACS), depth, side) for _, depth, side, macs in TINYNET_VARIANTS.values()
    )
    ratios, depths, sides = zip(*points, strict=True)
    depth, resolution = (float(np.interp(math.log(ratio), ratios, each)) for each in (depths, sides))
    return Multipliers(depth, math.sqrt(ratio / (depth * resolution**2)), resolution)


def scaled(base: Stages, by: Multipliers, width_multiple: int = 8, side_multiple: int = 4) -> Stages:
    """A scaled network, rounded: at least one block a stage, channels and side to multiples, channels to whole groups.

    Reference: Dollár et al. 2021, as above. Group widths up to 2 are kept, up to 5 become 4, others multiples of 8.
    """
    widths = [_multiple(width * by.width, width_multiple) for width in base.widths]
    group = None if base.group_width is None else _group_width(base.group_width * by.width)
    if group is not None:
        widths = [_multiple(width, group) for width in widths]
    depths = tuple(max(1, round(depth * by.depth)) for depth in base.depths)
    return Stages(depths, tuple(widths), _multiple(base.side * by.resolution, side_multiple), group)


def scaled_to(
    base: Stages,
    budget: float,
    cost: Callable[[Stages], float],
    rule: Callable[[float], Multipliers] = compound,
    **rounding: int,
) -> Stages:
    """The largest network of a rule's family within a budget.

    Args:
        base: the network to scale.
        budget: the most that `cost` may say.
        cost: macs, activations, milliseconds or anything else of a network, asked once of each. The rule's scale is doubled until
            this is over the budget, and then bisected, so it should grow with the scale. Rounding to groups can make widths shrink
            while the scale grows: then what is found keeps the budget, and a network beyond it may too.
        rule: scale -> multipliers.
        rounding: as for `scaled`.

    Raises:
        ValueError: even a thousandth of the base is over the budget, or a million times the base is not.
    """
    price = cache(cost)

    def at(scale: float) -> Stages:
        return scaled(base, rule(scale), **rounding)

    low, high = 1e-3, 1.0
    if not price(at(low)) <= budget:
        raise ValueError(
            f"`budget` must be at least {price(at(low)):g}, the cost of the smallest network, got {budget:g}"
        )
    while price(at(high)) <= budget:
        if high >= LARGEST_SCALE:
            raise ValueError(
                f"`cost` must grow with the network, got {price(at(high)):g} for {at(high)}, still within the budget of {budget:g}; "
                "give a smaller budget, or a cost that sees what the rule scales"
            )
        low, high = high, 2 * high

    def between(step: int) -> Stages:
        return at(low * (high / low) ** (step / STEPS))

    return between(bisect_left(range(1, STEPS), True, key=lambda step: not price(between(step)) <= budget))


def family(
    base: Stages,
    budgets: Sequence[float],
    cost: Callable[[Stages], float],
    rule: Callable[[float], Multipliers] = compound,
    **rounding: int,
) -> list[Stages]:
    """The largest network within each of the budgets, in their order; see `scaled_to`."""
    price = cache(cost)
    return [scaled_to(base, budget, price, rule, **rounding) for budget in budgets]


def tinynet_to(base: Stages, budget: float, cost: Callable[[Stages], float], **rounding: int) -> Stages:
    """The TinyNet of a budget: depth and resolution from the ratio, then the largest width that fits what `cost` says.

    The side is cut to whole pixels, as those of the published networks are.

    Raises:
        ValueError: as `tinynet` and `scaled_to`.
    """
    shape = tinynet(budget / cost(base))
    cut = replace(base, side=max(1, int(base.side * shape.resolution)))
    return scaled_to(
        cut,
        budget,
        cost,
        lambda scale: Multipliers(shape.depth, math.sqrt(scale), 1.0),
        **{"side_multiple": 1, **rounding},
    )


def resnet_rs(budget: float, cost: Callable[[Stages], float], long_training: bool = True) -> Stages:
    """The largest network within a budget by the rules of ResNet-RS.

    Args:
        budget: the most that `cost` may say.
        cost: of bottleneck stages (widths are those that leave them).
        long_training: hundreds of epochs, where deeper networks win and the published depths and sides are chosen from; otherwise
            ResNet-RS-50 at 160 is made wider.

    Raises:
        ValueError: the smallest network is over the budget.

    Reference: Bello et al., "Revisiting ResNets: Improved Training and Scaling Strategies", NeurIPS 2021, arXiv:2103.07579.
    Differs: the paper gives a rule for short training and no networks; here all widths are multiplied alike. Other regularisation for
    larger networks is up to the training.
    """
    widths = (256, 512, 1024, 2048)
    family = [Stages(RESNET_RS_BLOCKS[depth], widths, side) for depth, side in RESNET_RS]
    if not long_training:
        return scaled_to(family[0], budget, cost, lambda scale: Multipliers(1.0, math.sqrt(scale), 1.0))
    allowed = [network for network in family if cost(network) <= budget]
    if not allowed:
        raise ValueError(
            f"`budget` must be at least {cost(family[0]):g}, the cost of ResNet-RS-50 at 160, got {budget:g}"
        )
    return max(allowed, key=cost)


def _check_scale(scale: float) -> None:
    if not 0 < scale < math.inf:
        raise ValueError(f"the scale must be positive, got {scale}; 2 doubles the macs")


def _multiple(value: float, of: int) -> int:
    return max(of, int(value / of + 0.5) * of)


def _group_width(value: float) -> int:
    if value <= 2:
        return max(1, round(value))
    return 4 if value <= 5 else _multiple(value, 8)
