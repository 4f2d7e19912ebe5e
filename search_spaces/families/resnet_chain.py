"""The chain of blocks of an elastic ResNet, and the choices that its blocks read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import nn

from search_spaces.core import Block, Categorical, Local, Setting, Settings, Subset, Value, fixed, reading
from search_spaces.core import widths as widths_of
from search_spaces.layers import (
    DENSE,
    ConvNorm,
    ElasticLinear,
    ElasticResidual,
    Grouping,
    ResidualForm,
    Resize,
    check_groupings,
    elastic_block,
    head_block,
)
from search_spaces.pooling import make_pooling


@dataclass(frozen=True)
class Chain:
    """What an elastic ResNet is made of.

    Args:
        settings: collects the choices.
        widths: usual channels of each stage.
        depths: numbers of blocks that each stage can have.
        bottleneck: which kind of block; bottlenecks have a quarter of the channels inside.
        ratios: widths as fractions of the usual ones.
        kernels: sizes of spatial kernels.
        transforms: those that have a learned transform.
        grouped: values of a choice of groups, from the cheapest to the dearest.
        by_size: whether those are sizes of groups, not numbers.
        operators: what pools.
        head_operators: what pools the whole image before the classifier.
    """

    settings: Settings
    widths: tuple[int, ...]
    depths: tuple[tuple[int, ...], ...]
    bottleneck: bool
    ratios: tuple[float, ...]
    kernels: tuple[int, ...]
    transforms: tuple[int, ...]
    grouped: tuple[Value, ...]
    by_size: bool
    operators: tuple[str, ...]
    head_operators: tuple[str, ...]

    def blocks(self, in_channels: int, num_classes: int, sides: tuple[int, ...], stem: str) -> tuple[Block, ...]:
        """The blocks for images of `in_channels`, whose shorter side is one of `sides`; fills `settings` with the choices.

        Raises:
            ValueError: widths that groups do not divide.
        """
        resolution = self.settings.add("resolution", "resolution", sides, sides[-1])
        resize = [elastic_block("resize", (resolution.column,), Resize)] if resolution.column else []
        pools, operator = self._pooling()
        chain: list[Block] = []
        before: Setting | None = None
        for stage, start in enumerate(self._starts()):
            width = self._width(f"stage{stage + 1}.width", self.widths[stage], stage)
            if before is None:
                chain.append(self._stem(width, in_channels, stem))
            depths = self.depths[stage]
            depth = self.settings.add("depth", f"stage{stage + 1}.depth", depths, depths[-1])
            for number in range(1, max(depths) + 1):
                pool = pools.get(start + number - 1, fixed(0))
                entering = before if number == 1 else width
                chain.append(self._block(stage, number, entering, width, depth, pool, operator))
            before = width
        widest = max(width.sizes)
        head = head_block(self.settings, self.head_operators, width.sizes, lambda: [ElasticLinear(widest, num_classes)])
        return (*resize, *chain, head)

    def _starts(self) -> list[int]:
        """The position of the first block of each stage, counted from 1 through all blocks."""
        return [1 + sum(max(depths) for depths in self.depths[:stage]) for stage in range(len(self.depths))]

    def _pooling(self) -> tuple[dict[int, Setting], Setting]:
        """Whether each position pools, and the operator."""
        starts = self._starts()
        if "pooling" not in self.settings.on:
            return {start: fixed(1) for start in starts[1:]}, fixed("conv")
        items = [start + at for start, depths in zip(starts, self.depths, strict=True) for at in range(min(depths))]
        self.settings.choices.append(Subset("pools", tuple(items), len(starts) - 1))
        if len(self.operators) == 1:
            operator = fixed(self.operators[0])
        else:
            self.settings.choices.append(Categorical("operator", self.operators))
            operator = Setting("operator", self.operators)
        return {item: Setting(f"pools[{item}]", (0, 1)) for item in items}, operator

    def _width(self, name: str, usual: int, stage: int, when: dict[str, tuple[Value, ...]] | None = None) -> Setting:
        return self.settings.add("width", name, widths_of(usual, self.ratios, f"stage {stage + 1}"), usual, when)

    def _stem(self, width: Setting, c_in: int, kind: str) -> Block:
        share = 4 if self.bottleneck else 1
        columns, read = reading([width], lambda width: (width // share,))
        widest = max(width.sizes) // share

        def make() -> nn.Module:
            if kind == "small":
                return ConvNorm(c_in, widest)
            return ConvNorm(c_in, widest, 7, 2, lambda: nn.Sequential(nn.ReLU(), nn.MaxPool2d(3, 2, padding=1)))

        return elastic_block("stem", columns, make, read)

    def _block(
        self,
        stage: int,
        number: int,
        entering: Setting | None,
        width: Setting,
        depth: Setting,
        pool: Setting,
        operator: Setting,
    ) -> Block:
        """Block `number` of a stage, counted from 1; `entering` is the width before it, None after the stem."""
        add, name = self.settings.add, f"stage{stage + 1}.block{number}"
        present = tuple(value for value in depth.sizes if value >= number)
        optional = present != depth.values
        when: dict[str, tuple[Value, ...]] = {depth.column: present} if optional and depth.column else {}
        inner = self._width(f"{name}.inner", self.widths[stage] // (4 if self.bottleneck else 1), stage, when)
        kernel = add("kernel", f"{name}.kernel", self.kernels, 3, when)
        spatial = {**when, kernel.column: tuple(k for k in self.kernels if k > 1)} if kernel.column else when
        convs = ["conv2"] if self.bottleneck else ["conv1", "conv2"]
        suffix = "group_size" if self.by_size else "groups"
        groups = [add("groups", f"{name}.{conv}.{suffix}", self.grouped, None, spatial) for conv in convs]

        stem_widths = [value // 4 if self.bottleneck else value for value in width.sizes]
        ins = stem_widths if entering is None else entering.sizes
        inside = [(value, value) for value in inner.sizes]
        around = [list(product(ins, inner.sizes)), list(product(inner.sizes, width.sizes))]
        group_sizes = [
            self._group_size(f"stage {stage + 1}, block {number}, {conv}", pairs, group, kernel)
            for conv, pairs, group in zip(convs, [inside] if self.bottleneck else around, groups, strict=True)
        ]
        pooled = operator if 1 in pool.values else fixed(None)
        operators = [name for name in pooled.values if isinstance(name, str)]
        for operator_name, channels in product(operators, ins):
            with torch.device("meta"):
                make_pooling(operator_name, channels)  # raises where groups of channels do not fit
        kept = entering is width or (entering is None and not self.bottleneck)

        def make() -> nn.Module:
            return ElasticResidual(
                max(ins),
                max(width.sizes),
                max(inner.sizes),
                max(kernel.sizes),
                bottleneck=self.bottleneck,
                group_sizes=group_sizes,
                transforms=self.transforms,
                projects=not kept,
                operators=operators,
            )

        def form(depth: int, width: int, inner: int, kernel: int, pools: int, operator: str, *groups: Value) -> Local:
            if depth < number:
                return None
            return ResidualForm(width, inner, kernel, tuple(map(self._grouping, groups)), operator if pools else None)

        settings = [
            depth if optional else fixed(number),
            width,
            inner,
            kernel,
            pool,
            pooled,
            *groups,
        ]
        columns, read = reading(settings, form)
        return elastic_block(name.replace(".", "_"), columns, make, read)

    def _grouping(self, value: Value) -> Grouping:
        if not isinstance(value, int):
            return DENSE
        return Grouping(size=value) if self.by_size else Grouping(number=value)

    def _group_size(self, where: str, widths: Sequence[tuple[int, int]], groups: Setting, kernel: Setting) -> int:
        """The most inputs that an output of a convolution reads in any form."""
        groupings = [self._grouping(value) for value in groups.values]
        what = "group_sizes" if self.by_size else "groups"
        check_groupings(where, widths, groupings, f"; change `width_ratios` or `{what}`")
        if 1 in kernel.values:
            groupings.append(DENSE)
        return max(c_in // grouping.groups(c_in, c_out) for c_in, c_out in widths for grouping in groupings)
