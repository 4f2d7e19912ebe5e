"""REINFORCE: a policy for each decision, followed and rewarded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from nas.strategies.decisions import Decisions, Key, Step
from nas.strategies.rewards import Rewards
from nas.strategies.strategy import CHILDREN, Archive
from search_spaces import Architecture, SearchSpace
from search_spaces.core import Choice, Value, conditions

MEMORY = 0.95


class Policy:
    """A softmax over the branches of each decision.

    Args:
        rng: a strategy's own generator.
        rate: of learning.
    """

    def __init__(self, rng: np.random.Generator, rate: float) -> None:
        self._rng, self.rate = rng, rate
        self._logits: dict[Key, list[float]] = {}

    def draw(self, key: Key, branches: int, sharpness: float = 1.0) -> int:
        """A branch, at `sharpness` 0 every one equally likely."""
        shares = self.shares(key, branches, sharpness)
        drawn = self._rng.random()
        for branch, share in enumerate(shares):
            drawn -= share
            if drawn < 0:
                return branch
        return branches - 1

    def shares(self, key: Key, branches: int, sharpness: float = 1.0) -> list[float]:
        """How likely each branch is."""
        logits = self._logits.get(key)
        if logits is None:
            return [1 / branches] * branches
        top = max(logits)
        weights = [math.exp(sharpness * (logit - top)) for logit in logits]
        total = sum(weights)
        return [weight / total for weight in weights]

    def learn(self, steps: Sequence[Step], advantage: float) -> None:
        """A step along the gradient of the logarithm of the steps' probability, as far as the reward was better than expected."""
        for key, branches, branch in steps:
            shares = self.shares(key, branches)
            logits = self._logits.setdefault(key, [0.0] * branches)
            for other, share in enumerate(shares):
                logits[other] += self.rate * advantage * ((other == branch) - share)


class Reinforce:
    """Draws architectures from a policy that learns, by the gradient of the expected reward, what is better than expected.

    Each decision has a softmax of its own. Every `batch` results it is moved for each of them by `rate` times how much better its
    reward was than the running mean of the rewards of batches before. Rewards are shares of trials that do not dominate, see
    `nas.strategies.rewards`. After each draw that was known the policy is drawn from at half the
    logits, from which later draws return step by step.

    Args:
        space: what to search.
        rng: the strategy's own generator.
        rate: of learning.
        batch: results between updates.
        removal: trials of a first stage, in which only depth is decided, and all else is as large as it can be. Then depth stays as
            in the best of them, and a new policy decides the rest. 0 for one stage that decides everything.

    Reference: Williams, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning", Machine Learning
    8, 1992; stages: Ashok et al., "N2N Learning: Network to Network Compression via Policy Gradient Reinforcement Learning", ICLR 2018,
    arXiv:1709.06030.
    Differs: softmaxes of decisions instead of recurrent networks over layers; rewards are ranks, in place of compression times relative
    accuracy, so any objectives will do; widths are those of the space. What was asked before is drawn anew.
    """

    def __init__(
        self, space: SearchSpace, rng: np.random.Generator, *, rate: float = 1.0, batch: int = 5, removal: int = 0
    ) -> None:
        if rate <= 0:
            raise ValueError(f"`rate` must be above 0, got {rate:g}")
        if batch < 1:
            raise ValueError(f"`batch` must be at least 1, got {batch}")
        if removal < 0:
            raise ValueError(f"`removal` must be at least 0, got {removal}")
        self.batch = batch
        self._rng = rng
        self._archive = Archive(space, rng)
        self._decisions = Decisions(space)
        self._rewards = Rewards()
        self._policy = Policy(rng, rate)
        self._removed = removing(space) if removal else frozenset()
        self.removal = removal if self._removed else 0
        self._kept: Mapping[str, Value] = {}
        self._told: list[Architecture] = []
        self._waiting: list[tuple[list[Step], float]] = []
        self._expected: float | None = None
        self._halvings = 0  # of the logits, that the last draw took

    def ask(self, n: int) -> list[Architecture]:
        """See `Strategy.ask`."""
        return self._archive.hand_out(n, self._next)

    @property
    def ahead(self) -> int:
        """See `Strategy.ahead`: those that are left until the next update, or stage."""
        left = self.batch - len(self._waiting)
        return min(left, self.removal - len(self._told)) if len(self._told) < self.removal else left

    def tell(self, archs: Sequence[Architecture], losses: ArrayLike) -> None:
        """See `Strategy.tell`; told architectures that were not asked take part as well."""
        for arch, row in zip(archs, self._archive.record(archs, losses), strict=True):
            self._told.append(arch)
            reward = self._rewards.add(row)
            rewards = self._rewards.renewed() if self._rewards.stale else None
            self._waiting.append((self._decisions.of(arch), reward if rewards is None else float(rewards[-1])))
            if len(self._waiting) == self.batch:
                self._update()
            if len(self._told) == self.removal:
                self._shrink()

    def _update(self) -> None:
        mean = sum(reward for _, reward in self._waiting) / self.batch
        expected = mean if self._expected is None else self._expected
        for steps, reward in self._waiting:
            self._policy.learn(steps, reward - expected)
        self._expected = MEMORY * expected + (1 - MEMORY) * mean
        self._waiting = []

    def _shrink(self) -> None:
        """The second stage: depth as in the best."""
        best = self._told[int(self._rewards.renewed().argmax())]
        self._kept = {name: best[name] for name in self._removed if name in best}
        self._policy = Policy(self._rng, self._policy.rate)
        self._expected, self._halvings = None, 0

    def _next(self) -> Architecture | None:
        self._halvings = max(self._halvings - 1, 0)
        for _ in range(CHILDREN):
            arch = self._drawn(0.5**self._halvings)
            if arch is not None and arch not in self._archive:
                return arch
            self._halvings += 1
        return self._archive.sample()

    def _drawn(self, sharpness: float) -> Architecture | None:
        first = len(self._told) < self.removal

        def pick(key: Key, branches: int) -> int:
            return self._policy.draw(key, branches, sharpness)

        def fixed(choice: Choice) -> Value | None:
            if choice.name in self._removed:
                return None if first else self._kept.get(choice.name)
            return choice.value(choice.size - 1) if first else None

        return self._decisions.made(pick, fixed)


def removing(space: SearchSpace) -> frozenset[str]:
    """The choices that decide how deep a network is: of kind `depth`, and those that other choices depend on."""
    parents = {parent for choice in space.choices for condition in conditions(choice) for parent in condition}
    return frozenset(choice.name for choice in space.choices if choice.kind == "depth" or choice.name in parents)
