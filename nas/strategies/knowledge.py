"""What is known of architectures without a trial."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from numpy.typing import ArrayLike

from search_spaces import Architecture


@dataclass(frozen=True)
class Knowledge:
    """Free signals, and the losses that are known exactly.

    A strategy learns from the trials how far to trust a signal, so a useless one does little harm. Costs are signals; so may be
    zero-cost scores, a supernet's accuracy, or what few epochs of training give, where they are there already.

    Args:
        signals: gives n architectures their numbers, shape (n, s), the same s each time; NaN for what is not known, and infinite at
            will. It is asked about every architecture that a strategy considers, so it must be quick.
        exact: the column of `signals` that is the loss itself, by the position of the objective; the others are learned.
        names: what the columns are called, where they have names.
    """

    signals: Callable[[Sequence[Architecture]], ArrayLike]
    exact: Mapping[int, int] = field(default_factory=dict)
    names: Sequence[str] = ()
