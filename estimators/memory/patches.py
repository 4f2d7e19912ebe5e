"""Inference patch by patch: less memory for the first layers of a network, paid for by computing twice where patches overlap.

The output map of the network's first stage is cut into p x p tiles. For each tile, only the region of the image that it depends on goes
through the stage. The rest of the network then runs as usual.

Reference: Lin et al., "MCUNetV2: Memory-Efficient Patch-based Inference for Tiny Deep Learning", NeurIPS 2021, arXiv:2110.15352.
Differs: tiles at the border are as small as they are, unless `clipped` is False; of the image, only the region that a tile reads is
counted; receptive fields are not redistributed for the user.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import Node

from estimators.counting import count
from estimators.memory.ordering import best_order
from estimators.memory.patch_stage import Region, Stage, aten
from estimators.memory.peak import peak_memory


@dataclass(frozen=True)
class PatchCost:
    """What a network costs when its first blocks run patch by patch.

    Attributes:
        blocks: how many of its blocks are in that stage.
        patches: p, for p x p tiles; 1 is inference as usual.
        peak_bytes: the larger of the two that follow.
        stage_bytes: the stage's whole output, and the most that one tile holds beside it.
        rest_bytes: peak of the rest of the network.
        macs: of the whole network for one sample, recomputation included.
        extra_macs: those that recomputation adds.
    """

    blocks: int
    patches: int
    peak_bytes: int
    stage_bytes: int
    rest_bytes: int
    macs: int
    extra_macs: int


def patched_cost(
    network: nn.Sequential,
    input_shape: Sequence[int],
    blocks: int,
    patches: int,
    *,
    element_bytes: int | None = None,
    clipped: bool = True,
) -> PatchCost:
    """Peak memory and macs of a network whose first blocks run in patches x patches tiles.

    Args:
        network: its blocks in order.
        input_shape: (channels, height, width).
        blocks: how many form the stage; convolutions, pooling windows, batch norms and element-wise operators only.
        patches: tiles along each side of the stage's output.
        element_bytes: 1 for int8; by default that of the dtype.
        clipped: False counts every tile with its full halo, even outside the image: for a device that runs one program
            for all tiles.

    Raises:
        ValueError: an operator of the stage needs the whole map (it is named), or there are more tiles than rows or columns, or
            `blocks` is not 1 to the number of blocks less 1.
    """
    return _Split(network, tuple(input_shape), blocks, element_bytes).cost(patches, clipped)


def choose_patches(
    network: nn.Sequential,
    input_shape: Sequence[int],
    limit_bytes: int,
    *,
    patches: Sequence[int] = (1, 2, 3, 4),
    element_bytes: int | None = None,
) -> PatchCost:
    """The number of first blocks and of patches that meets a memory limit with the fewest macs, then the lowest peak.

    Args:
        network: its blocks in order. Stages end where a block needs the whole map; inference as usual asks nothing of the blocks.
        input_shape: (channels, height, width).
        limit_bytes: of activations.
        patches: what to try; 1 is inference as usual.
        element_bytes: 1 for int8; by default that of the dtype.

    Raises:
        ValueError: nothing meets the limit; the message says what comes nearest.
    """
    shape, found, tiled = tuple(input_shape), [], [each for each in patches if each != 1]
    if len(tiled) < len(patches):
        peak = peak_memory(network, shape, element_bytes=element_bytes).peak_bytes
        found.append(as_usual(1, peak, count(network, shape).total.macs))
    for blocks in range(1, len(network)):
        try:
            split = _Split(network, shape, blocks, element_bytes)
        except ValueError:
            break
        found += [split.cost(each) for each in tiled if each <= split.largest]
    if not found:
        raise ValueError(
            f"`network` must start with a block that can run in one of {list(patches)} patches a side and go on with another; "
            "add 1 to `patches` for inference as usual"
        )
    least = best_plan(found, limit_bytes)
    if least.peak_bytes > limit_bytes:
        raise ValueError(
            f"`limit_bytes` must be at least {least.peak_bytes}, which {least.patches} x {least.patches} patches of {least.blocks} "
            f"blocks take, got {limit_bytes}; allow more memory, or more patches, or use a smaller image"
        )
    return least


def best_plan(found: Sequence[PatchCost], limit_bytes: float | None) -> PatchCost:
    """The one with the fewest macs, then the lowest peak, that keeps the limit; where none does or there is none, the lowest peak."""
    allowed = [] if limit_bytes is None else [cost for cost in found if cost.peak_bytes <= limit_bytes]
    if allowed:
        return min(allowed, key=lambda cost: (cost.macs, cost.peak_bytes))
    return min(found, key=lambda cost: (cost.peak_bytes, cost.macs))


def run_patched(stage: nn.Module, images: Tensor, patches: int) -> Tensor:
    """What `stage(images)` gives in evaluation mode, tile by tile, up to rounding.

    Args:
        stage: as in `patched_cost`; it is left as it was.
        images: (batch, channels, height, width).
        patches: tiles along each side of the output.

    Raises:
        ValueError: as `patched_cost`.
    """
    graph = Stage.of(stage, (images[:1],))
    with torch.no_grad():
        rows = [torch.cat([graph.run(images, tile) for tile in row], 3) for row in tiles(graph, patches)]
    return torch.cat(rows, 2)


def as_usual(blocks: int, peak: int, macs: int) -> PatchCost:
    """The cost of inference without patches."""
    return PatchCost(blocks, 1, peak, peak, peak, macs, 0)


class _Split:
    """A network cut after its first blocks; see `patched_cost`."""

    def __init__(self, network: nn.Sequential, shape: tuple[int, ...], blocks: int, element_bytes: int | None) -> None:
        if not 0 < blocks < len(network):
            raise ValueError(f"`blocks` must be 1 to {len(network) - 1}, one less than the network has, got {blocks}")
        self.network, self.shape, self.blocks, self.element_bytes = network, shape, blocks, element_bytes
        self.stage = Stage.of(network[:blocks], shape)
        self.largest = min(self.stage.sides[self.stage.output])
        output = self.stage.output.meta["val"]
        self.element = element_bytes or output.element_size()
        self.output_bytes = output.numel() * self.element
        self.macs = count(network, shape).total.macs
        self.rest_bytes = peak_memory(network[blocks:], output.shape[1:], element_bytes=element_bytes).peak_bytes

    def cost(self, patches: int, clipped: bool = True) -> PatchCost:
        if patches == 1:
            peak = peak_memory(self.network, self.shape, element_bytes=self.element_bytes).peak_bytes
            return as_usual(self.blocks, peak, self.macs)
        stage, graph = self.stage, self.stage.graph
        cut = [stage.regions(tile, clipped) for row in tiles(stage, patches) for tile in row]
        distinct = {tile_sizes(stage, regions, self.element) for regions in cut}
        tile_bytes = max(best_order(graph.operations, sizes, graph.outputs).peak for sizes in distinct)
        everything = {node: ((0, rows), (0, columns)) for node, (rows, columns) in stage.sides.items()}
        extra = sum(macs_of(stage, regions) for regions in cut) - macs_of(stage, everything)
        stage_bytes = self.output_bytes + tile_bytes
        return PatchCost(
            self.blocks,
            patches,
            max(stage_bytes, self.rest_bytes),
            stage_bytes,
            self.rest_bytes,
            self.macs + extra,
            extra,
        )


def tiles(stage: Stage, patches: int) -> list[list[Region]]:
    """Tiles of the output, row by row, as equal as whole pixels allow."""
    sides = stage.sides[stage.output]
    if not 0 < patches <= min(sides):
        raise ValueError(
            f"`patches` must be 1 to the {min(sides)} rows or columns of the stage's output, got {patches}"
        )
    rows, columns = ([(at * side // patches, (at + 1) * side // patches) for at in range(patches)] for side in sides)
    return [[(row, column) for column in columns] for row in rows]


def tile_sizes(stage: Stage, regions: Mapping[Node, Region], element: int, written_out: bool = True) -> tuple[int, ...]:
    """Bytes of each buffer of one tile; where it is `written_out`, its part of the output goes straight into the whole."""
    graph, sizes = stage.graph, [0] * len(stage.graph.sizes)
    nodes = [(buffer, stage.image) for buffer in graph.inputs]
    nodes += [(op.writes[0], node) for op, node in zip(graph.operations, graph.nodes, strict=True) if node in regions]
    for buffer, node in nodes:
        value = node.meta["val"]
        channels = (value[0] if isinstance(value, (tuple, list)) else value).shape[1]
        sizes[buffer] = 0 if written_out and buffer in graph.outputs else channels * _area(regions[node]) * element
    return tuple(sizes)


def macs_of(stage: Stage, regions: Mapping[Node, Region]) -> int:
    """Of the convolutions, for these regions of what they put out."""
    return sum(
        _area(regions[node]) * stage.tensors[node.args[1]].numel()
        for node in stage.nodes
        if node.target is aten.conv2d.default
    )


def _area(region: Region) -> int:
    (top, bottom), (left, right) = region
    return (bottom - top) * (right - left)
