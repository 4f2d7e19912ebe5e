"""What an allocation decides on, at what costs: items that lose indices, the damage of that, and budgets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pruners.allocation.costs import CostModel, Part
from pruners.operators import Axis

Counts = dict[str, int]  # indices removed per group
Damage = NDArray[np.float64]  # of losing 0, 1, ... indices


class Item(NamedTuple):
    """What a program decides on: how many indices of an axis go.

    Attributes:
        name: of a group or block.
        axis: what it is in the costs.
        size: number of indices; 1 of a block.
        inside: of a block, the items that go with it.
    """

    name: str
    axis: Axis
    size: int
    inside: tuple[Item, ...] = ()

    @property
    def under(self) -> Iterator[Item]:
        """All items that go with a block, at any depth."""
        for item in self.inside:
            yield item
            yield from item.under


@dataclass(frozen=True)
class Program:
    """Least damage within budgets.

    Attributes:
        items: groups and blocks that may lose indices, those inside a block only there.
        damages: name to the damage of losing 0, 1, ... indices.
        levels: name to the numbers of indices it may lose, ascending.
        cost: exact costs, in which blocks are axes of size 1.
        budgets: name of a cost to what it may be.
    """

    items: Sequence[Item]
    damages: Mapping[str, Damage]
    levels: Mapping[str, Sequence[int]]
    cost: CostModel
    budgets: Mapping[str, float]
    _parts: dict[tuple[str, Axis], Part] = field(default_factory=dict, init=False)

    @cached_property
    def every(self) -> list[Item]:
        """All items, those inside blocks too."""
        return [item for outer in self.items for item in (outer, *outer.under)]

    @cached_property
    def places(self) -> dict[str, dict[int, int]]:
        """Name to the numbers of indices that it may lose, and their places among them."""
        return {name: {count: place for place, count in enumerate(levels)} for name, levels in self.levels.items()}

    @cached_property
    def touched(self) -> dict[str, list[Item]]:
        """Name of an item to those whose steps save something else, or do other damage, once it has changed."""
        by_axis = {item.axis: item for item in self.every}
        found: dict[str, dict[str, Item]] = {item.name: {item.name: item} for item in self.every}
        for item in self.every:
            axes = {axis for name in self.budgets for axis in self._part(name, item).axes}
            others = [by_axis[axis] for axis in axes if axis in by_axis]
            found[item.name].update({other.name: other for other in (*others, *item.under)})
            for other in item.under:
                found[other.name][item.name] = item
        return {name: list(items.values()) for name, items in found.items()}

    def damage(self, removed: Mapping[str, int]) -> float:
        """Total damage."""
        return float(sum(self.damages[name][count] for name, count in removed.items()))

    def kept(self, removed: Mapping[str, int]) -> dict[Axis, Any]:
        """Indices that stay of each axis."""
        return {item.axis: item.size - removed[item.name] for item in self.every}

    def change(self, kept: dict[Axis, Any], name: str, item: Item, count: Any) -> Any:
        """How a cost changes when one item keeps `count` indices instead, a number or an array."""
        part = self._part(name, item)
        return part({**kept, item.axis: count}) - part(kept)

    def total(self, kept: Mapping[Axis, Any], name: str) -> float:
        """A cost."""
        return self.cost.of(name)(kept)

    def _part(self, name: str, item: Item) -> Part:
        if (name, item.axis) not in self._parts:
            self._parts[name, item.axis] = self.cost.about(name, item.axis)
        return self._parts[name, item.axis]
