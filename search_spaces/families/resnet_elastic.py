"""Elastic ResNets: width, depth, groups, kernel, pooling, resolution and head of any family, each searched or left as usual.

Channels belong to stages. The blocks of a stage that a smaller depth leaves out are the last ones, and pooling can stand before any
block that no depth leaves out; with all choices off the network is the usual one.

Reference: Cai et al., "Once-for-All: Train One Network and Specialize it for Efficient Deployment", ICLR 2020, arXiv:1908.09791, for
depth as a prefix of each stage; Jha et al., "E2GC: Energy-efficient Group Convolution in Deep Neural Networks", VLSI Design 2020,
arXiv:2006.15100, for groups of constant size; Roshtkhari et al., "Balanced Mixture of SuperNets for Learning the CNN Pooling
Architecture", AutoML-Conf 2023, arXiv:2306.11982, for the placement of pooling.
Differs: shortcuts are 1x1 convolutions where channels change, in the CIFAR families too, and follow the strided pixels of the
input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from search_spaces.core import (
    LARGEST_KERNEL,
    MOST_CHANNELS,
    ImageSize,
    Network,
    SearchSpace,
    Settings,
    Value,
    check_images,
    code_labels,
    image_size_of,
    integers,
    plain,
    quoted,
    stage_depths,
    switched_on,
    usual_resolutions,
)
from search_spaces.families.resnet_chain import Chain
from search_spaces.layers import check_head_operators
from search_spaces.pooling import check_image_size, check_operators

OPERATORS = ("max", "avg", "conv")
CHOICES = ("width", "depth", "groups", "kernel", "pooling", "resolution", "head")


@dataclass(frozen=True)
class Family:
    """Channels and blocks of each stage. Bottlenecks have a quarter of the channels inside."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    bottleneck: bool = False
    stem: str = "large"
    group_sizes: tuple[int | str, ...] = (8, 16, "dense")


def _cifar(blocks: int) -> Family:
    return Family((16, 32, 64), (blocks,) * 3, stem="small", group_sizes=(2, 4, "dense"))


FAMILIES = {
    20: _cifar(3),
    32: _cifar(5),
    44: _cifar(7),
    56: _cifar(9),
    110: _cifar(18),
    18: Family((64, 128, 256, 512), (2, 2, 2, 2)),
    34: Family((64, 128, 256, 512), (3, 4, 6, 3)),
    50: Family((256, 512, 1024, 2048), (3, 4, 6, 3), bottleneck=True),
    101: Family((256, 512, 1024, 2048), (3, 4, 23, 3), bottleneck=True),
    152: Family((256, 512, 1024, 2048), (3, 8, 36, 3), bottleneck=True),
}


