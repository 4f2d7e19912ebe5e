"""Operators that move data between channels and space, or among channels by groups."""

from __future__ import annotations

import math

from torch.fx import Node

from pruners.operators.axes import factor, freeze, product, tie
from pruners.operators.rule import Arguments, Dims, Rule, Walk, broadcast, frozen


def pixel_shuffle(walk: Walk, node: Node, a: Arguments) -> Dims:
    """(..., C r r, H, W) to (..., C, H r, W r)."""
    r = a["upscale_factor"]
    *rest, channels, height, width = walk.dims(a["self"])
    channels, r1, r2 = factor(channels, (channels.size // r**2, r, r))
    for axis in (r1, r2, height, width):
        freeze(axis, "space of a pixel shuffle")
    return [*rest, channels, product((height, r1)), product((width, r2))]


def pixel_unshuffle(walk: Walk, node: Node, a: Arguments) -> Dims:
    """(..., C, H r, W r) to (..., C r r, H, W)."""
    r = a["downscale_factor"]
    *rest, channels, height, width = walk.dims(a["self"])
    freeze(height, "space of a pixel shuffle")
    freeze(width, "space of a pixel shuffle")
    inner = frozen((r, r), "space of a pixel shuffle")
    return [
        *rest,
        product((channels, *inner)),
        *frozen((height.size // r, width.size // r), "space of a pixel shuffle"),
    ]


def unfold_windows(walk: Walk, node: Node, a: Arguments) -> Dims:
    """(N, C, H, W) to (N, C kh kw, L): the windows' contents as channels."""
    *batch, channels, height, width = walk.dims(a["self"])
    for axis in (height, width):
        freeze(axis, "space of windows")
    window = frozen(a["kernel_size"], "space of windows")
    return [*batch, product((channels, *window)), *frozen(walk.shape(node)[-1:], "space of windows")]


def slices(walk: Walk, node: Node, a: Arguments) -> Dims:
    """(..., L, ...) to (..., windows, ..., size): slices of one dimension, which may overlap, with their contents at the end."""
    x = list(walk.dims(a["self"]))
    dim = a["dimension"] % len(x)
    freeze(x[dim], "space of windows")
    x[dim], size = frozen((walk.shape(node)[dim], a["size"]), "space of windows")
    return [*x, size]


def fold_windows(walk: Walk, node: Node, a: Arguments) -> Dims:
    """(N, C kh kw, L) to (N, C, H, W): overlapping windows added up."""
    *batch, contents, positions = walk.dims(a["self"])
    kernel = a["kernel_size"]
    channels, *window = factor(contents, (contents.size // math.prod(kernel), *kernel))
    for axis in (*window, positions):
        freeze(axis, "space of windows")
    return [*batch, channels, *frozen(walk.shape(node)[-2:], "space of windows")]


def unpool(walk: Walk, node: Node, a: Arguments) -> Dims:
    """Values (..., C, H, W) to the places (..., C, H, W) that a pooling took them from."""
    *channels, height, width = broadcast(walk.dims(a["self"]), walk.dims(a["indices"]))
    for axis in (height, width):
        freeze(axis, "space of a pooling")
    return [*channels, *frozen(walk.shape(node)[-2:], "space of a pooling")]


def grid_sample(walk: Walk, node: Node, a: Arguments) -> Dims:
    """x (N, C, space) at the points of a grid (N, space, 2 or 3), whose numbers address x."""
    (batch, channels, *space), (batch_of_grid, *grid) = walk.dims(a["input"]), walk.dims(a["grid"])
    tie(batch, batch_of_grid)
    for axis in (*space, *grid):
        freeze(axis, "space of a grid")
    return [batch, channels, *grid[:-1]]


def channel_shuffle(walk: Walk, node: Node, a: Arguments) -> Dims:
    x = list(walk.dims(next(value for value in a.values() if isinstance(value, Node))))
    outer, inner = factor(x[1], (a["groups"], x[1].size // a["groups"]))
    x[1] = product((inner, outer))
    return x


SPACE_MOVES: dict[str, Rule] = {
    "pixel_shuffle": pixel_shuffle, "pixel_unshuffle": pixel_unshuffle, "im2col": unfold_windows, "col2im": fold_windows,
    "unfold": slices, "max_unpool2d": unpool,
    **dict.fromkeys(("grid_sampler", "grid_sampler_2d", "grid_sampler_3d"), grid_sample),
    "channel_shuffle": channel_shuffle, "native_channel_shuffle": channel_shuffle,
}  # fmt: skip
