"""Which indices go: at once, or in steps that score again what is left."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn
from torch.fx import Node
from torch.utils._pytree import tree_leaves

from pruners.allocation.allocate import ALLOCATIONS, Allocation, Limits, Priced, allocate
from pruners.allocation.costs import CostModel
from pruners.allocation.program import Damage
from pruners.groups import AxisGraph, Group
from pruners.importance import (
    USUAL,
    Bounds,
    Importance,
    Loss,
    Measure,
    Moments,
    Tell,
    criterion_entry,
    distortion_curves,
    held_samples,
    left_out_damages,
    pieces,
    placeholder_values,
    repeated_damages,
    score_groups,
    second_moments,
    unheard,
)
from pruners.operators import Axis
from pruners.progress import Batches, Progress, silent, watched
from pruners.surgery import Block, GraphModel, Removal, Twice, inside, rewrite
from pruners.tracing import like_example

WORK = 2 * 10**12  # multiply-accumulates that a measurement takes, about
FEWEST = 4  # samples that it takes at least
MOST_SAMPLES = 32  # that a block is left out on
BLOCKS, TWICE = "blocks left out", "blocks run twice"
UNSURE = 4.0  # times the usual factor between what was measured and what was estimated


class ScheduleEntry(NamedTuple):
    """How what remains shrinks over the steps: one line on it, and (whole, budget, part of the steps) -> what remains."""

    help: str
    remains: Callable[[float, float, float], float]


SCHEDULES: dict[str, ScheduleEntry] = {
    "linear": ScheduleEntry(
        "every step removes as much of a cost", lambda whole, budget, part: whole + (budget - whole) * part
    ),
    "geometric": ScheduleEntry(
        "every step leaves the same share of a cost", lambda whole, budget, part: whole * (budget / whole) ** part
    ),
}


@dataclass(frozen=True)
class Evidence:
    """What importance is computed from, beside the model.

    Attributes:
        batches: for criteria and curves that pass over data; None if there are none.
        loss: see `pruners.importance.score_groups`.
        seed: of the criterion "random" and of random projections.
        bounds: what a pass over data may take.
        tell: told if a pass leaves out examples.
    """

    batches: Batches | None
    loss: Loss | None
    seed: int
    bounds: Bounds = USUAL
    tell: Tell = unheard


@dataclass(frozen=True)
class Ranking:
    """What is known before an allocation.

    Attributes:
        scores: group name to one score per index, minus infinity for what has gone.
        damages: group name to the damage of losing 0, 1, ... indices, if it is measured.
        gone: group name to how many indices have gone.
        blocks: blocks that may be left out.
        unit: measured changes of the outputs over their scores.
    """

    scores: Mapping[str, torch.Tensor]
    damages: Mapping[str, Damage] | None
    gone: Mapping[str, int]
    blocks: Sequence[Priced] = ()
    unit: float = 1.0


class Rankings(Protocol):
    """Keeps the ranking that a step is taken by, so that a cut in several steps goes on after it was stopped."""

    def last(self) -> tuple[int, Ranking] | None:
        """The last step that was kept, from 1, and its ranking; None if none was."""
        ...

    def keep(self, step: int, ranking: Ranking) -> None:
        """Called before each step with its ranking, which prices no blocks."""
        ...


@dataclass(frozen=True)
class Selection:
    """Scores groups and allocates what they lose.

    Attributes:
        graph: the traced model with its axes.
        groups: groups that may lose indices.
        model: the full model.
        cost: its cost model.
        importance: how indices are scored.
        allocation: see `pruners.allocation.allocate.allocate`.
        limits: alignment and bounds per group.
        evidence: data, loss and seed.
        progress: told about passes over data and steps.
        blocks: those that may be left out, by their axis in the costs; for criteria that are changes of the outputs.
    """

    graph: AxisGraph
    groups: Sequence[Group]
    model: nn.Module
    cost: CostModel
    importance: Importance
    allocation: str
    limits: Limits
    evidence: Evidence
    progress: Progress
    blocks: Mapping[Axis, Block] = field(default_factory=dict)

    def choose(self, ranking: Ranking, budgets: Mapping[str, float]) -> Allocation:
        """What stays of each group that loses something, and which blocks go."""
        return allocate(
            self.groups, ranking.scores, self.cost, budgets, self.allocation, self.limits, ranking.damages,
            ranking.gone, ranking.blocks,
        )  # fmt: skip

    def rank(self, keep: Mapping[Axis, torch.Tensor], model: nn.Module, step: str = "", last: bool = True) -> Ranking:
        """Score what stays.

        Args:
            keep: what stays of each elementary axis.
            model: the full model where all stays, else the rewritten graph of what stays.
            step: name of the step, for reports.
            last: whether blocks are priced, too.
        """
        batches = self.evidence.batches
        measured = ALLOCATIONS[self.allocation].measured
        moments: Mapping[Node, Moments] = {}
        if batches is not None and (measured or criterion_entry(self.importance.criterion).moments):
            seen = watched(batches, f"inputs of layers{step}", self.progress)
            moments = second_moments(Removal(self.graph, keep), placeholder_values(self.graph.trace, seen, math.inf))
        reports = criterion_entry(self.importance.criterion).of_outputs  # how far it is, by samples
        watched_batches = (
            batches if batches is None or reports else watched(batches, f"importance{step}", self.progress)
        )
        scores = score_groups(
            self.graph, self.groups, self.importance,
            model=model, keep=keep, batches=watched_batches, loss=self.evidence.loss, seed=self.evidence.seed, moments=moments,
            bounds=self.evidence.bounds, progress=self.progress, samples=self.samples(3),
            tell=self.evidence.tell,
        )  # fmt: skip
        gone = {group.name: int((~group.kept(keep)).sum(-1).max()) for group in self.groups if group.axis in keep}
        if not measured:
            blocks = self._priced(keep, model) if last else []
            scores, blocks, unit = _commensurate(scores, self.groups, blocks)
            return Ranking(scores, None, gone, blocks, unit)
        assert batches is not None
        levels = {group.name: self.limits.levels(group, gone.get(group.name, 0)) for group in self.groups}
        curves = distortion_curves(
            self.graph, self.groups, scores, levels, batches, keep,
            lambda done, total: self.progress(f"distortion{step}", done, total), moments,
        )  # fmt: skip
        return Ranking(scores, curves, gone)

    def _priced(self, keep: Mapping[Axis, torch.Tensor], model: nn.Module) -> list[Priced]:
        """What the outputs lose with each block, on as many samples as there is work for."""
        if not self.blocks:
            return []
        runs = model if keep and isinstance(model, GraphModel) else rewrite(Removal(self.graph, keep))
        parts = self._samples_of(BLOCKS, len(self.blocks) / 2)
        damages = left_out_damages(runs, list(self.blocks.values()), parts, Measure(self.graph.trace), self.progress)
        for name in _staying(list(self.blocks.values()), damages):
            damages[name] += sum(damages.values())
        return [Priced(block, axis, damages[block.name]) for axis, block in self.blocks.items()]

    def running_again(self, blocks: Sequence[Twice]) -> dict[str, float]:
        """What the outputs of the full model lose where one of some blocks runs twice, by its name."""
        parts = self._samples_of(TWICE, len(blocks))
        runs = rewrite(Removal(self.graph, {}))
        return repeated_damages(runs, blocks, parts, Measure(self.graph.trace), self.progress)

    def _samples_of(self, step: str, passes: float) -> Iterator[Sequence[Any]]:
        """Inputs for a pass that changes one block after another."""
        assert self.evidence.batches is not None
        trace, samples = self.graph.trace, self.samples(passes, MOST_SAMPLES)
        held, why = held_samples(self.evidence.batches), "as many as the price of a block takes"
        more = {"why": why} if samples == MOST_SAMPLES else {}
        data = like_example(self.evidence.batches, trace)
        parts = pieces(data, trace, self.evidence.bounds, step, silent, samples, held, self.evidence.tell, **more)
        return (part.inputs for part in parts)

    def samples(self, passes: float, most: float = math.inf) -> float:
        """How many samples there is work for, if each takes so many passes."""
        trace = self.graph.trace
        leaves = tree_leaves((trace.args, dict(trace.kwargs)))
        size = next((len(leaves[place]) for place in sorted(trace.free)), 1)
        return min(max(FEWEST, WORK * size // max(int(passes * self.cost.macs({})), 1)), most)

    def descend(
        self,
        budgets: Mapping[str, float],
        least: Mapping[str, float],
        steps: int,
        schedule: str,
        between: Callable[[nn.Module], None] | None,
        rankings: Rankings | None = None,
    ) -> Ranking:
        """Take all steps but the last, and rank for the last.

        Args:
            budgets: of the last step.
            least: the least that each cost can come to.
            steps: number of steps.
            schedule: "linear" or "geometric" in what remains.
            between: given each intermediate model; what it changes is seen by the scores, and dropped with the model.
            rankings: keeps them; the steps up to the last one kept are not taken again.
        """
        kept = None if rankings is None else rankings.last()
        first, ranking = kept or (1, self.rank({}, self.model, f" 1/{steps}" if steps > 1 else "", steps == 1))
        for step in range(first, steps):
            if rankings is not None:
                rankings.keep(step, ranking)
            shrink = SCHEDULES[schedule].remains
            current = {
                name: max(least[name], shrink(self.cost.of(name)({}), budget, step / steps))
                for name, budget in budgets.items()
            }
            keep = self.choose(ranking, current).keep
            smaller = rewrite(Removal(self.graph, keep))
            if between is not None:
                between(smaller)
            ranking = self.rank(keep, smaller, f" {step + 1}/{steps}", step + 1 == steps)
            self.progress("pruning steps", step, steps - 1)
        return ranking


def _staying(blocks: Sequence[Block], damages: Mapping[str, float]) -> list[str]:
    """The names of the experts that are worth most, as many of each router as must stay."""
    routers: dict[Node, list[Block]] = {}
    for block in blocks:
        if block.route is not None:
            routers.setdefault(block.route.logits, []).append(block)
    ranked = [sorted(some, key=lambda block: -damages[block.name]) for some in routers.values()]
    return [block.name for some in ranked for block in some if some.index(block) < _fewest(block)]


def _fewest(block: Block) -> int:
    return 0 if block.route is None else block.route.fewest


def _commensurate(
    scores: dict[str, torch.Tensor], groups: Sequence[Group], blocks: Sequence[Priced]
) -> tuple[dict[str, torch.Tensor], list[Priced], float]:
    """Scores and damages of blocks in one unit, and what damages were divided by for that.

    What the indices of a group add up to is an estimate of what its block was measured to be worth. It takes outputs as linear and
    positions as independent, so it is off by some factor: by the median of these factors blocks are divided. Where an estimate is off
    by far more, as in layers that make the few very large values of a language model, its scores are raised accordingly. Experts tell
    nothing of that, as the tokens of one that is left out go to others.
    """
    every = [priced.block for priced in blocks]
    damages = {priced.block: priced.damage for priced in blocks}
    factors: dict[str, float] = {}
    for group in groups:
        block, whole = inside(group, every), float(scores[group.name].clamp_min(0).sum())
        if block is not None and block.route is None and whole > 0 and damages[block] > 0:
            factors[group.name] = damages[block] / whole
    if not factors:
        return scores, list(blocks), 1.0
    usual = median(factors.values())
    raised = {name: factor / usual for name, factor in factors.items() if factor > UNSURE * usual}
    return (
        {name: values * raised.get(name, 1.0) for name, values in scores.items()},
        [priced._replace(damage=priced.damage / usual) for priced in blocks],
        usual,
    )
