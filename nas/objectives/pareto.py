"""Pareto tools: dominance, fronts, crowding, hypervolume and the knee.

All functions take losses, of which less is better, as arrays of shape (n, k): n points, k objectives.
One point dominates another when no loss is greater and at least one is less; points with equal losses do not dominate each other.
Losses that are NaN or infinite are refused.
"""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def check_losses(losses: ArrayLike) -> Floats:
    """`losses` as a new float64 array of shape (n, k).

    Raises:
        ValueError: not two-dimensional, no objective, or a loss that is NaN or infinite.
    """
    array = np.array(losses, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"losses must have shape (points, objectives), got {array.shape}")
    for row, column in np.argwhere(~np.isfinite(array)):
        raise ValueError(
            f"losses must be finite, got {array[row, column]} for point {row}, objective {column}; "
            "leave out points that have no result"
        )
    return array


def non_dominated(losses: ArrayLike) -> Bools:
    """Which points no other point dominates.

    Equal points are kept or left out together. Two objectives take O(n log n), more take O(n f) for f points on the front.

    Args:
        losses: shape (n, k), minimised.

    Returns:
        Shape (n,).
    """
    points, where = _distinct(check_losses(losses))
    return _front(points)[where]


def non_dominated_rank(losses: ArrayLike) -> Ints:
    """The front of each point: 0 for points that nothing dominates, 1 for those that only front 0 dominates, and so on.

    Args:
        losses: shape (n, k), minimised.

    Returns:
        Shape (n,). Equal points have equal ranks.

    Reference: Deb et al., "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II", IEEE Trans. Evol. Comput. 6(2), 2002.
    Differs: up to two objectives are ranked in one sorted pass; more by taking off one front after the other.
    """
    points, where = _distinct(check_losses(losses))
    if points.shape[1] <= 2:
        return _rank_sorted(points)[where]
    rank = np.zeros(len(points), dtype=np.int64)
    left = np.arange(len(points))
    while len(left):
        front = _front(points[left])
        left = left[~front]
        rank[left] += 1
    return rank[where]


def crowding_distance(losses: ArrayLike) -> Floats:
    """How much room each point of one front has: the gaps between its neighbours, objective by objective, over the objective's range.

    Args:
        losses: shape (n, k), minimised; the points of one front.

    Returns:
        Shape (n,): infinite for the points at either end of an objective. Equal losses are ordered by row; an objective in which
        all points are equal adds nothing, so that a front of equal points has distance 0 throughout. One point alone has infinite
        distance.

    Reference: Deb et al. 2002, see `non_dominated_rank`.
    """
    array = check_losses(losses)
    distance = np.full(len(array), np.inf if len(array) == 1 else 0.0)
    for column in array.T:
        order = np.argsort(column, kind="stable")
        ordered = column[order]
        if len(array) < 2 or ordered[-1] == ordered[0]:
            continue
        distance[order[1:-1]] += (ordered[2:] - ordered[:-2]) / (ordered[-1] - ordered[0])
        distance[order[[0, -1]]] = np.inf
    return distance


def rank_and_crowding(losses: ArrayLike) -> tuple[Ints, Floats]:
    """The rank of each point and its crowding distance within its own front; both of shape (n,), for losses of shape (n, k)."""
    array = check_losses(losses)
    rank = non_dominated_rank(array)
    crowding = np.zeros(len(array))
    for front in range(rank.max(initial=-1) + 1):
        members = rank == front
        crowding[members] = crowding_distance(array[members])
    return rank, crowding


def hypervolume(losses: ArrayLike, reference: ArrayLike) -> float:
    """The volume that the points dominate, up to the reference point. Exact.

    Two objectives are swept in O(n log n); every further objective multiplies the time by the number of points, so four
    objectives suit some hundreds of points.

    Args:
        losses: shape (n, k), minimised. Dominated points change nothing.
        reference: shape (k,): the worst corner. Points that are not better than it in every objective add nothing.

    Returns:
        The volume, in the product of the objectives' units; 0.0 without points.
    """
    array = check_losses(losses)
    corner = check_losses(np.atleast_2d(np.asarray(reference, dtype=np.float64)))[0]
    if corner.shape != (array.shape[1],):
        raise ValueError(f"`reference` needs one loss for each of {array.shape[1]} objectives, got {len(corner)}")
    return _volume(array[(array < corner).all(axis=1)], corner)


