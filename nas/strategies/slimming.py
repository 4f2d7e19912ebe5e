"""Slimming: from the largest architecture down, each step the one that costs the least worth for what it saves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import ArrayLike

from nas.objectives import Floats
from nas.strategies.knowledge import Knowledge
from nas.strategies.strategy import Archive
from search_spaces import Architecture, Categorical, Integer, SearchSpace
from search_spaces.core import Choice, Value, composed, largest

DAMAGE = "damage"
COSTS = ("latency_ms", "macs", "params")
"""What is saved, the first of them that is known where no objective is."""
SAVED = 0.05
"""Share of the cost that goes between two trials of a path, at least."""
IDLE = 3
"""Paths without anything new after which the rest is sampled."""
CORRECTED = 4.0
"""By how much trials may correct what a choice is said to lose."""


class Slimming:
    """Walks from the largest architecture to the smallest, by worth lost for each unit of cost saved.

    Of all single changes that cost less, the next is the one that loses least worth for what it saves. Where a trained model's damage
    is known, it says what is lost, and there is a trial whenever another 5 % of the cost are saved; at the end of a path, what its
    trials measured corrects the damage of the choices that changed between them, and the next path goes by that. Without it, every
    change is a trial, as an untrained network's worth is measured, and the walk goes on once all are told.

    Args:
        space: what to search.
        rng: the strategy's own generator.
        knowledge: costs that are known without a trial, milliseconds of a table before macs, and the damage. Without any,
            each change saves alike.

    Reference: Li et al., "EfficientFormer: Vision Transformers at MobileNet Speed", NeurIPS 2022, arXiv:2206.01191 (latency-driven
        slimming).
    Differs: the paper stops at one latency, and this is about the whole path and goes on; its importance of blocks comes from a
        Gumbel softmax, ours from what trials or a trained model's outputs lose. What formula it scores an action by is unconfirmed.
    """

    def __init__(self, space: SearchSpace, rng: np.random.Generator, knowledge: Knowledge | None = None) -> None:
        self._space, self._rng = space, rng
        self._archive = Archive(space, rng)
        names = () if knowledge is None else knowledge.names
        self._knowledge = knowledge
        self._exact = {} if knowledge is None else dict(knowledge.exact)
        asked = [names[column] for column in self._exact.values() if column < len(names)]
        self._cost = next((names.index(name) for name in (*COSTS, *asked) if name in asked), None)
        if self._cost is None:
            self._cost = next((names.index(name) for name in COSTS if name in names), None)
        self._damage = names.index(DAMAGE) if DAMAGE in names and self._cost is not None else None
        self._told: dict[Architecture, float] = {}
        self._weights: dict[str, float] = {}
        self._passes = self._paths() if self._damage is not None else self._rounds()
        self._waiting: list[Architecture] = []
        self._ahead = 1

    def ask(self, n: int) -> list[Architecture]:
        """See `Strategy.ask`."""
        return self._archive.hand_out(n, self._next)

    @property
    def ahead(self) -> int:
        """See `Strategy.ahead`: the changes of one architecture, or one by one on a path."""
        return max(1, len(self._waiting))

    def tell(self, archs: Sequence[Architecture], losses: ArrayLike) -> None:
        """See `Strategy.tell`; told architectures that were not asked take part as well."""
        array = self._archive.record(archs, losses)
        if not len(array):
            return
        learned = [column for column in range(array.shape[1]) if column not in self._exact]
        self._told |= zip(archs, array[:, learned[0]].tolist() if learned else [0.0] * len(archs), strict=True)

    def _next(self) -> Architecture | None:
        arch = next(self._passes, None)
        return arch if arch is not None else self._archive.sample()

    # --- with damages ---

    def _paths(self) -> Iterator[Architecture | None]:
        idle = 0  # paths in a row without anything new
        while idle < IDLE:
            idle, path = idle + 1, list[Architecture]()
            for arch in self._path():
                path.append(arch)
                if arch not in self._archive:
                    idle = 0
                    yield arch
            if not self._correct(path):
                return

    def _path(self) -> Iterator[Architecture]:
        """From the start down, those between which enough is saved."""
        at = self._start()
        if at is None:
            return
        yield at
        (figures,) = self._signals([at])
        paid = figures[self._cost]
        while True:
            changes = self._smaller(at)
            if not changes:
                return
            found = self._signals([arch for _, arch in changes])
            saved = figures[self._cost] - found[:, self._cost]
            lost = found[:, self._damage] - figures[self._damage]
            lost = lost * [self._weights.get(name, 1.0) for name, _ in changes]
            place = _least(lost, saved)
            if place is None:
                return
            at, figures = changes[place][1], found[place]
            if figures[self._cost] <= (1 - SAVED) * paid:
                paid = figures[self._cost]
                yield at

    def _correct(self, path: Sequence[Architecture]) -> bool:
        """Learn from the trials of a path what the choices that changed between them lose; whether anything changed."""
        told = [arch for arch in path if arch in self._told]
        if len(told) < 3:
            return False
        damages = self._signals(told)[:, self._damage]
        worth = np.array([self._told[arch] for arch in told])
        expected, found = np.diff(damages), np.diff(worth)
        if not (expected.sum() > 0 and found.sum() > 0 and np.isfinite(found).all()):
            return False
        before = dict(self._weights)
        ratios = (found / found.sum()) / np.maximum(expected / expected.sum(), 1e-6)
        for (one, other), ratio in zip(zip(told, told[1:], strict=False), ratios, strict=True):
            step = math.sqrt(min(max(float(ratio), 1 / CORRECTED), CORRECTED))
            for choice in self._space.choices:
                if one.get(choice.name) != other.get(choice.name):
                    weight = self._weights.get(choice.name, 1.0) * step
                    self._weights[choice.name] = min(max(weight, 1 / CORRECTED), CORRECTED)
        return self._weights != before

    # --- without ---

    def _rounds(self) -> Iterator[Architecture | None]:
        at = self._start()
        while at is not None:
            if at not in self._archive:
                yield at
            changes = [arch for _, arch in self._smaller(at)]
            self._waiting = [arch for arch in changes if arch not in self._archive]
            while self._waiting:
                arch = self._waiting.pop(0)
                if arch not in self._archive:
                    yield arch
            while at not in self._told or not any(arch in self._told for arch in changes):
                if not changes:
                    return
                yield None  # until some are told
            told = [arch for arch in changes if arch in self._told]
            lost = np.array([self._told[arch] - self._told[at] for arch in told])
            saved = np.ones(len(told))
            if self._cost is not None:
                (own,), found = self._signals([at]), self._signals(told)
                saved = own[self._cost] - found[:, self._cost]
            place = _least(lost, saved)
            at = None if place is None else told[place]

    # --- both ---

    def _start(self) -> Architecture | None:
        """The largest architecture; where it breaks a limit, the best that was told, or a sample."""
        try:
            return largest(self._space)
        except ValueError:
            return min(self._told, key=lambda arch: self._told[arch]) if self._told else self._archive.sample()

    def _smaller(self, arch: Architecture) -> list[tuple[str, Architecture]]:
        """The name of a choice and the architecture with another value of it: the next lower number, or any earlier category."""
        found = dict[Architecture, str]()
        for choice in self._space.choices:
            if choice.name not in arch or not isinstance(choice, (Integer, Categorical)):
                continue
            at = choice.values.index(arch[choice.name])
            for value in choice.values[max(at - 1, 0) : at] if isinstance(choice, Integer) else choice.values[:at]:
                with suppress(ValueError):  # it breaks a constraint
                    found.setdefault(self._changed(arch, choice, value), choice.name)
        return [(name, other) for other, name in found.items() if other != arch]

    def _changed(self, arch: Architecture, changed: Choice, value: Value) -> Architecture:
        """An architecture with one value changed; choices that this brings to life are at their largest."""

        def pick(choice: Choice) -> Value:
            if choice is changed:
                return value
            return arch[choice.name] if choice.name in arch else choice.value(choice.size - 1)

        return composed(self._space, pick)

    def _signals(self, archs: Sequence[Architecture]) -> Floats:
        assert self._knowledge is not None
        return np.asarray(self._knowledge.signals(archs), dtype=float)


def _least(lost: Floats, saved: Floats) -> int | None:
    """The change that loses least for what it saves; None where none saves anything."""
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = np.where(saved > 0, lost / saved, np.inf)
    rate = np.where(np.isnan(rate), np.inf, rate)
    return int(np.argmin(rate)) if np.isfinite(rate).any() else None
