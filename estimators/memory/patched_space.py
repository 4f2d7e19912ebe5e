"""Plans of inference patch by patch for the networks of a search space, from blocks that are traced once each.

Between two blocks of a chain one map is alive, so the peak of a network is that of its worst block, and the tile of a stage is found
block by block, from the last to the first.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from torch import nn

from estimators.counting import CostModel
from estimators.memory.ordering import best_order
from estimators.memory.patch_stage import Region, Stage
from estimators.memory.patches import PatchCost, as_usual, best_plan, macs_of, tile_sizes, tiles
from estimators.memory.peak import exported, memory_graph
from search_spaces import Architecture, SearchSpace
from search_spaces.core import Block, Local, Shape, quoted


class PatchModel:
    """What networks of a space cost when their first blocks may run patch by patch.

    Args:
        space: whose networks are chains of blocks.
        patches: tiles along each side that are tried; 1 is inference as usual.
        element_bytes: 1 for int8; by default that of the dtype.

    Leading blocks that have no weights and that no tile can go through, such as a choice of resolution, stand for the camera: their
    output is taken as the image.

    Reference: Lin et al., "MCUNetV2: Memory-Efficient Patch-based Inference for Tiny Deep Learning", NeurIPS 2021, arXiv:2110.15352
    (joint search of architecture and inference).
    Differs: see `patched_cost`; resolution is a choice of the space like any other, and strategies are those of the toolkit.

    Raises:
        ValueError: networks of the space are no chains of blocks on maps.
    """

    def __init__(
        self, space: SearchSpace, *, patches: Sequence[int] = (1, 2, 3, 4), element_bytes: int | None = None
    ) -> None:
        if not patches or any(each < 1 for each in patches):
            raise ValueError(f"`patches` must be numbers of tiles along a side, 1 or more, got {quoted(list(patches))}")
        shape = getattr(getattr(space, "net", None), "input_shape", ())
        if len(shape) != 3 or not hasattr(space.net, "blocks"):
            raise ValueError(
                f"inference patch by patch is for networks that are chains of blocks on images, and {space.name!r} has others; take "
                "peak_memory_bytes and macs"
            )
        self.space, self.patches, self.element_bytes = space, patches, element_bytes
        self._counted = CostModel(space)
        self._known: dict[Hashable, _Part] = {}
        self._blocks(space.sample(np.random.default_rng(0)))

    def choose(self, arch: Architecture, limit_bytes: float | None = None) -> PatchCost:
        """The plan that keeps a limit with the fewest macs, then the lowest peak; where none does, or without one, the lowest peak.

        Args:
            arch: of the space.
            limit_bytes: of activations.

        Raises:
            ValueError: the network is no chain of blocks, or cannot be traced.
        """
        return best_plan(self.plans(arch), limit_bytes)

    def plans(self, arch: Architecture) -> list[PatchCost]:
        """All of them, for each number of first blocks that can run patch by patch, and each number of patches."""
        chain = self._chain(arch)
        macs = self._counted.cost(arch).macs
        usual = max(part.peak for part in chain)
        found = [as_usual(1, usual, macs)] if 1 in self.patches else []
        stage: list[_Tiled] = []
        for blocks, part in enumerate(chain[:-1], 1):
            if part.tiled is None:
                break
            stage.append(part.tiled)
            rest = max(other.peak for other in chain[blocks:])
            for each in self.patches:
                if 1 < each <= part.tiled.largest:
                    cuts = [_backwards(stage, tile) for row in tiles(part.tiled.stage, each) for tile in row]
                    held = part.tiled.output_bytes + max(cut.peak for cut in cuts)
                    extra = sum(cut.macs for cut in cuts) - sum(tiled.macs for tiled in stage)
                    found.append(PatchCost(blocks, each, max(held, rest), held, rest, macs + extra, extra))
        if not found:
            raise ValueError(
                f"{self.space.label(arch)} cannot run in {list(self.patches)} patches a side; add 1 to them"
            )
        return found

    def _chain(self, arch: Architecture) -> list[_Part]:
        chain: list[_Part] = []
        for block, own in self._blocks(arch):
            key = (block.alone, *own)
            if key not in self._known:
                self._known[key] = _Part(block.alone(*own), own[1], self.element_bytes)
            part = self._known[key]
            if chain or part.tiled is not None or part.weighted:  # else the camera's
                chain.append(part)
        return chain

    def _blocks(self, arch: Architecture) -> list[tuple[Block, tuple[Local, Shape]]]:
        """With the local choice and the input shape that each sees."""
        network, locals = self.space.net, self.space.locals(arch)
        parts = list(network.parts(locals))
        if [part.seen for part in parts] != list(zip(locals, network.input_shapes(locals), strict=True)):
            raise ValueError(
                f"inference patch by patch is for chains of blocks, and {self.space.name!r} has paths or skip connections beside its "
                "blocks; take peak_memory_bytes and macs"
            )
        return [(part.block, part.seen) for part in parts]


class _Cut(NamedTuple):
    """A tile of what a block puts out: the region of its input that it depends on, and what it takes."""

    image: Region
    peak: int
    macs: int


class _Part:
    """A block on inputs of one shape.

    Attributes:
        peak: bytes, run as usual.
        weighted: whether it has weights.
        tiled: how it runs tile by tile; None where an operator needs the whole map.
    """

    def __init__(self, module: nn.Module, shape: tuple[int, ...], element_bytes: int | None) -> None:
        program = exported(module, shape)
        graph = memory_graph(program, element_bytes, in_place=True)
        self.peak = best_order(graph.operations, graph.sizes, graph.outputs).peak
        self.weighted = next(module.parameters(), None) is not None
        try:
            self.tiled: _Tiled | None = _Tiled(Stage(program), element_bytes)
        except ValueError:
            self.tiled = None


class _Tiled:
    """A block that runs tile by tile.

    Attributes:
        output_bytes: of all that it puts out.
        largest: tiles along a side at most.
        macs: of the whole map at once.
    """

    def __init__(self, stage: Stage, element_bytes: int | None) -> None:
        self.stage, output = stage, stage.output.meta["val"]
        self.element = element_bytes or output.element_size()
        self.output_bytes, self.largest = output.numel() * self.element, min(stage.sides[stage.output])
        self.macs = macs_of(stage, {node: _whole(sides) for node, sides in stage.sides.items()})
        self._cuts: dict[tuple[Region, bool], _Cut] = {}

    def cut(self, tile: Region, written_out: bool) -> _Cut:
        """See `_Cut`; the tile is `written_out` where it goes straight into the whole output."""
        key = tile, written_out
        if key not in self._cuts:
            regions, graph = self.stage.regions(tile), self.stage.graph
            sizes = tile_sizes(self.stage, regions, self.element, written_out)
            peak = best_order(graph.operations, sizes, graph.outputs).peak
            self._cuts[key] = _Cut(regions[self.stage.image], peak, macs_of(self.stage, regions))
        return self._cuts[key]


def _backwards(stage: Sequence[_Tiled], tile: Region) -> _Cut:
    """A tile of what a stage puts out, through all of its blocks."""
    peak = macs = 0
    for at, part in enumerate(reversed(stage)):
        cut = part.cut(tile, written_out=not at)
        tile, peak, macs = cut.image, max(peak, cut.peak), macs + cut.macs
    return _Cut(tile, peak, macs)


def _whole(sides: tuple[int, ...]) -> Region:
    rows, columns = sides
    return (0, rows), (0, columns)
