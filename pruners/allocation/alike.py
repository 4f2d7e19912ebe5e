"""The module form where it is asked for: what one integer of the forward governs loses alike, at the price of some choice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import NamedTuple

import torch

from pruners.allocation.allocate import Allocation, Limits, check_reachable
from pruners.allocation.selection import Ranking, Selection
from pruners.groups import Group, keep_highest
from pruners.operators import ELEMENTARY, Axis, count, find, leaves
from pruners.surgery import Block, Cut, Governed, Surgery, governed, inside

HALVINGS = 10  # of the budgets between what is asked and the whole, to make up for what losing alike takes beyond
ROUNDS = 64  # of what must lose alike

Counts = dict[Axis, int]


class Alike(NamedTuple):
    """What the module form took.

    Attributes:
        governed: what lost alike or stayed whole, as names of attributes.
        groups: how many groups lost alike.
        whole: names of the groups that stayed whole.
        lost: the share of all importance that went.
        lost_freely: the share that goes where every group loses by itself, which only a graph can express.
    """

    governed: tuple[str, ...]
    groups: int
    whole: tuple[str, ...]
    lost: float
    lost_freely: float


class ModuleForm:
    """Cuts a model to a module, within budgets.

    Args:
        surgery: of the model.
        selection: of what goes.
        ranking: what is known of the groups.
    """

    def __init__(self, surgery: Surgery, selection: Selection, ranking: Ranking) -> None:
        self.surgery, self.selection, self.ranking = surgery, selection, ranking
        self.steps: list[Governed] = []
        self.blocks = True  # whether some may be left out

    def cut(self, budgets: Mapping[str, float]) -> Cut:
        """The smaller module.

        Raises:
            ValueError: if no module can express what is left within the budgets.
        """
        cut = self.surgery.cut(*self._chosen(budgets))
        for _ in range(ROUNDS):
            if cut.built.form == "module":
                return cut
            new = self._next(cut)
            if not new and not cut.left_out:
                break
            self.steps += new
            try:
                if not new:
                    raise ValueError(cut.built.reason)
                chosen = self._chosen(budgets, cut.built.reason)
            except ValueError:
                if not cut.left_out:
                    raise
                self.blocks, self.steps = (
                    False,
                    [],
                )  # the forward cannot do without a block, or not beside what loses alike
                chosen = self._chosen(budgets, cut.built.reason)
            cut = self.surgery.cut(*chosen)
        where = f" in module {cut.built.at[0]!r}" if cut.built.at and cut.built.at[0] else ""
        raise ValueError(
            f"`form='module'` must be possible, got a forward that cannot express the smaller sizes{where}: {cut.built.reason}; take "
            "`form='auto'`, which gives a graph, or protect what that module works with by `ignore`."
        )

    def report(self, cut: Cut, budgets: Mapping[str, float]) -> Alike | None:
        """What losing alike took; None where nothing had to."""
        if not self.steps:
            return None
        groups, scores = self.selection.groups, self.ranking.scores
        tied = {leaf for step in self.steps for axis in step.axes for leaf in leaves(axis)}
        whole = self._whole()
        return Alike(
            tuple(dict.fromkeys(step.what for step in self.steps)),
            sum(group.axis in tied and group.axis not in whole for group in groups),
            tuple(group.name for group in groups if group.axis in whole),
            _share_lost(groups, scores, Allocation(dict(cut.removal.keep), tuple(cut.left_out))),
            _share_lost(groups, scores, self.selection.choose(self.ranking, budgets)),
        )

    def _next(self, cut: Cut) -> list[Governed]:
        """What else must lose alike, or stay whole; empty if nothing is found."""
        for found in governed(cut.removal, self.surgery.model, cut.built.at):
            if new := [step for step in found if step not in self.steps]:
                return new
        return []

    def _whole(self) -> set[Axis]:
        return {find(axis) for step in self.steps for axis in step.whole}

    def _chosen(self, budgets: Mapping[str, float], reason: str | None = None) -> Allocation:
        """What stays when what is governed loses alike, as much as the budgets allow, and which blocks go."""
        ranking = self.ranking if self.blocks else replace(self.ranking, blocks=())
        if not self.steps:
            try:
                return self.selection.choose(ranking, budgets)
            except ValueError as error:
                if reason is None:
                    raise
                raise ValueError(f"`form='module'` leaves no blocks out ({reason}): {error}") from error
        s, whole = self.selection, self._whole()
        groups = [group for group in s.groups if group.axis not in whole]
        freely = replace(s, groups=groups)
        axes = {priced.block: priced.axis for priced in ranking.blocks}
        try:
            least = check_reachable(groups, s.cost, budgets, s.limits, list(axes.values()))
        except ValueError as error:
            raise ValueError(f"`form='module'` keeps groups whole ({reason}): {error}") from error
        top = {name: float(s.cost.of(name)({})) for name in budgets}
        fewest = {group.name: ranking.gone.get(group.name, 0) for group in groups}

        def at(share: float) -> tuple[dict[str, int], Sequence[Block], bool]:
            """What each group loses, alike, and which blocks go, with budgets so far from the least to the whole; is that enough?"""
            relaxed = {name: max(least[name] + share * (top[name] - least[name]), least[name]) for name in budgets}
            keep, left_out = freely.choose(ranking, relaxed)
            there = {group.axis: group for group in groups if inside(group, left_out) is None}
            gone = {group.axis for group in groups if group.axis not in there}
            ties = [[x for x in step.axes if not gone.issuperset(leaves(x))] for step in self.steps]
            counts = {group.axis: _kept(group, keep) for group in there.values()}
            counts = even(counts, [axes for axes in ties if axes], there, s.limits)
            counts = {axis: min(kept, there[axis].size - fewest[there[axis].name]) for axis, kept in counts.items()}
            costs = {**counts, **{axes[block]: 0 for block in left_out}}
            removed = {group.name: group.size - counts[axis] for axis, group in there.items()}
            return removed, left_out, all(s.cost.of(name)(costs) <= budget for name, budget in budgets.items())

        low, high = 0.0, 1.0
        best, left_out, enough = at(low)
        if not enough:
            raise ValueError(
                f"`targets` must be reachable as a module, got {dict(budgets)}, beyond what groups that lose alike reach; take "
                "`form='auto'`, or ask for more."
            )
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            removed, blocks, enough = at(middle)
            if enough:
                low, best, left_out = middle, removed, blocks
            else:
                high = middle
        keep = {
            group.axis: keep_highest(ranking.scores[group.name], best[group.name])
            for group in groups
            if best.get(group.name)
        }
        return Allocation(keep, tuple(left_out))


def even(counts: Counts, ties: Iterable[Sequence[Axis]], groups: Mapping[Axis, Group], limits: Limits) -> Counts:
    """Numbers of indices that stay, so that tied dimensions have one size.

    Elementary axes that are tied keep the mean. A dimension that is tied to a product, as a width to heads times dimensions, takes on
    the product's size. What cannot be made even stays whole.

    Args:
        counts: elementary axis to how many of its indices stay; axes not named stay whole.
        ties: dimensions that must have one size.
        groups: elementary axis to its group, for those that may lose indices.
        limits: alignment and bounds per group.
    """
    counts, ties = dict(counts), [list(dict.fromkeys(map(find, axes))) for axes in ties]
    classes = _Classes()
    equations: list[tuple[Axis, Axis]] = []
    for first, *others in ties:
        for other in others:
            equations += classes.tie(first, other)
    free = set(groups)
    members = classes.members()

    def assign(axis: Axis, kept: int) -> None:
        for leaf in members.get(classes.root(axis), [axis]):
            if leaf in free:
                counts[leaf] = kept

    def hold(axis: Axis) -> None:
        """Keep every elementary axis of a dimension whole."""
        for leaf in leaves(axis):
            assign(leaf, leaf.size)

    for alike in members.values():
        if not all(leaf in free for leaf in alike):
            hold(alike[0])
        else:
            mean = round(sum(counts[leaf] for leaf in alike) / len(alike))
            most = max(limits.removed(groups[leaf], leaf.size - mean) for leaf in alike)
            assign(alike[0], alike[0].size - most)
    for first, second in equations:
        if count(first, counts) == count(second, counts):
            continue
        simple, other = (first, second) if first.kind == ELEMENTARY else (second, first)
        if simple.kind != ELEMENTARY or simple not in free or simple in leaves(other):
            hold(first)
            hold(second)
            continue
        for leaf, kept in _sizes_near(other, simple, counts, groups, limits).items():
            assign(leaf, kept)
        assign(simple, count(other, counts))
    for axes in ties:
        if len({count(axis, counts) for axis in axes}) > 1:
            for axis in axes:
                hold(axis)
    return counts


def _sizes_near(other: Axis, simple: Axis, counts: Counts, groups: Mapping[Axis, Group], limits: Limits) -> Counts:
    """Numbers for the factors of a product so that an elementary axis can have its size, near what both have."""
    parts = list(dict.fromkeys(leaves(other)))
    aim = (counts[simple] * count(other, counts)) ** 0.5
    ranges = [
        range(counts[leaf], leaf.size + 1) if leaf in groups else range(leaf.size, leaf.size + 1) for leaf in parts
    ]

    def allowed(axis: Axis, kept: int) -> bool:
        return axis not in groups or limits.removed(groups[axis], axis.size - kept) == axis.size - kept

    best, least = {leaf: leaf.size for leaf in parts}, float("inf")
    for some in product(*ranges) if len(parts) <= 2 else [tuple(counts.get(leaf, leaf.size) for leaf in parts)]:
        trial = dict(zip(parts, some, strict=True))
        total = count(other, trial)
        far = (
            abs(total - aim)
            + max(kept / leaf.size for leaf, kept in trial.items())
            - min(kept / leaf.size for leaf, kept in trial.items())
        )
        if far < least and all(allowed(leaf, kept) for leaf, kept in trial.items()) and allowed(simple, total):
            best, least = trial, far
    return {leaf: kept for leaf, kept in best.items() if leaf in groups}


class _Classes:
    """Elementary axes that must keep as many indices as each other."""

    def __init__(self) -> None:
        self._same: dict[Axis, Axis] = {}

    def root(self, axis: Axis) -> Axis:
        """What stands for the class of an axis."""
        while axis in self._same:
            axis = self._same[axis]
        return axis

    def members(self) -> dict[Axis, list[Axis]]:
        """The classes of several axes, by what stands for them."""
        found: dict[Axis, list[Axis]] = {}
        for axis in dict.fromkeys([*self._same, *self._same.values()]):
            found.setdefault(self.root(axis), []).append(axis)
        return found

    def tie(self, first: Axis, second: Axis) -> list[tuple[Axis, Axis]]:
        """Make two dimensions alike piece by piece; returns those that have other pieces."""
        first, second = find(first), find(second)
        if first is second:
            return []
        if first.kind == second.kind == ELEMENTARY:
            a, b = self.root(first), self.root(second)
            if a is not b:
                self._same[a] = b
            return []
        if first.kind == second.kind and [part.size for part in first.parts] == [part.size for part in second.parts]:
            return [pair for a, b in zip(first.parts, second.parts, strict=True) for pair in self.tie(a, b)]
        return [(first, second)]


def _kept(group: Group, keep: Mapping[Axis, torch.Tensor]) -> int:
    """How many indices of a group stay, of a ragged one per index of its host."""
    return int(keep[group.axis].reshape(-1, group.size)[0].sum()) if group.axis in keep else group.size


def _share_lost(groups: Sequence[Group], scores: Mapping[str, torch.Tensor], chosen: Allocation) -> float:
    """The share of all finite importance that does not stay."""
    total = lost = 0.0
    for group in groups:
        values = scores[group.name].detach().double().cpu()
        finite = values.isfinite()
        total += float(values[finite].sum())
        if inside(group, chosen.left_out) is not None:
            lost += float(values[finite].sum())
        elif group.axis in chosen.keep:
            lost += float(values[finite & ~group.kept(chosen.keep).cpu()].sum())
    return lost / total if total else 0.0