def resnet_elastic(
    *,
    depth: int = 20,
    choices: str | Sequence[str] = ("width", "depth"),
    in_channels: int = 3,
    num_classes: int = 10,
    image_size: ImageSize = 32,
    widths: Sequence[int] | None = None,
    width_ratios: Sequence[float] | None = None,
    depths: Sequence[int] | Sequence[Sequence[int]] | None = None,
    group_sizes: Sequence[int | str] | None = None,
    groups: Sequence[int] | None = None,
    kernels: Sequence[int] | None = None,
    kernel_transforms: bool | None = None,
    operators: Sequence[str] | None = None,
    resolutions: Sequence[int] | None = None,
    head_operators: Sequence[str] | None = None,
    stem: str | None = None,
) -> SearchSpace:
    """An elastic ResNet.

    Args:
        depth: the family: 20, 32, 44, 56, 110 (three stages, for small images), 18, 34, 50, 101, 152 (four stages).
        choices: what is searched, as names or one string of names joined by commas: `width` (of each stage, and inside each
            block), `depth` (blocks of each stage), `groups` (of each spatial convolution), `kernel` (of each block), `pooling`
            (before which blocks, and by which operator), `resolution`, `head` (what pools the whole image). All else is as in the
            usual network.
        in_channels, num_classes, image_size: of the images (height and width in pixels, one number or a pair) and classes.
        widths: channels of each stage, in place of the family's.
        width_ratios: widths as fractions of those. Default: 0.5, 0.75, 1; with `groups` 0.5, 1.
        depths: blocks that a stage can have: one list for all stages, or a list for each. Default: up to two fewer than usual.
        group_sizes: channels per group, constant whatever the width, `dense` for one group. Default: 2, 4, dense (CIFAR
            families), 8, 16, dense.
        groups: the number of groups, in place of `group_sizes`.
        kernels: sizes of spatial kernels. Default: 3, 5. Convolutions of size 1 have no groups.
        kernel_transforms: whether smaller kernels are a learned transform of the centre of the largest, not the centre itself.
        operators: of `search_spaces.pooling.POOLINGS`, for pooling; several are a choice. Default: max, avg, conv.
        resolutions: pixels to which the shorter side of images is resized. Default: 3/4, 7/8 and all of it, without those too small
            for the poolings.
        head_operators: of `elastic_head.HEAD_OPERATORS`, best from the cheapest to the dearest. Default: avg, gem, simpool.
        stem: `small` (3x3 convolution) or `large` (7x7 with stride 2, 3x3 max pooling with stride 2). Default: small for CIFAR
            families.

    Raises:
        ValueError: an unknown or unneeded option, a depth of zero, images too small for the poolings, or widths that groups do not
            divide; the message lists those that work.
    """
    if depth not in FAMILIES:
        raise ValueError(f"`depth` must be one of {', '.join(map(str, FAMILIES))}; got {depth}")
    family = _widened(FAMILIES[depth], widths)
    height, width = check_images(in_channels, num_classes, image_size)
    given = {
        "width.width_ratios": width_ratios,
        "depth.depths": depths,
        "groups.group_sizes": group_sizes,
        "groups.groups": groups,
        "kernel.kernels": kernels,
        "kernel.kernel_transforms": kernel_transforms,
        "pooling.operators": operators,
        "resolution.resolutions": resolutions,
        "head.head_operators": head_operators,
    }
    on = switched_on(choices, CHOICES, given)
    stem = family.stem if stem is None else stem
    if stem not in ("small", "large"):
        raise ValueError(f"`stem` must be small or large; got {stem!r}")
    ratios = tuple(width_ratios or ((0.5, 1.0) if "groups" in on else (0.5, 0.75, 1.0)))
    each_depth = stage_depths(
        depths or [range(max(1, usual - 2), usual + 1) for usual in family.depths], len(family.depths)
    )
    kernel_sizes = integers("kernels", kernels or (3, 5), 1, LARGEST_KERNEL, odd=True)
    found_operators = (operators,) if isinstance(operators, str) else tuple(operators or OPERATORS)
    check_operators(found_operators)
    poolings, stem_stride = len(family.widths) - 1, 4 if stem == "large" else 1
    shorter = min(height, width)
    sides: tuple[int, ...] = (shorter,)
    if "resolution" in on:
        usual = usual_resolutions(shorter, stem_stride * 2**poolings)
        sides = integers("resolutions", resolutions or usual, 1)
    check_image_size(min(sides), poolings, stem_stride)
    grouped, by_size = _grouped(family, group_sizes, groups)
    settings = Settings(on)
    chain = Chain(
        settings,
        widths=family.widths,
        depths=each_depth if "depth" in on else tuple((usual,) for usual in family.depths),
        bottleneck=family.bottleneck,
        ratios=ratios,
        kernels=kernel_sizes,
        transforms=kernel_sizes if kernel_transforms else (),
        grouped=grouped,
        by_size=by_size,
        operators=found_operators,
        head_operators=check_head_operators(head_operators),
    )
    blocks = chain.blocks(in_channels, num_classes, sides, stem)
    options = {
        "depth": depth,
        "choices": list(on),
        "in_channels": in_channels,
        "num_classes": num_classes,
        "image_size": image_size_of(height, width),
        "stem": stem,
        **({} if widths is None else {"widths": plain(widths)}),
        **{path.split(".")[1]: plain(value) for path, value in given.items() if value is not None},
    }
    return SearchSpace(
        name="resnet-elastic",
        choices=tuple(settings.choices),
        labels=code_labels(settings.choices),
        network=Network(blocks, (in_channels, height, width), num_classes),
        options=options,
    )


def _widened(family: Family, widths: Sequence[int] | None) -> Family:
    if widths is None:
        return family
    if len(widths) != len(family.widths) or any(
        type(width) is not int or not 1 <= width <= MOST_CHANNELS for width in widths
    ):
        raise ValueError(
            f"`widths` must be positive integers, one for each of {len(family.widths)} stages; got {quoted(list(widths))}; "
            f"at most {MOST_CHANNELS:,}"
        )
    return replace(family, widths=tuple(widths))


def _grouped(
    family: Family, sizes: Sequence[int | str] | None, numbers: Sequence[int] | None
) -> tuple[tuple[Value, ...], bool]:
    """The values of a choice of groups, from the cheapest to the dearest, and whether they are sizes."""
    if numbers is not None:
        if sizes is not None:
            raise ValueError(
                "`groups` (a constant number) and `group_sizes` (a constant size) exclude each other; give one"
            )
        return integers("groups", numbers, 1)[::-1], False
    sizes = sizes or family.group_sizes
    dense = ("dense",) if "dense" in sizes else ()
    channels = [size for size in sizes if size != "dense"]
    return (*(integers("group_sizes", channels, 1) if channels else ()), *dense), True  # type: ignore[arg-type]
