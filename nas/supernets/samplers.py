"""The samplers by name: how each is made, what its subnets learn from, and what else it asks of training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from nas.samplers import (
    Complexity,
    Delayed,
    Fair,
    Groups,
    Narrowing,
    Performance,
    Progressive,
    Sampler,
    Sandwich,
    Uniform,
    extremes,
    nested,
)
from nas.supernets.rules import InPlace, Labels, Peers, Rule, Snapshot
from nas.tasks import Goal
from search_spaces import SearchSpace


class Request(NamedTuple):
    """What a sampler is made from: the space, epochs of the training, the seed of what is prepared, and subnets drawn per step."""

    space: SearchSpace
    epochs: int
    seed: int
    subnets: int


class Learning(NamedTuple):
    """What a rule is made from; `taught` is the rule of a given teacher, if there is one."""

    goal: Goal
    space: SearchSpace
    taught: Rule | None


def plain(learning: Learning, sampler: Sampler) -> Rule:
    """Every subnet learns from the task, and from a given teacher."""
    return learning.taught or Labels(learning.goal)


def _largest_teaches(learning: Learning, sampler: Sampler) -> Rule:
    return learning.taught or InPlace(learning.goal)


def _largest_taught_before(learning: Learning, sampler: Progressive) -> Rule:
    return learning.taught or Snapshot(learning.goal, learning.space.locals(sampler.largest), sampler.first)


def _peers_teach(learning: Learning, sampler: Sampler) -> Rule:
    return Peers(learning.goal, plain(learning, sampler))


class SamplerEntry(NamedTuple):
    """One sampler.

    Attributes:
        help: what a step trains.
        passes: what a step costs, in passes of a batch through a subnet.
        use: when to take it.
        make: the sampler.
        rule: what its subnets learn from.
        subnets: architectures that a step draws at random, which the setting `subnets` changes; None for a number of its own.
        trains_largest: each step trains the largest subnet, which teaches the others; residual branches start at zero, so that large
            and small subnets train at one learning rate.
        shares_batch: each subnet has its part of the batch.
        splits: one supernet becomes several in training.
        serves_heads: it serves the heads of ensembles, which learn from labels alone and take any choices.
    """

    help: str
    passes: str
    use: str
    make: Callable[[Request], Sampler]
    rule: Callable[[Learning, Any], Rule] = plain
    subnets: int | None = None
    trains_largest: bool = False
    shares_batch: bool = False
    splits: bool = False
    serves_heads: bool = False

    @property
    def goes_with(self) -> str:
        """The settings that not every sampler takes."""
        takes = {"subnets": self.subnets, "teacher=largest": self.trains_largest, "paths": self.serves_heads}
        return ", ".join(name for name, it in takes.items() if it)


def _sandwich(ask: Request) -> Sandwich:
    return Sandwich(ask.space, *extremes(ask.space), ask.subnets)


def _delayed(ask: Request) -> Delayed:
    sandwich, start = _sandwich(ask), ask.epochs // 2
    if ask.epochs < 3:
        raise ValueError(
            f"sampler delayed trains the largest subnet alone first and then fades the others in: at least 3 epochs, got {ask.epochs}; "
            "use more, or sampler sandwich"
        )
    return Delayed(sandwich, start, over=max(1, min(10, (ask.epochs - start) // 2)))


SAMPLERS: dict[str, SamplerEntry] = {
    "uniform": SamplerEntry(
        "one architecture, all equally likely", "1", "always, as the control",
        lambda ask: Uniform(ask.space, ask.subnets), subnets=1, serves_heads=True,
    ),
    "fair": SamplerEntry(
        "every value of every choice once", "as many as the longest choice has values",
        "no value of a choice may be trained more than another", lambda ask: Fair(ask.space),
    ),
    "sandwich": SamplerEntry(
        "the largest, the smallest and two random ones; the largest learns from the labels and teaches the others", "4",
        "subnets are to be used with the weights of the supernet", _sandwich, _largest_teaches, subnets=2, trains_largest=True,
    ),
    "delayed": SamplerEntry(
        "the largest alone for half of the epochs (3 at least), then a sandwich that fades in", "1, then 4",
        "as sandwich, in less time", _delayed, _largest_teaches, subnets=2, trains_largest=True,
    ),
    "progressive": SamplerEntry(
        "the largest, then kernels, depths and widths open one after another", "1, then 1, 2 and 4",
        "as sandwich, and there are epochs enough for every stage",
        lambda ask: Progressive(ask.space, extremes(ask.space)[1], ask.epochs), _largest_taught_before,
    ),
    "sorted": SamplerEntry(
        "four nested subnets of random sizes", "4", "all choices are sizes",
        lambda ask: nested(ask.space, ask.subnets), subnets=4,
    ),
    "complexity": SamplerEntry(
        "three of similar macs and the cheapest near them; the budget walks", "4", "macs differ by an order of magnitude",
        lambda ask: Complexity(ask.space, seed=ask.seed, subnets=ask.subnets), _peers_teach, subnets=3,
    ),
    "performance": SamplerEntry(
        "as complexity, preferring those that did well", "4", "the best of each size matter, not all",
        lambda ask: Performance(ask.space, seed=ask.seed, subnets=ask.subnets), _peers_teach, subnets=3,
    ),
    "groups": SamplerEntry(
        "four balanced ones, each on its part of the batch", "1",
        "a first choice: best at both budgets measured; the batch must be large enough to share",
        lambda ask: Groups(ask.space, ask.subnets, opening=min(15, ask.epochs // 2)),
        subnets=4, shares_batch=True, serves_heads=True,
    ),
    "split": SamplerEntry(
        "one; supernets part where gradients disagree, until each architecture has its own weights", "1",
        "the space can be listed, and architectures disturb each other's weights", lambda ask: Uniform(ask.space), splits=True,
    ),
    "narrowing": SamplerEntry(
        "one; after each quarter of the epochs, choices with more than 2 values left lose one", "1",
        "choices have many values, and some are of no use",
        lambda ask: Narrowing(ask.space, ask.epochs, ask.seed), serves_heads=True,
    ),
}  # fmt: skip


def names_with(of_sampler: Callable[[SamplerEntry], object]) -> list[str]:
    """The samplers of which something is true."""
    return [name for name, entry in SAMPLERS.items() if of_sampler(entry)]
