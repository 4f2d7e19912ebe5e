"""The contract of search strategies, and the archive that keeps it for all of ours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from nas.objectives import Floats, check_losses
from search_spaces import Architecture, SearchSpace
from search_spaces.core import Value

SMALL = 100_000
DRAWS, DRAWS_DEAR = 1_000, 50
CHILDREN = 20


class Strategy(Protocol):
    """Proposes architectures and learns from what they turned out to be worth.

    What is asked depends on the generator's seed and on the order of asks and tells, on nothing else: asking and telling the same
    again in a new process gives the same architectures, which is how a stopped run goes on. Asking for n architectures
    equals asking n times for one. Telling many equals telling them one by one in that order.

    Architectures may be asked for before earlier ones are told, be told in any order, or never be told.
    """

    def ask(self, n: int) -> list[Architecture]:
        """At most `n` architectures, none of which was asked or told before; none at all when nothing is left to propose."""
        ...

    @property
    def ahead(self) -> int:
        """How many architectures, at least 1, may be asked for at once, where all that were asked before are told, without that any of
        them would be another one if those before it had been told first.
        """
        ...

    def tell(self, archs: Sequence[Architecture], losses: ArrayLike) -> None:
        """What architectures, asked here or not, turned out to be worth; each is told once.

        Args:
            archs: n architectures.
            losses: shape (n, k), finite and minimised; the same k in every call.

        Raises:
            ValueError: another shape, a loss that is NaN or infinite, an architecture of another space, or one told before.
        """
        ...


class Archive:
    """What a strategy asked and was told: hands out each architecture of the space once and checks what is told.

    Args:
        space: what to propose from.
        rng: the strategy's own generator; nothing else may draw from it.
    """

    def __init__(self, space: SearchSpace, rng: np.random.Generator) -> None:
        self.space, self.rng = space, rng
        self._known: dict[Architecture, bool] = {}  # whether it was told
        self._objectives: int | None = None

    def __len__(self) -> int:
        """Number of architectures asked or told."""
        return len(self._known)

    def __contains__(self, arch: Architecture) -> bool:
        return arch in self._known

    @property
    def can_list(self) -> bool:
        """Whether the space is small enough to list every architecture: of up to 100,000 descriptions."""
        return self.space.raw_size <= SMALL

    def hand_out(self, n: int, next_new: Callable[[], Architecture | None]) -> list[Architecture]:
        """At most `n` new architectures.

        Args:
            n: how many.
            next_new: gives an architecture that is not in the archive, or None when nothing is left.

        Raises:
            ValueError: `n` is below 1.
        """
        if n < 1:
            raise ValueError(f"`n` must be at least 1, got {n}; an empty answer means that nothing is left to propose")
        found: list[Architecture] = []
        while len(found) < n and (arch := next_new()) is not None:
            self._known[arch] = False
            found.append(arch)
        return found

    def new_child(self, breed: Callable[[], Architecture | None]) -> Architecture | None:
        """The first child that is new; a sample of what is left where 20 children were all known, or `breed` gives None."""
        for _ in range(CHILDREN):
            child = breed()
            if child is None:
                break
            if child not in self:
                return child
        return self.sample()

    def sample(self) -> Architecture | None:
        """A new architecture, every one equally likely, or with `even_first` every value of the first choice; None if there is none.

        A space of up to 100,000 descriptions is listed once and shuffled. From a larger one architectures are drawn; it counts as
        exhausted after 1,000 known draws in a row, or if no draw keeps its constraints. Where it takes long to tell what keeps its
        limits, architectures are drawn from a small space too, and after 50 known ones come in the space's order.

        Raises:
            ValueError: none was found to keep the constraints, and nothing was asked or told yet.
        """
        small = self.can_list
        if small and not self.space.dear:
            while self._shuffled:
                arch = self._shuffled.pop()
                if arch not in self:
                    return arch
            return None
        drawn = (self.space.sample(self.rng) for _ in range(DRAWS_DEAR if self.space.dear else DRAWS))
        try:
            found = next((arch for arch in drawn if arch not in self), None)
        except ValueError:
            if self._known:
                return None
            raise
        return next((arch for arch in self._in_order if arch not in self), None) if found is None and small else found

    def record(self, archs: Sequence[Architecture], losses: ArrayLike) -> Floats:
        """Check and remember what a strategy is told.

        Returns:
            The losses, shape (n, k).
        """
        array = check_losses(losses)
        if len(array) != len(archs):
            raise ValueError(f"`losses` needs a row for each of {len(archs)} architectures, got shape {array.shape}")
        if self._objectives not in (None, array.shape[1]):
            raise ValueError(f"`losses` had {self._objectives} objectives before, got shape {array.shape}")
        now: dict[Architecture, bool] = {}
        for arch in archs:
            self.space.check(arch)
            if self._known.get(arch) or arch in now:
                raise ValueError(f"{self.space.label(arch)} was told before; tell each architecture once")
            now[arch] = True
        self._known |= now
        self._objectives = array.shape[1]
        return array

    @cached_property
    def _in_order(self) -> Iterator[Architecture]:
        return self.space.enumerate()

    @cached_property
    def _shuffled(self) -> list[Architecture]:
        archs = list(self.space.enumerate())
        shuffled = [archs[at] for at in self.rng.permutation(len(archs))]
        return list(reversed(_in_turns(shuffled, self.space.choices[0].name))) if self.space.even_first else shuffled


def _in_turns(archs: Sequence[Architecture], choice: str) -> list[Architecture]:
    """The same architectures, ordered so that the values of a choice alternate for as long as possible."""
    before: Counter[Value] = Counter()
    turns = []
    for arch in archs:
        turns.append(before[arch[choice]])
        before[arch[choice]] += 1
    return [archs[at] for at in np.argsort(turns, kind="stable")]
