"""The ranks of a trained model's layers in its space: which can be chosen, what they lose, and what they are in an architecture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch.fx import Node

from pruners.allocation import CostModel, RankedLayer, Selection, ranked_layer
from pruners.groups import AxisGraph, Group
from pruners.importance import Directions, Moments, direction_damages, known_of
from pruners.operators import Axis
from pruners.surgery import Dense, Known, Removal
from search_spaces import Architecture


@dataclass(frozen=True)
class Ranks:
    """Layers with a choice of their rank.

    Attributes:
        layers: name of the choice to the layer.
    """

    layers: Mapping[str, RankedLayer]

    @classmethod
    def of(cls, graph: AxisGraph, layers: Sequence[Dense], ignore: Sequence[str], steps: int, multiple: int) -> Ranks:
        """Those that save something, but for those of which the module, one around it, its weight or its rank is ignored."""
        found = {}
        for layer in layers:
            parts = layer.name.split(".")
            modules = {".".join(parts[: i + 1]) for i in range(len(parts))}
            ranked = ranked_layer(graph, layer, steps, multiple)
            if ranked is not None and not {*modules, ranked.tensor, rank_name(layer)} & set(ignore):
                found[rank_name(layer)] = ranked
        return cls(found)

    @cached_property
    def groups(self) -> list[Group]:
        """The layers as groups, whose indices are directions of their outputs."""
        return [layer.group for layer in self.layers.values()]

    @property
    def kept(self) -> dict[str, tuple[int, ...]]:
        """Name of a choice to what may stay."""
        return {name: layer.ranks for name, layer in self.layers.items()}

    def counts(self, arch: Architecture) -> dict[Axis, int]:
        """The ranks that are chosen, by their axes."""
        return {
            layer.group.axis: rank for name, layer in self.layers.items() if isinstance(rank := arch.get(name), int)
        }

    def within(self, arch: Architecture, counts: Mapping[Axis, int]) -> dict[str, int]:
        """Name of a layer that becomes two to its rank at the widths of an architecture."""
        every = {**counts, **self.counts(arch)}
        ranks = {layer.layer.name: int(layer.rank(every)) for name, layer in self.layers.items() if name in arch}
        return {name: rank for name, rank in ranks.items() if rank}

    def known(
        self,
        removal: Removal,
        ranks: Mapping[str, int],
        moments: Mapping[Node, Moments],
        measured: Mapping[str, Directions],
    ) -> dict[str, Known]:
        """What data say of what stays of layers of low rank."""
        found = {}
        for ranked in self.layers.values():
            layer = ranked.layer
            if layer.name in ranks and layer.weight in moments:
                seen = measured.get(layer.name)
                found[layer.name] = known_of(
                    removal, layer, moments[layer.weight], None if seen is None else seen.sensitivity
                )
        return found

    def measured(self, selection: Selection) -> dict[str, Directions]:
        """What directions of the layers' outputs are worth; nothing without scores that are changes of the outputs."""
        batches = selection.evidence.batches
        if not self.layers or batches is None:
            return {}
        return direction_damages(
            selection.graph, [ranked.layer for ranked in self.layers.values()], batches, seed=selection.evidence.seed,
            bounds=selection.evidence.bounds, samples=selection.samples(3), progress=selection.progress, tell=selection.evidence.tell,
        )  # fmt: skip

    def scores(self, measured: Mapping[str, Directions]) -> dict[str, torch.Tensor]:
        """Name of a choice to what each direction is worth; nothing where no example reaches the layer."""
        none = {name: torch.zeros(ranked.group.size) for name, ranked in self.layers.items()}
        found = {
            name: measured[ranked.layer.name].damages
            for name, ranked in self.layers.items()
            if ranked.layer.name in measured
        }
        return {**none, **found}

    def spare(self, cost: CostModel) -> CostModel:
        """Costs that know the ranks."""
        return cost.with_ranks(tuple(self.layers.values())) if self.layers else cost


def rank_name(layer: Dense) -> str:
    """What the choice of a layer's rank is called."""
    return f"{layer.name}.rank"
