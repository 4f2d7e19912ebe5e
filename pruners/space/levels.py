"""How many indices a group may keep in a trained model's space."""

from __future__ import annotations

from pydantic import Field

from pruners.allocation import AlignedLimits, CostModel, Limits, aligned
from pruners.config import WidthsConfig, measured_multiple
from pruners.groups import AxisGraph, Group


class Levels(AlignedLimits):
    """Limits that leave of each group what its choice may keep: equal steps, rounded up to what is aligned.

    Attributes:
        steps: number of steps.
        measured: whether the multiple was measured, not asked for: then it yields in small groups.
        chosen: what was measured, in words; empty where nothing was.
        ranks: name of a group that is the rank of a layer to what may stay of it.
    """

    steps: int
    measured: bool = False
    chosen: str = ""
    ranks: dict[str, tuple[int, ...]] = Field(default_factory=dict)

    def step(self, group: Group) -> int:
        """What kept indices of a group are a multiple of."""
        return super().step(group) if self.measured else Limits.step(self, group)

    def at(self, group: Group, step: int) -> int:
        """How many indices of a group a step keeps."""
        multiple, share = self.step(group), -(-group.size * step // self.steps)
        return min(-(-share // multiple) * multiple, group.size)

    def kept(self, group: Group) -> list[int]:
        """How many indices of a group may stay, ascending."""
        if group.name in self.ranks:
            return list(self.ranks[group.name])
        return sorted({self.at(group, step) for step in range(1, self.steps + 1)})

    def removed(self, group: Group, wanted: int) -> int:
        """The largest number of indices that the choice lets go, of at most `wanted`."""
        return group.size - min(number for number in self.kept(group) if number >= group.size - wanted)

    @property
    def recorded(self) -> int | str:
        """The setting `round_to` that gives the same levels on any machine."""
        assert isinstance(self.round_to, int)
        return f"auto:{self.round_to}" if self.measured else self.round_to


def levels_of(
    config: WidthsConfig, graph: AxisGraph, groups: list[Group], cost: CostModel, milliseconds: bool
) -> Levels:
    """The levels of a space, with a number for `auto`.

    Args:
        config: what is asked for.
        graph: the traced model with its axes.
        groups: groups that may lose indices.
        cost: cost model of the traced model.
        milliseconds: whether milliseconds of this machine are what it is searched for.
    """
    known = measured_multiple(config.round_to)
    if known is not None:
        return Levels(steps=config.steps, round_to=known, measured=True)
    found = aligned(Limits.model_validate({"round_to": config.round_to}), graph, groups, cost, {}, milliseconds)
    measured = isinstance(found.limits, AlignedLimits)
    return Levels(steps=config.steps, round_to=found.limits.round_to, measured=measured, chosen=found.chosen)