def knee(losses: ArrayLike) -> int:
    """The point of the front that bulges most: the balanced pick where nobody said what an objective is worth.

    Every objective is scaled to [0, 1] over the front. The pick lies furthest, towards the ideal point, from the plane through the
    extremes, which are the corners that are best in one objective and worst in all others. All such distances differ from the
    (negated) sum of the scaled losses by the same factor and constant, so the pick is the least sum.

    Args:
        losses: shape (n, k), minimised. Dominated points are never picked.

    Returns:
        Row of the knee. Sums that agree to 9 decimals tie; ties go to the least first loss, then second loss and so on, then to
        the first row. Hence a straight or inward front gives its end with the least first loss, or whichever end is lower. An
        objective in which the front is flat counts for nothing, and a front of one point is its own knee.

    Raises:
        ValueError: no points.

    Reference: Das, "On Characterizing the 'Knee' of the Pareto Curve Based on Normal-Boundary Intersection", Structural Optimization
    18, 1999.
    Differs: works on a finite set of scaled points; with three objectives or more the plane goes through ideal corners, because
    the observed extremes may not span one. With two objectives the corners are the observed extremes.
    """
    array = check_losses(losses)
    if not len(array):
        raise ValueError("the knee needs at least one point, got none; run a trial first")
    rows = np.flatnonzero(non_dominated(array))
    front = array[rows]
    low = front.min(axis=0)
    span = front.max(axis=0) - low
    sums = np.round(((front - low) / np.where(span > 0, span, 1.0)).sum(axis=1), 9)
    order = np.lexsort((*front.T[::-1], sums))
    return int(rows[order[0]])


def _distinct(points: Floats) -> tuple[Floats, Ints]:
    """The distinct points in lexicographic order, with at least two columns, and the place of each point among them."""
    order = np.lexsort(points.T[::-1])
    ordered = points[order]
    new = np.ones(len(points), dtype=bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    where = np.empty(len(points), dtype=np.int64)
    where[order] = np.cumsum(new) - 1
    unique = ordered[new]
    if unique.shape[1] == 1:
        unique = np.hstack([unique, np.zeros_like(unique)])
    return unique, where


def _front(points: Floats) -> Bools:
    """Non-dominated among distinct points in lexicographic order, in which no point dominates an earlier one."""
    if points.shape[1] == 2:
        second = points[:, 1]
        best_before = np.minimum.accumulate(np.concatenate([[np.inf], second]))[:-1]
        return second < best_before
    kept = np.zeros(len(points), dtype=bool)
    left = np.arange(len(points))
    while len(left):
        kept[left[0]] = True
        left = left[(points[left] < points[left[0]]).any(axis=1)]
    return kept


def _rank_sorted(points: Floats) -> Ints:
    """Rank of distinct points with two losses, in lexicographic order.

    Front by front, the least second loss so far rises, so bisection finds the first front that does not dominate the point.
    """
    rank = np.empty(len(points), dtype=np.int64)
    least: list[float] = []
    for at, second in enumerate(points[:, 1].tolist()):
        front = bisect_right(least, second)
        least[front : front + 1] = [second]
        rank[at] = front
    return rank


def _volume(points: Floats, corner: Floats) -> float:
    """Hypervolume of points that are all better than the corner, sliced along the last objective."""
    if not len(points):
        return 0.0
    if len(corner) == 1:
        return float(corner[0] - points.min())
    points = points[non_dominated(points)]
    if len(corner) == 2:
        points = points[np.argsort(points[:, 0])]
        widths = np.diff(points[:, 0], append=corner[0])
        return float((widths * (corner[1] - points[:, 1])).sum())
    points = points[np.argsort(points[:, -1])]
    depths = np.diff(points[:, -1], append=corner[-1])
    return sum(
        depth * _volume(points[: at + 1, :-1], corner[:-1]) for at, depth in enumerate(depths.tolist()) if depth > 0
    )
