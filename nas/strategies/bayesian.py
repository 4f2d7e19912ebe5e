"""Bayesian optimisation: a surrogate learned from the trials says which architecture promises most."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from nas.objectives import Floats
from nas.strategies.belief import Belief
from nas.strategies.candidates import Bred, Listed
from nas.strategies.coarse_to_fine import tied
from nas.strategies.features import Features
from nas.strategies.knowledge import Knowledge
from nas.strategies.strategy import Archive
from search_spaces import Architecture, SearchSpace

OFTEN, GROWTH = 50, 1.2
"""It learns anew after so many trials told, or when they grew by so much, whichever comes first."""
BEST = 10
"""Trials that candidates are bred from."""
SAMPLE, SAMPLE_DEAR = 300, 30
"""Architectures that stand for a space which is too large to list; fewer where it takes long to ask about each."""


class Bayesian:
    """The candidate with the greatest expected improvement, of the best or of the hypervolume, comes next.

    Args:
        space: what to search.
        rng: the strategy's own generator.
        knowledge: free signals, and objectives that are known exactly.
        start: architectures that come before anything told counts: up to half of them at one relative position in all choices of a
            kind, as in `CoarseToFine`, the others those that the surrogate is least sure of.
        together: how many are asked from the same knowledge. The next round begins with whatever was told.
        explore: whether it counts how unsure the surrogate is; without, its mean is taken at its word.

    The surrogate is a Gaussian process for each objective that is not known exactly, on normal scores of the losses: main effects of
    choices, of what choices of a kind add up to and of free signals, and a part for interactions. Weights, lengths and noise are the
    most likely ones after the trials, under a prior in which each of them explains little: so a signal counts as far as the trials
    bear it out. They are found anew whenever the trials grew by a fifth, at the latest after 50, from 300 trials at most; in between
    each trial is taken in as they are. What is asked and not told counts as told with its expected losses.

    A failed trial counts as the worst one. Of a space of up to 100,000 descriptions every architecture is a candidate; of a larger
    one, children of the best trials and candidates are.

    Reference: Jones, Schonlau, Welch, "Efficient Global Optimization of Expensive Black-Box Functions", Journal of Global
    Optimization 13, 1998, for the criterion; Ginsbourger, Le Riche, Carraro, "Kriging Is Well-Suited to Parallelize Optimization",
    2010, for what is asked and not told. With rounds of 50 and `explore` off it is the loop of SimQ-NAS (arXiv:2312.13301) and DyNAS-T.
    Differs: for the loop, evolution on the surrogate is on the hypervolume that a candidate adds to the front and to its round, in
    place of NSGA-II; and the surrogate is this one, in place of ridge regression or a support vector machine.
    """

    def __init__(
        self,
        space: SearchSpace,
        rng: np.random.Generator,
        knowledge: Knowledge | None = None,
        *,
        start: int = 10,
        together: int = 1,
        explore: bool = True,
    ) -> None:
        for name, value in (("start", start), ("together", together)):
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}")
        self._start, self._together, self._explore = start, together, explore
        self._archive, self._knowledge = Archive(space, rng), knowledge
        self._tied = iter(tied(space, rng, max(1, start // 2)))
        self._heard: list[tuple[Sequence[Architecture], Floats]] = []
        self._pending: dict[Architecture, None] = {}
        self._round, self._learns_at = 0, 0
        self._promises: Floats | None = None

    def ask(self, n: int) -> list[Architecture]:
        """See `Strategy.ask`."""
        return self._archive.hand_out(n, self._next)

    @property
    def ahead(self) -> int:
        """See `Strategy.ahead`: what comes before anything told counts, then the rest of a round."""
        left = self._start - len(self._archive)
        return left if left > 0 else self._together - self._round

    def tell(self, archs: Sequence[Architecture], losses: ArrayLike) -> None:
        """See `Strategy.tell`; told architectures that were not asked take part as well."""
        told = self._archive.record(archs, losses)
        if len(archs):
            self._heard.append((archs, told))

    def _next(self) -> Architecture | None:
        early = len(self._archive) < self._start
        arch = next((point for point in self._tied if point not in self._archive), None) if early else None
        if arch is None:
            if not early and not self._round:
                self._listen()
            if not self._belief.room:
                self._learn()
            arch = self._most_promising()
        if arch is not None:
            self._pending[arch] = None
            if self._belief.room:
                self._belief.expect(arch)
            self._round = 0 if early else (self._round + 1) % self._together
        return arch

    def _listen(self) -> None:
        """Take in what was told since the last round."""
        belief = self._belief
        new: list[Architecture] = []
        for archs, losses in self._heard:
            belief.told.add(archs, losses)
            new += archs
        self._heard = []
        for arch in new:
            self._pending.pop(arch, None)
        if new and (len(belief.told) >= self._learns_at or belief.room <= len(new)):
            self._learn()
        elif new:
            belief.take_in(new)

    def _learn(self) -> None:
        """Learn anew, and look for candidates anew."""
        belief, told = self._belief, len(self._belief.told)
        belief.learn(list(self._pending), self._archive.rng)
        self._candidates.refresh(belief.promise, belief.told.best(BEST))
        belief.watch(self._candidates.features)
        self._promises = None
        self._learns_at = max(told + 1, min(int(told * GROWTH), told + OFTEN))

    def _most_promising(self) -> Architecture | None:
        belief, candidates = self._belief, self._candidates
        if isinstance(candidates, Bred) and self._promises is not None:
            places = candidates.renew(self._promises)
            belief.replace(places, candidates.features[places])
        elif all(arch in self._archive for arch in candidates.archs):
            self._learn()
        self._promises = belief.promises(candidates.signals)
        order = np.argsort(-self._promises, kind="stable")
        found = next((candidates.archs[at] for at in order if candidates.archs[at] not in self._archive), None)
        return self._archive.sample() if found is None else found

    @cached_property
    def _belief(self) -> Belief:
        return Belief(self._features, {} if self._knowledge is None else self._knowledge.exact, self._explore)

    @cached_property
    def _features(self) -> Features:
        return Features(self._archive.space, self._sample, self._knowledge)

    @cached_property
    def _candidates(self) -> Listed | Bred:
        if self._archive.can_list:
            return Listed(self._archive, self._sample, self._features)
        return Bred(self._archive, self._features)

    @cached_property
    def _sample(self) -> list[Architecture]:
        """All architectures in random order, or some of a space that is too large to list."""
        space, rng = self._archive.space, self._archive.rng
        if not self._archive.can_list:
            return [space.sample(rng) for _ in range(SAMPLE_DEAR if space.dear else SAMPLE)]
        archs = list(space.enumerate())
        return [archs[at] for at in rng.permutation(len(archs))]
