"""Optimisers of other libraries as strategies: what they repeat or may not propose is drawn again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike

from nas.objectives import Floats
from nas.strategies.strategy import Archive
from search_spaces import Architecture, SearchSpace
from search_spaces.core import Values

DRAWS = 5
"""Proposals in a row that may be known or break rules, before one is sampled instead."""


class Proposal(NamedTuple):
    """What an optimiser proposes.

    Attributes:
        values: a value for each choice that exists.
        token: what the optimiser knows it by.
    """

    values: Values
    token: Any


class Proposer(Protocol):
    """An optimiser of another library. Each proposal is either told or dropped, in any order, or neither."""

    def propose(self) -> Proposal | None:
        """The next; None where it has none."""
        ...

    def tell(self, token: Any, losses: Floats) -> None:
        """What a proposal is worth, by losses of shape (k,) that are minimised; k is the same in every call."""
        ...

    def drop(self, token: Any, broken: int) -> None:
        """A proposal is not tried: it breaks so many rules of the space, or none and is known but without result."""
        ...

    def learn(self, arch: Architecture, losses: Floats) -> None:
        """What an architecture is worth that was not proposed."""
        ...


class Adapted:
    """A strategy that proposes what an optimiser of another library does.

    A proposal that was told before is answered with what it was worth, one that breaks a rule of the space is dropped, and the
    optimiser is asked again. After 5 of those in a row, or where it has none, an architecture is sampled as `RandomSearch` does.

    Args:
        space: what to search.
        rng: the strategy's own generator.
        proposer: the optimiser.
        startup: the first so many architectures are sampled, and so are later ones until a first result is told.
        many: whether the optimiser takes several objectives. Where it takes one, it is told of several the share of architectures told
            before that dominate this one.
        listens: whether what it proposes depends on what it is told.
    """

    def __init__(
        self,
        space: SearchSpace,
        rng: np.random.Generator,
        proposer: Proposer,
        *,
        startup: int = 0,
        many: bool = True,
        listens: bool = True,
    ) -> None:
        self._space, self._proposer = space, proposer
        self._startup, self._many, self._listens = startup, many, listens
        self._archive = Archive(space, rng)
        self._pending: dict[Architecture, Any] = {}
        self._losses: dict[Architecture, Floats] = {}
        self._table: Floats | None = None

    def ask(self, n: int) -> list[Architecture]:
        """See `Strategy.ask`."""
        return self._archive.hand_out(n, self._next)

    @property
    def ahead(self) -> int:
        """See `Strategy.ahead`: those sampled at first, then one by one; all of an optimiser that does not listen."""
        return max(1, self._startup - len(self._archive)) if self._listens else self._space.raw_size

    def tell(self, archs: Sequence[Architecture], losses: ArrayLike) -> None:
        """See `Strategy.tell`; told architectures that were not asked take part where the optimiser lets them."""
        rows = self._archive.record(archs, losses)
        for arch, row in zip(archs, rows, strict=True):
            self._losses[arch] = row
            if arch in self._pending:
                self._proposer.tell(self._pending.pop(arch), self._worth(row))
            else:
                self._proposer.learn(arch, self._worth(row))
            if not self._many:
                self._table = row[None] if self._table is None else np.concatenate([self._table, row[None]])

    def _next(self) -> Architecture | None:
        if self._startup and (len(self._archive) < self._startup or not self._losses):
            return self._archive.sample()
        for _ in range(DRAWS):
            proposal = self._proposer.propose()
            if proposal is None:
                break
            broken = sum(not constraint.holds(proposal.values) for constraint in self._space.constraints)
            if broken:
                self._proposer.drop(proposal.token, broken)
                continue
            arch = self._space.architecture(proposal.values)
            if arch not in self._archive:
                self._pending[arch] = proposal.token
                return arch
            if arch in self._losses:
                self._proposer.tell(proposal.token, self._worth(self._losses[arch]))
            else:
                self._proposer.drop(proposal.token, 0)
        return self._archive.sample()

    def _worth(self, losses: Floats) -> Floats:
        if self._many or len(losses) == 1:
            return losses
        if self._table is None:
            return np.zeros(1)
        dominate = (self._table <= losses).all(axis=1) & (self._table < losses).any(axis=1)
        return np.array([dominate.mean()])
