"""What is believed of the losses of candidates after some trials, and how much each would add to what was found."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from nas.objectives import Floats, non_dominated, pareto
from nas.strategies.features import Features, normal_scores
from nas.strategies.gaussian_process import Posterior, Prior
from nas.strategies.improvement import Gain, hypervolume_gain, shortfall
from search_spaces import Architecture

Ints = NDArray[np.int64]
FAILED = 1e29
"""Losses from here on are of failed trials, which are told as worse than any."""
MOST = 300
"""Trials that a surrogate holds when it learns anew."""
LEARNING = 150
"""Trials, drawn from those, that it learns its kernel from."""
ROOM = 150
"""Trials that are taken in until it learns anew, at most."""
LEVELS = {1: 1, 2: 50, 3: 12}
"""Points of the front that improvement is measured against, by objectives; of more objectives, 6."""
FEW = 500
"""Losses that stand for all told ones where their scale is read."""
MARGIN = 0.1
"""The reference of the hypervolume is beyond the worst of the front by this share of its extent; of an exact objective, at least the
worst that was told, as the dear end of a front is often flat."""
SURE = 1e-9


class Told:
    """Losses that a strategy was told: in order, sorted by objective, and the front; each told one is taken in at little cost."""

    def __init__(self) -> None:
        self.losses: dict[Architecture, Floats] = {}
        self.sorted: list[list[float]] = []
        self.front: list[Architecture] = []
        self._scales: dict[int, tuple[Floats, Floats, Floats]] = {}

    def __len__(self) -> int:
        return len(self.losses)

    def add(self, archs: Sequence[Architecture], losses: Floats) -> None:
        """Take in architectures with losses of shape (n, k)."""
        self.sorted, self._scales = self.sorted or [[] for _ in losses.T], {}
        self.losses |= zip(archs, losses, strict=True)
        whole: NDArray[np.bool_] = np.all(losses < FAILED, axis=1)
        for objective, values in zip(self.sorted, losses[whole].T.tolist(), strict=True):
            for value in values:
                insort(objective, value)
        members = [*self.front, *(arch for arch, kept in zip(archs, whole, strict=True) if kept)]
        if members:
            best = non_dominated([self.losses[arch] for arch in members])
            self.front = [arch for arch, kept in zip(members, best, strict=True) if kept]

    def scores(self, objective: int, losses: Floats) -> Floats:
        """Normal scores of losses among those told; failed ones are as bad as the worst."""
        known, _, _ = self._scale(objective)
        return normal_scores(losses, known) if len(known) else np.zeros(len(losses))

    def scale(self, objective: int) -> tuple[Floats, Floats]:
        """Rising losses from the best told to the worst, at most 500 of them, and their scores; of shape (n,) each."""
        _, losses, scores = self._scale(objective)
        return losses, scores

    def _scale(self, objective: int) -> tuple[Floats, Floats, Floats]:
        if objective not in self._scales:
            known = np.array(self.sorted[objective])
            few = np.unique(known[np.linspace(0, len(known) - 1, FEW).astype(int)] if len(known) > FEW else known)
            self._scales[objective] = known, few, normal_scores(few, known) if len(known) else few
        return self._scales[objective]

    def best(self, most: int) -> list[Architecture]:
        """At most `most`: up to half of them from the front, the others those with the least sum of scores."""
        archs, losses = list(self.losses), np.array(list(self.losses.values()))
        if not archs:
            return []
        total = np.sum([self.scores(at, column) for at, column in enumerate(losses.T)], axis=0)
        least = (archs[at] for at in np.argsort(total, kind="stable")[:most])
        return list(dict.fromkeys([*self.front[-(most // 2) :], *least]))[:most]

    def some(self, most: int, rng: np.random.Generator) -> list[Architecture]:
        """At most `most`: half of them the best, and others at random."""
        archs = list(self.losses)
        if len(archs) <= most:
            return archs
        drawn = (archs[at] for at in rng.permutation(len(archs)))
        return list(islice(dict.fromkeys([*self.best(most // 2), *drawn]), most))


class Belief:
    """A Gaussian process for each objective that is learned, over the same trials and candidates.

    Args:
        read: features of architectures.
        exact: the signal that is the loss, by the position of objectives that are known exactly.
        explore: whether it counts how unsure it is.
    """

    def __init__(self, read: Features, exact: Mapping[int, int], explore: bool) -> None:
        self._read, self._exact, self._explore = read, exact, explore
        self._prior = Prior(read.groups)
        self._parameters: dict[int, Floats] = {}
        self._posteriors: dict[int, Posterior] = {}
        self._targets: dict[int, Floats] = {}
        self._rows: dict[Architecture, int] = {}
        self._losses: list[Floats] = []
        self._believed: dict[Architecture, Floats] = {}
        self.told = Told()

    @property
    def room(self) -> int:
        """How many architectures can be taken in before learning anew."""
        return min((posterior.room for posterior in self._posteriors.values()), default=0)

    def learn(self, pending: Sequence[Architecture], rng: np.random.Generator) -> None:
        """Find the kernels anew after what was told; `pending` was asked and not told."""
        told = self.told
        archs = told.some(MOST, rng)
        learned = [at for at in range(len(told.sorted)) if at not in self._exact] or [0]
        self._rows = {arch: row for row, arch in enumerate(archs)}
        self._losses = [told.losses[arch] for arch in archs]
        self._believed, self._targets, self._posteriors = {}, {}, {}
        features = self._features(archs)
        few = np.sort(rng.permutation(len(archs))[:LEARNING])
        for at in learned:
            targets = self._scored(at)
            start = self._parameters.get(at, self._prior.mean)
            if len(targets) and (targets != targets[0]).any():
                start = self._prior.learned(features[few], targets[few], start)
            self._parameters[at] = start
            kernel = self._prior.kernel(start)
            self._posteriors[at] = Posterior(kernel, features, ROOM)
            self._targets[at] = targets
        for arch in pending[-ROOM // 2 :]:
            self.expect(arch)

    def watch(self, candidates: Floats) -> None:
        """Take candidates with features of shape (m, f)."""
        for posterior in self._posteriors.values():
            posterior.watch(candidates)

    def replace(self, places: Ints, candidates: Floats) -> None:
        """Put other candidates in these places."""
        for posterior in self._posteriors.values():
            posterior.replace(places, candidates)

    def expect(self, arch: Architecture) -> None:
        """Take an architecture in as if it were told what is expected of it."""
        features, believed = self._features([arch]), {}
        for at, posterior in self._posteriors.items():
            mean, _ = posterior.expected(features, self._targets[at])
            posterior.add(features[0])
            self._targets[at] = np.append(self._targets[at], mean)
            believed[at] = mean
        self._rows[arch] = len(self._rows)
        self._losses.append(np.full(max(len(self.told.sorted), 1), np.nan))
        self._believed[arch] = self._meant(believed, self._read.signals([arch]))[0]

    def take_in(self, archs: Iterable[Architecture]) -> None:
        """Architectures of these were told, expected or not."""
        for arch in archs:
            if arch not in self._rows:
                self.expect(arch)
            self._losses[self._rows[arch]] = self.told.losses[arch]
            self._believed.pop(arch, None)
        for at in self._posteriors:
            self._targets[at] = self._scored(at)

    def promise(self, features: Floats, signals: Floats) -> Floats:
        """What architectures with these features and signals would add, shape (n,), in any unit."""
        expected = {at: each.expected(features, self._targets[at]) for at, each in self._posteriors.items()}
        return self._added(expected, signals)

    def promises(self, signals: Floats) -> Floats:
        """The same of the candidates, which have these signals."""
        expected = {at: (each.mean(self._targets[at]), each.deviation) for at, each in self._posteriors.items()}
        return self._added(expected, signals)

    def _added(self, expected: Mapping[int, tuple[Floats, Floats]], signals: Floats) -> Floats:
        if not self.told.front:
            return np.sum([deviation for _, deviation in expected.values()], axis=0)
        front, reference = self._front()
        gains: list[Gain] = []
        for at in range(front.shape[1]):
            if at in self._exact:
                gains.append(partial(_exactly, signals[:, self._exact[at]]))
            else:
                mean, deviation = expected[at]
                deviation = deviation if self._explore else np.full_like(deviation, SURE)
                gains.append(self._gain(at, np.append(front[:, at], reference[at]), mean, deviation))
        added = hypervolume_gain(front, reference.tolist(), gains)
        hopeless = -np.exp(np.sum([mean for mean, _ in expected.values()], axis=0))
        return np.where(added > 0, added, hopeless)

    def _front(self) -> tuple[Floats, Floats]:
        """What improvement is measured against, thinned, with what is expected of pending ones, and the reference."""
        found = np.array([self.told.losses[arch] for arch in self.told.front])
        worst = found.max(axis=0)
        extent = worst - found.min(axis=0)
        reference = worst + np.where(extent > 0, MARGIN * extent, MARGIN * np.maximum(np.abs(worst), 1.0))
        for at in self._exact.keys() & set(range(len(reference))):
            reference[at] = max(reference[at], self.told.sorted[at][-1])
        front = np.concatenate([found, *(losses[None] for losses in self._believed.values())])
        front = front[(front < reference).all(axis=1)]
        front = front[non_dominated(front)]
        most = LEVELS.get(front.shape[1], 6)
        if len(front) > most:
            front = front[np.sort(np.argsort(-pareto.crowding_distance(front), kind="stable")[:most])]
        return front, reference

    def _gain(self, at: int, levels: Floats, mean: Floats, deviation: Floats) -> Gain:
        """How far candidates fall below levels of a loss, from the mean and deviation of their scores.

        Between the levels, and one standard deviation beyond the best, losses are taken as linear in their scores.
        """
        known, (every, theirs) = np.unique(levels), self.told.scale(at)
        scores = np.interp(known, every, theirs)
        beyond = np.interp(scores[0] + 1, theirs, every) - known[0]
        rises = np.append(beyond if beyond > 0 else 1.0, np.diff(known))
        runs = np.append(1.0, np.diff(scores))
        slopes = np.divide(rises, runs, out=np.zeros_like(rises), where=runs > 0)
        below = shortfall(scores, mean, deviation)
        gains = np.cumsum(slopes * np.diff(below, prepend=0.0, axis=1), axis=1)
        places = {level: place for place, level in enumerate(known.tolist())}
        return lambda level: gains[:, places[level]]

    def _meant(self, scores: Mapping[int, Floats], signals: Floats) -> Floats:
        """Losses of shape (n, k) behind scores, and exact ones; NaN where nothing was told yet."""
        columns = []
        for at in range(len(self.told.sorted)):
            every, theirs = self.told.scale(at)
            if at in self._exact:
                columns.append(signals[:, self._exact[at]])
            else:
                columns.append(np.interp(scores[at], theirs, every) if len(every) else np.full(len(signals), np.nan))
        return np.stack(columns, axis=1) if columns else np.full((len(signals), 1), np.nan)

    def _scored(self, at: int) -> Floats:
        """Targets of an objective: the scores of the told, what was expected of the others."""
        told = np.array(self._losses)
        targets = np.append(self._targets.get(at, np.empty(0)), np.zeros(len(told)))[: len(told)]
        if not self.told.sorted:
            return targets
        known = ~np.isnan(told[:, at]) if len(told) else np.empty(0, dtype=bool)
        targets[known] = self.told.scores(at, told[known, at])
        return targets

    def _features(self, archs: Sequence[Architecture]) -> Floats:
        return self._read(archs, self._read.signals(archs))


def _exactly(losses: Floats, level: float) -> Floats:
    return np.nan_to_num(np.maximum(level - losses, 0.0))
