"""Expected improvement: of the best, or of the hypervolume of a front."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from nas.objectives import Floats

Gain = Callable[[float], Floats]
"""How far, on average, each of n candidates falls below a level of one objective; shape (n,)."""


def shortfall(levels: Floats, mean: Floats, deviation: Floats) -> Floats:
    """How far a normal variable falls below levels on average: of shape (n, levels) for means and deviations of shape (n,)."""
    from scipy.special import ndtr

    scaled = (levels - mean[:, None]) / deviation[:, None]
    density = np.exp(-(scaled**2) / 2) / np.sqrt(2 * np.pi)
    gain: Floats = deviation[:, None] * (scaled * ndtr(scaled) + density)
    return gain


def hypervolume_gain(front: Floats, reference: Sequence[float], gains: Sequence[Gain]) -> Floats:
    """Expected growth of the hypervolume by each of n candidates whose objectives are independent.

    Slabs between the levels of the last objective: in each, a candidate covers its expected depth times what it adds to the front
    of those points that reach into the slab, in one objective less. With one objective it is the expected improvement.

    Args:
        front: losses of non-dominated points, all below the reference, shape (m, k).
        reference: the corner that hypervolume is measured to, k numbers.
        gains: one of each objective.

    Returns:
        Shape (n,).

    Reference: Emmerich, Giannakoglou, Naujoks, "Single- and Multiobjective Evolutionary Optimization Assisted by Gaussian Random Field
    Metamodels", IEEE Transactions on Evolutionary Computation 10(4), 2006, for the criterion.
    """
    *others, last = gains
    if not others:
        return last(min([reference[0], *front[:, 0].tolist()]))
    front = front[np.argsort(front[:, -1], kind="stable")]
    total, below = np.zeros(1), np.zeros(1)
    for at, level in enumerate([*front[:, -1].tolist(), reference[-1]]):
        if at and level == front[at - 1, -1]:
            continue
        reached = last(level)
        total = total + (reached - below) * hypervolume_gain(front[:at, :-1], reference[:-1], others)
        below = reached
    return total
