"""Monte Carlo tree search over the decisions that make an architecture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from nas.strategies.decisions import Decisions, Key, Step
from nas.strategies.rewards import Rewards
from nas.strategies.strategy import CHILDREN, Archive
from search_spaces import Architecture, SearchSpace

TEMPERATURE = 0.1


@dataclass(slots=True, eq=False)
class Node:
    """A place in the tree: the decisions before it, how often it was passed, and what was told of that.

    `left` counts branches that lead to something unknown; `done` says that none does.
    """

    children: dict[int, Node] = field(default_factory=dict)
    branches: int = 0
    left: int = 0
    asked: int = 0
    told: int = 0
    total: float = 0.0
    done: bool = False


class MCTS:
    """Goes down a tree of decisions by upper confidence bounds, by chance from where the tree ends, and lets it grow by a node.

    The bound of a branch is its mean reward and `explore` * sqrt(ln N / n), for N trials through the node and n through the branch.
    Rewards are shares of trials that do not dominate, see `nas.strategies.rewards`. Most nodes are passed by few trials, so
    statistics are shared: a branch counts `shared` more trials with the mean of all trials that took the same branch of the same
    decision, whatever came before it, and below the tree decisions are drawn by a softmax of these means. Branches that lead only to
    what is known, or breaks constraints, are closed.

    Args:
        space: what to search.
        rng: the strategy's own generator.
        explore: the factor of the bound's width.
        shared: trials that shared statistics count for; 0 is plain UCT, which takes each branch once before any twice, and uniform
            below the tree.

    Reference: Negrinho, Gordon, "DeepArchitect: Automatically Designing and Training Deep Architectures", 2017, arXiv:1704.08792, for
    the tree and the halving of ordered choices; Su et al., "Prioritized Architecture Sampling with Monto-Carlo Tree Search", CVPR 2021,
    arXiv:2103.11922, for sharing between nodes.
    Differs: rewards are ranks instead of accuracies or training losses, so that several objectives have one. Shared means are what a
    branch starts from, not a term of the bound. A trial that was asked counts in the width of bounds before it is told.
    """

    def __init__(
        self, space: SearchSpace, rng: np.random.Generator, *, explore: float = 0.2, shared: float = 1.0
    ) -> None:
        if explore < 0 or shared < 0:
            raise ValueError(
                f"`explore` and `shared` must be at least 0, got explore={explore:g} and shared={shared:g}"
            )
        self.explore, self.shared = explore, shared
        self._rng = rng
        self._archive = Archive(space, rng)
        self._decisions = Decisions(space)
        self._rewards = Rewards()
        self._told: list[list[Step]] = []
        self._root = Node()
        self._means: dict[Key, list[tuple[int, float]]] = {}  # of each branch: trials and their rewards

    def ask(self, n: int) -> list[Architecture]:
        """See `Strategy.ask`."""
        return self._archive.hand_out(n, self._next)

    @property
    def ahead(self) -> int:
        """See `Strategy.ahead`: each trial changes the bounds."""
        return 1

    def tell(self, archs: Sequence[Architecture], losses: ArrayLike) -> None:
        """See `Strategy.tell`; told architectures that were not asked take part as well."""
        strangers = [arch not in self._archive for arch in archs]
        for arch, row, strange in zip(archs, self._archive.record(archs, losses), strangers, strict=True):
            steps = self._decisions.of(arch)
            if strange:
                self._grow(steps)
            self._told.append(steps)
            reward = self._rewards.add(row)
            if self._rewards.stale:
                self._renew()
            else:
                self._learn(steps, reward)

    def _next(self) -> Architecture | None:
        for _ in range(CHILDREN):
            if self._root.done:
                break
            steps: list[Step] = []
            arch = self._descend(steps)
            self._grow(steps)
            if arch is not None and arch not in self._archive:
                return arch
        arch = self._archive.sample()
        if arch is not None:
            self._grow(self._decisions.of(arch))
        return arch

    def _descend(self, steps: list[Step]) -> Architecture | None:
        """The architecture of a way down, whose steps are noted; None where it breaks a constraint."""
        node: Node | None = self._root

        def pick(key: Key, branches: int) -> int:
            nonlocal node
            branch = self._below(key, branches) if node is None else self._bounded(node, key, branches)
            node = None if node is None else node.children.get(branch)
            steps.append(Step(key, branches, branch))
            return branch

        return self._decisions.made(pick)

    def _bounded(self, node: Node, key: Key, branches: int) -> int:
        """The open branch with the highest bound; of equals, a random one."""
        wide, means = math.log(node.asked + 1), self._shared(key, branches)
        best, found = -math.inf, list[int]()
        for branch in range(branches):
            child = node.children.get(branch)
            if child is None:
                bound = means[branch] + self.explore * math.sqrt(2 * wide) if self.shared else math.inf
            elif child.done:
                continue
            elif self.shared:
                mean = (child.total + self.shared * means[branch]) / (child.told + self.shared)
                bound = mean + self.explore * math.sqrt(2 * wide / (child.asked + 1))
            else:
                mean = child.total / child.told if child.told else 0.5
                bound = mean + self.explore * math.sqrt(2 * wide / child.asked)
            if bound > best:
                best, found = bound, [branch]
            elif bound == best:
                found.append(branch)
        return found[0] if len(found) == 1 else found[self._rng.integers(len(found))]

    def _below(self, key: Key, branches: int) -> int:
        """A branch where the tree ends, by chance."""
        if not self.shared:
            return int(self._rng.integers(branches))
        weights = [math.exp(mean / TEMPERATURE) for mean in self._shared(key, branches)]
        drawn = self._rng.random() * sum(weights)
        for branch, weight in enumerate(weights):
            drawn -= weight
            if drawn < 0:
                return branch
        return branches - 1

    def _shared(self, key: Key, branches: int) -> list[float]:
        """For each branch of a decision the mean reward of all trials that took it, and of one of 0.5."""
        if key not in self._means:
            return [0.5] * branches
        return [(total + 0.5) / (trials + 1) for trials, total in self._means[key]]

    def _grow(self, steps: Sequence[Step]) -> None:
        """A trial, or a try, passes along these steps: the tree gets the first of them that it lacks."""
        node, way = self._root, [self._root]
        for step in steps:
            if not node.branches:
                node.branches = node.left = step.branches
            new = step.branch not in node.children
            node = node.children.setdefault(step.branch, Node())
            way.append(node)
            if new:
                break
        for node in way:
            node.asked += 1
        if len(way) <= len(steps) or way[-1].done:
            return
        for node in reversed(way):
            node.left = max(node.left - 1, 0)
            node.done = node.left == 0
            if not node.done:
                return

    def _learn(self, steps: Sequence[Step], reward: float) -> None:
        node: Node | None = self._root
        for step in steps:
            means = self._means.setdefault(step.key, [(0, 0.0)] * step.branches)
            trials, total = means[step.branch]
            means[step.branch] = (trials + 1, total + reward)
            node = None if node is None else node.children.get(step.branch)
            if node is not None:
                node.told += 1
                node.total += reward

    def _renew(self) -> None:
        """All statistics anew from the rewards as they now are."""
        self._means.clear()
        nodes = [self._root]
        while nodes:
            node = nodes.pop()
            node.told, node.total = 0, 0.0
            nodes += node.children.values()
        for steps, reward in zip(self._told, self._rewards.renewed().tolist(), strict=True):
            self._learn(steps, reward)
