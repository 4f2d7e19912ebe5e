"""The cells of NAS-Bench-201: what runs along the six edges between four nodes, the same in every cell of the network.

Node 0 is the cell's input, node 3 its output, and a node is the sum of its edges. An edge carries nothing, its source, the
source's 3x3 average, or ReLU, convolution and BN of it.

Reference: Dong, Yang, "NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search", ICLR 2020, arXiv:2001.00326.
Differs: cells that compute the same function are one architecture (`nas_bench_201` says which are), and what reaches no output or is
reached by no input is not built. The published networks convolve the zeros of a node without inputs, which adds a learned constant.
"""

from __future__ import annotations

import copy
import itertools
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import cache
from typing import cast

import torch
import torch.nn.functional as F
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
from search_spaces.pooling import check_image_size

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
NAMES = tuple(f"edge{source}{target}" for source, target in EDGES)
KERNELS = {"nor_conv_1x1": 1, "nor_conv_3x3": 3}

Operations = tuple[str, ...]


class Cell(nn.Module):
    """One cell with the given operation on each of `EDGES`."""

    def __init__(self, channels: int, operations: Operations) -> None:
        super().__init__()
        self.operations = operations
        self.convs = nn.ModuleDict(
            {
                f"{operation}_{source}{target}": relu_conv_bn(channels, channels, KERNELS[operation])
                for (source, target), operation in zip(EDGES, operations, strict=True)
                if operation in KERNELS
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> the same shape; zeros where no path leads from the input to the output."""
        nodes: list[Tensor | None] = [x, None, None, None]
        for (source, target), operation in zip(EDGES, self.operations, strict=True):
            value, before = nodes[source], nodes[target]
            if operation == "none" or value is None:
                continue
            if operation in KERNELS:
                value = self.convs[f"{operation}_{source}{target}"](value)
            elif operation == "avg_pool_3x3":
                value = F.avg_pool2d(value, 3, 1, padding=1, count_include_pad=False)
            nodes[target] = value if before is None else before + value
        return torch.zeros_like(x) if nodes[3] is None else nodes[3]


class SharedCell(nn.Module):
    """A cell with both convolutions on every edge, whose weights serve every choice of operations."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = Cell(channels, ("none",) * len(EDGES))
        for source, target in EDGES:
            for operation, kernel in KERNELS.items():
                self.body.convs[f"{operation}_{source}{target}"] = relu_conv_bn(channels, channels, kernel)

    def forward(self, x: Tensor, local: Local) -> Tensor:
        self.body.operations = local  # type: ignore[assignment]
        return self.body(x)

    def extract(self, local: Local, in_shape: Shape) -> nn.Module:
        with torch.device("meta"):
            cell = Cell(in_shape[0], local)  # type: ignore[arg-type]
        cell.convs = nn.ModuleDict({name: copy.deepcopy(self.body.convs[name]) for name in cell.convs})
        return cell


class Reduction(nn.Module):
    """The residual block between stages: halves the resolution (rounded up) and changes the channels."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.first = relu_conv_bn(c_in, c_out, 3, stride=2)
        self.second = relu_conv_bn(c_out, c_out, 3)
        self.shortcut = nn.Sequential(nn.AvgPool2d(2, ceil_mode=True), nn.Conv2d(c_in, c_out, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """(N, c_in, H, W) -> (N, c_out, H / 2, W / 2)."""
        return self.second(self.first(x)) + self.shortcut(x)


def relu_conv_bn(c_in: int, c_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """ReLU, convolution without bias, BN."""
    conv = nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(nn.ReLU(), conv, nn.BatchNorm2d(c_out))


def nas_bench_201(
    *, in_channels: int = 3, num_classes: int = 10, image_size: ImageSize = 32, channels: int = 16, cells: int = 5
) -> SearchSpace:
    """The space of NAS-Bench-201: 15,625 descriptions of a cell. Labels are the published `cellstr`.

    Two descriptions are one architecture if their cells compute the same function for any weights, with convolutions
    matched one to one. So these are folded: `none`, edges without a path from input to output, skips that only pass on
    a node, the order of nodes and of sums, and sums before or after an average, which is linear. It keeps apart what
    differs in training: one convolution that is used twice and two convolutions of the same input. The architecture is
    the first description in the order of `OPERATIONS`, so it has no dead edge.

    Args:
        in_channels: channels of the images.
        num_classes: logits.
        image_size: height and width of the images, in pixels, as one number or a pair.
        channels: of the first stage; the second has twice as many, the third four times.
        cells: in each stage.

    Raises:
        ValueError: an option that is no integer or too small.
    """
    height, width = check_images(in_channels, num_classes, image_size)
    for name, number in (("channels", channels), ("cells", cells)):
        if not isinstance(number, int) or number < 1:
            raise ValueError(f"`{name}` must be an integer of at least 1; got {number!r}")
    check_image_size(min(height, width), 2)
    widths = (channels, 2 * channels, 4 * channels)
    blocks = [_fixed("stem", lambda: _stem(in_channels, channels))]
    for stage, c_out in enumerate(widths, start=1):
        if stage > 1:
            blocks.append(_reduction(f"reduction{stage - 1}", c_out // 2, c_out))
        blocks += _cells(stage, c_out, cells)
    blocks.append(_fixed("head", lambda: _head(widths[-1], num_classes)))
    return SearchSpace(
        name="nas-bench-201",
        choices=tuple(Categorical(name, OPERATIONS) for name in NAMES),
        canonical=_canonical,
        labels=Labels(_write, _read),
        network=Network(tuple(blocks), (in_channels, height, width), num_classes),
        options={
            "in_channels": in_channels,
            "num_classes": num_classes,
            "image_size": image_size_of(height, width),
            "channels": channels,
            "cells": cells,
        },
    )


def _fixed(name: str, make: Callable[[], nn.Module]) -> Block:
    return Block(name, (), lambda: None, lambda local, shape: make(), lambda: SharedFixed(make()))


def _reduction(name: str, c_in: int, c_out: int) -> Block:
    return _fixed(name, lambda: Reduction(c_in, c_out))


def _cells(stage: int, channels: int, count: int) -> list[Block]:
    """The cells of a stage, made by one function so that they are counted once."""

    def alone(local: Local, shape: Shape) -> nn.Module:
        return Cell(channels, local)  # type: ignore[arg-type]

    def shared() -> SharedCell:
        return SharedCell(channels)

    names = [f"stage{stage}cell{number}" for number in range(1, count + 1)]
    return [Block(name, NAMES, _operations, alone, shared, alike=convolutions) for name in names]


def _operations(*values: Value) -> Local:
    return values


def convolutions(local: Local) -> Hashable:
    """What a cell costs: the convolutions that it holds, and those that run, as their edge's source is reached from the input."""
    reached, held, run = {0}, [], []
    for (source, target), operation in zip(EDGES, cast(Operations, local), strict=True):
        if operation in KERNELS:
            held.append(operation)
        if operation != "none" and source in reached:
            reached.add(target)
            if operation in KERNELS:
                run.append(operation)
    return tuple(sorted(held)), tuple(sorted(run))


def _stem(c_in: int, c_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(c_in, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out))


def _head(c_in: int, num_classes: int) -> nn.Sequential:
    parts = (nn.BatchNorm2d(c_in), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c_in, num_classes))
    return nn.Sequential(*parts)


# --- labels ---


def _write(values: Mapping[str, Value]) -> str:
    nodes = [[edge for edge in EDGES if edge[1] == target] for target in (1, 2, 3)]
    return "+".join("|" + "".join(f"{values[f'edge{a}{b}']}~{a}|" for a, b in edges) for edges in nodes)


def _read(text: str) -> Mapping[str, Value]:
    operations = re.findall(r"([^|+~]+)~\d", text)
    values = dict(zip(NAMES, operations, strict=False))
    if len(operations) != len(NAMES) or _write(values) != text:
        example = _write(dict.fromkeys(NAMES, OPERATIONS[1]))
        raise ValueError(
            f"a label must list operation~source node by node, as in {example}; got {quoted(text)}; "
            f"operations: {', '.join(OPERATIONS)}"
        )
    return values


# --- equal cells ---

Sum = Counter[tuple[int, int]]  # (convolution or -1 for the input, how often averaged) -> how often added


def _canonical(values: dict[str, Value]) -> dict[str, Value]:
    operations = _representatives()[tuple(str(values[name]) for name in NAMES)]
    return dict(zip(NAMES, operations, strict=True))


@cache
def _representatives() -> dict[Operations, Operations]:
    """The first description with the same function, for each of them."""
    first: dict[object, Operations] = {}
    every = itertools.product(OPERATIONS, repeat=len(EDGES))
    return {operations: first.setdefault(_function(operations), operations) for operations in every}


def _function(operations: Operations) -> object:
    """A value that two descriptions share exactly if their cells are the same function.

    Everything but a convolution is linear, so a node is a sum of averaged convolutions and of the averaged input. What is left
    is to name the convolutions: sorted by what they compute, and in the order that writes the smallest among equal ones.
    """
    convs, output = _sums(operations)
    unfolded: list[object] = []

    def terms(value: Sum, name: Callable[[int], object]) -> tuple:
        return tuple(sorted((power, count, name(conv)) for (conv, power), count in value.items()))

    for operation, value in convs:
        unfolded.append((operation, terms(value, lambda conv: repr(unfolded[conv]) if conv >= 0 else "")))
    used = _used(convs, output)
    order = sorted(used, key=lambda conv: repr(unfolded[conv]))
    groups = [list(group) for _, group in itertools.groupby(order, key=lambda conv: repr(unfolded[conv]))]

    def written(named: Iterable[Sequence[int]]) -> tuple:
        position = {conv: at for at, conv in enumerate(itertools.chain.from_iterable(named))} | {-1: -1}
        return (*((convs[c][0], terms(convs[c][1], position.__getitem__)) for c in position if c >= 0),
                terms(output, position.__getitem__))  # fmt: skip

    return min(written(named) for named in itertools.product(*map(itertools.permutations, groups)))


def _sums(operations: Operations) -> tuple[list[tuple[str, Sum]], Sum]:
    """The convolutions of a cell, each with the sum that it is applied to, and the sum that leaves the cell."""
    convs: list[tuple[str, Sum]] = []
    nodes: list[Sum] = [Counter({(-1, 0): 1}), Counter(), Counter(), Counter()]
    for (source, target), operation in zip(EDGES, operations, strict=True):
        value = nodes[source]
        if operation == "none" or not value:
            continue
        if operation in KERNELS:
            convs.append((operation, value))
            value = Counter({(len(convs) - 1, 0): 1})
        elif operation == "avg_pool_3x3":
            value = Counter({(conv, power + 1): count for (conv, power), count in value.items()})
        nodes[target] = nodes[target] + value
    return convs, nodes[3]


def _used(convs: Sequence[tuple[str, Sum]], output: Sum) -> set[int]:
    """The convolutions that the output depends on."""
    used = {conv for conv, _ in output} - {-1}
    for conv in reversed(range(len(convs))):
        if conv in used:
            used |= {inner for inner, _ in convs[conv][1]} - {-1}
    return used
