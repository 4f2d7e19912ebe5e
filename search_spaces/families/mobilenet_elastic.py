"""Elastic MobileNets: kernel, expansion, depth, width, resolution, squeeze-excitation and head.

Reference: Cai et al., "Once-for-All: Train One Network and Specialize it for Efficient Deployment", ICLR 2020, arXiv:1908.09791: its
MobileNetV3 space, with kernel and expansion of each block and the depth of each stage.
Differs: widths and squeeze-excitation can be searched too; a squeeze has a quarter of the channels, not rounded to eights; hard swish
starts at the third stage, and the classifier has no dropout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from search_spaces.core import (
    LARGEST_EXPANSION,
    LARGEST_KERNEL,
    Block,
    ImageSize,
    Local,
    Network,
    SearchSpace,
    Setting,
    Settings,
    Value,
    check_images,
    code_labels,
    fixed,
    image_size_of,
    integers,
    plain,
    reading,
    stage_depths,
    switched_on,
    usual_resolutions,
    widths,
)
from search_spaces.layers import (
    ConvNorm,
    ElasticInvertedResidual,
    ElasticLinear,
    InvertedForm,
    Resize,
    check_head_operators,
    elastic_block,
    head_block,
)
from search_spaces.pooling import check_image_size

CHOICES = ("kernel", "expansion", "depth", "width", "resolution", "se", "head")
FIRST, LAST, FEATURES = 16, 960, 1280


@dataclass(frozen=True)
class Stage:
    """The usual width of a stage, the stride of its first block for small and for large images, and the rest of its blocks."""

    width: int
    small_stride: int
    large_stride: int
    squeezes: bool
    activation: type[nn.Module]


STAGES = (
    Stage(24, 1, 2, False, nn.ReLU),
    Stage(40, 2, 2, True, nn.ReLU),
    Stage(80, 2, 2, False, nn.Hardswish),
    Stage(112, 1, 1, True, nn.Hardswish),
    Stage(160, 2, 2, True, nn.Hardswish),
)


def mobilenet_elastic(
    *,
    choices: str | Sequence[str] = ("kernel", "expansion", "depth"),
    in_channels: int = 3,
    num_classes: int = 1000,
    image_size: ImageSize = 224,
    kernels: Sequence[int] | None = None,
    kernel_transforms: bool | None = None,
    expansions: Sequence[int] | None = None,
    depths: Sequence[int] | Sequence[Sequence[int]] | None = None,
    width_ratios: Sequence[float] | None = None,
    resolutions: Sequence[int] | None = None,
    head_operators: Sequence[str] | None = None,
    stem: str | None = None,
) -> SearchSpace:
    """An elastic MobileNet of five stages.

    Args:
        choices: what is searched, as names or one string of names joined by commas: `kernel` and `expansion` (of each block),
            `depth` and `width` (of each stage), `resolution`, `se` (squeeze-excitation in each block or not), `head` (what pools the
            whole image). All else is as usual: kernel 3, expansion 6, four blocks a stage, squeeze-excitation in stages 2, 4 and 5.
        in_channels, num_classes, image_size: of the images (height and width in pixels, one number or a pair) and classes.
        kernels: sizes of depthwise kernels. Default: 3, 5, 7.
        kernel_transforms: whether smaller kernels are a learned transform of the centre of the largest, not the centre itself.
        expansions: channels inside a block, as multiples of its input's, from 2. Default: 3, 4, 6.
        depths: blocks that a stage can have: one list for all stages, or a list for each. Default: 2, 3, 4.
        width_ratios: widths as fractions of the usual ones. Default: 0.5, 0.75, 1.
        resolutions: pixels to which the shorter side of images is resized. Default: 3/4, 7/8 and all of it, without those too small.
        head_operators: of `elastic_head.HEAD_OPERATORS`, best from the cheapest to the dearest. Default: avg, gem, simpool.
        stem: `large` halves the resolution five times, `small` three times. Default: large from 96 pixels on, of the shorter side.

    Raises:
        ValueError: an unknown or unneeded option, a depth of zero, or images too small.
    """
    height, width = check_images(in_channels, num_classes, image_size)
    given = {
        "kernel.kernels": kernels,
        "kernel.kernel_transforms": kernel_transforms,
        "expansion.expansions": expansions,
        "depth.depths": depths,
        "width.width_ratios": width_ratios,
        "resolution.resolutions": resolutions,
        "head.head_operators": head_operators,
    }
    on = switched_on(choices, CHOICES, given)
    shorter = min(height, width)
    stem = ("large" if shorter >= 96 else "small") if stem is None else stem
    if stem not in ("small", "large"):
        raise ValueError(f"`stem` must be small or large; got {stem!r}")
    sides: tuple[int, ...] = (shorter,)
    halvings = 5 if stem == "large" else 3
    if "resolution" in on:
        sides = integers("resolutions", resolutions or usual_resolutions(shorter, 2**halvings), 1)
    check_image_size(min(sides), halvings)
    each_depth = stage_depths(depths or (2, 3, 4), len(STAGES)) if "depth" in on else ((4,),) * len(STAGES)
    kernel_sizes = integers("kernels", kernels or (3, 5, 7), 1, LARGEST_KERNEL, odd=True)
    expanding = integers("expansions", expansions or (3, 4, 6), 2, LARGEST_EXPANSION)
    ratios = tuple(width_ratios or (0.5, 0.75, 1.0))

    settings = Settings(on)
    resolution = settings.add("resolution", "resolution", sides, shorter)
    chain = [elastic_block("resize", (resolution.column,), Resize)] if resolution.column else []
    first_stride = 2 if stem == "large" else 1
    chain.append(elastic_block("stem", (), lambda: ConvNorm(in_channels, FIRST, 3, first_stride, nn.Hardswish)))
    first = InvertedForm(FIRST, 3, 1, squeezes=False)
    chain.append(
        elastic_block("first", (), lambda: ElasticInvertedResidual(FIRST, FIRST, 3, 1, residual=True), lambda: first)
    )
    blocks = _Blocks(settings, kernel_sizes, expanding, kernel_sizes if kernel_transforms else (), stem)
    before = fixed(FIRST)
    for number, stage in enumerate(STAGES, start=1):
        channels = settings.add(
            "width", f"stage{number}.width", widths(stage.width, ratios, f"stage {number}"), stage.width
        )
        chain += blocks.stage(number, stage, before, channels, each_depth[number - 1])
        before = channels
    widest = max(before.sizes)
    chain.append(elastic_block("last", (), lambda: ConvNorm(widest, LAST, 1, 1, nn.Hardswish)))
    chain.append(head_block(settings, check_head_operators(head_operators), (LAST,), lambda: _classifier(num_classes)))
    return SearchSpace(
        name="mobilenet-elastic",
        choices=tuple(settings.choices),
        labels=code_labels(settings.choices),
        network=Network(tuple(chain), (in_channels, height, width), num_classes),
        options={
            "choices": list(on),
            "in_channels": in_channels,
            "num_classes": num_classes,
            "image_size": image_size_of(height, width),
            "stem": stem,
            **{path.split(".")[1]: plain(value) for path, value in given.items() if value is not None},
        },
    )


@dataclass(frozen=True)
class _Blocks:
    """Makes the blocks of the stages, and collects their choices."""

    settings: Settings
    kernels: tuple[int, ...]
    expansions: tuple[int, ...]
    transforms: tuple[int, ...]
    stem: str

    def stage(self, number: int, stage: Stage, before: Setting, width: Setting, depths: tuple[int, ...]) -> list[Block]:
        """The blocks of a stage, which are counted from 1."""
        depth = self.settings.add("depth", f"stage{number}.depth", depths, depths[-1])
        return [
            self._block(f"stage{number}.block{at}", at, stage, before if at == 1 else width, width, depth)
            for at in range(1, depths[-1] + 1)
        ]

    def _block(self, name: str, at: int, stage: Stage, before: Setting, width: Setting, depth: Setting) -> Block:
        present = tuple(value for value in depth.sizes if value >= at)
        optional = present != depth.values
        when: dict[str, tuple[Value, ...]] = {depth.column: present} if optional and depth.column else {}
        kernel = self.settings.add("kernel", f"{name}.kernel", self.kernels, 3, when)
        expansion = self.settings.add("expansion", f"{name}.expansion", self.expansions, 6, when)
        se = self.settings.add("se", f"{name}.se", (0, 1), int(stage.squeezes), when)
        stride = stage.large_stride if self.stem == "large" else stage.small_stride

        def make() -> nn.Module:
            return ElasticInvertedResidual(
                max(before.sizes),
                max(width.sizes),
                max(kernel.sizes),
                max(expansion.sizes),
                stride=stride if at == 1 else 1,
                squeezes=1 in se.values,
                residual=at > 1,
                activation=stage.activation,
                transforms=self.transforms,
            )

        def form(depth: int, width: int, kernel: int, expansion: int, se: int) -> Local:
            return InvertedForm(width, kernel, expansion, bool(se)) if depth >= at else None

        columns, read = reading([depth if optional else fixed(at), width, kernel, expansion, se], form)
        return elastic_block(name.replace(".", "_"), columns, make, read)


def _classifier(num_classes: int) -> list[nn.Module]:
    return [ElasticLinear(LAST, FEATURES), nn.Hardswish(), ElasticLinear(FEATURES, num_classes)]
