"""Several scores made into one ranking, without labels.

Each score becomes ranks, so that units do not matter. NaN has no rank: it is left out, and counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from search_spaces.core import unknown_name

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Ranking:
    """Architectures in one order.

    Attributes:
        values: shape (n,), higher is better; NaN for an architecture without any score.
        missing: by score, how many architectures had NaN.
    """

    values: Floats
    missing: Mapping[str, int]

    @property
    def order(self) -> NDArray[np.intp]:
        """Positions of the architectures that have a value, best first; equal ones in their order."""
        known = np.flatnonzero(~np.isnan(self.values))
        return known[np.argsort(-self.values[known], kind="stable")]


def ranks(values: ArrayLike, *, higher_is_better: bool = True) -> Floats:
    """Ranks of n scores as fractions in (0, 1], 1 for the best; equal scores share their mean, NaN stays NaN.

    Infinite scores are the best or the worst.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"`values` must have shape (n,), got {array.shape}")
    found = np.full(array.shape, np.nan)
    known = ~np.isnan(array)
    if known.any():
        found[known] = rankdata(array[known] if higher_is_better else -array[known]) / known.sum()
    return found


def aggregate(
    scores: Mapping[str, ArrayLike],
    *,
    higher_is_better: Mapping[str, bool],
    groups: Sequence[Sequence[str]] | None = None,
) -> Ranking:
    """One ranking from several scores: the geometric mean of their ranks.

    A geometric mean asks for all scores at once: being last in one is not made up for by being first in another. An
    architecture that lacks a score is ranked by the others.

    Args:
        scores: shape (n,) each, by name; costs such as macs may be among them, higher being better where more capacity is wanted.
        higher_is_better: the direction of each score.
        groups: scores that measure the same thing, which share one vote; a score that no group names is a group of its own.

    Reference: Lee, Ham, "AZ-NAS: Assembling Zero-Cost Proxies for Network Architecture Search", CVPR 2024, arXiv:2403.19232, for
    the sum of the logarithms of ranks.
    Differs: groups, and scores that are missing.

    Raises:
        ValueError: no scores, different lengths, a score without a direction, or a group that names an unknown score or one twice.
    """
    if not scores:
        raise ValueError("`scores` must hold at least one score, got none")
    for name in scores:
        if name not in higher_is_better:
            raise ValueError(
                f"`higher_is_better` must tell the direction of every score, got none for {name!r}; add it"
            )
    named = [name for group in groups or () for name in group]
    for name in named:
        if name not in scores:
            raise unknown_name("score", name, scores)
        if named.count(name) > 1:
            raise ValueError(f"each score may be in one group, got {name!r} twice; drop one")
    lengths = {name: len(np.asarray(values)) for name, values in scores.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"every score needs one value for each architecture, got {lengths}")
    logs = {name: np.log(ranks(values, higher_is_better=higher_is_better[name])) for name, values in scores.items()}
    votes = [
        _mean([logs[name] for name in group]) for group in [*(groups or ()), *([n] for n in scores if n not in named)]
    ]
    return Ranking(np.exp(_mean(votes)), {name: int(np.isnan(log).sum()) for name, log in logs.items()})


def _mean(rows: Sequence[Floats]) -> Floats:
    """Mean over rows of what is not NaN; NaN where all are."""
    stacked = np.stack(rows)
    known = (~np.isnan(stacked)).sum(axis=0)
    return np.where(known > 0, np.nansum(stacked, axis=0) / np.maximum(known, 1), np.nan)
