"""Pareto tools against definitions worked out point by point."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.objectives.pareto import (
    check_losses,
    crowding_distance,
    hypervolume,
    knee,
    non_dominated,
    non_dominated_rank,
    rank_and_crowding,
)

TOP = 4


@st.composite
def points(draw: st.DrawFn, most: int = 14, least: int = 0, kinds: tuple[int, ...] = (1, 2, 3, 4)) -> np.ndarray:
    """A few points on a coarse grid, so that ties and duplicates are common."""
    k = draw(st.sampled_from(kinds))
    row = st.tuples(*[st.integers(0, TOP)] * k)
    return np.array(draw(st.lists(row, min_size=least, max_size=most)), dtype=float).reshape(-1, k)


def dominates(a: np.ndarray, b: np.ndarray) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


def brute_rank(losses: np.ndarray) -> list[int]:
    rank = [-1] * len(losses)
    for front in itertools.count():
        left = [at for at in range(len(losses)) if rank[at] < 0]
        if not left:
            return rank
        for at in [at for at in left if not any(dominates(losses[other], losses[at]) for other in left)]:
            rank[at] = front
    raise AssertionError


@given(points())
def test_rank_and_dominance_follow_the_definition(losses: np.ndarray) -> None:
    rank = brute_rank(losses)
    assert non_dominated_rank(losses).tolist() == rank
    assert non_dominated(losses).tolist() == [front == 0 for front in rank]


@given(points(least=1), st.randoms())
def test_order_copies_and_scale_do_not_matter(losses: np.ndarray, random: object) -> None:
    order = list(range(len(losses)))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert non_dominated_rank(losses[order]).tolist() == non_dominated_rank(losses)[order].tolist()
    twice = np.concatenate([losses, losses])
    assert non_dominated_rank(twice).tolist() == 2 * non_dominated_rank(losses).tolist()
    assert non_dominated_rank(losses**3 * 7 - 5).tolist() == non_dominated_rank(losses).tolist()
    same = [0.0 if at % 2 else -0.0 for at in range(6)]
    assert non_dominated(np.array([same, same[::-1]]).T).all()


def test_large_inputs_are_no_burden() -> None:
    rng = np.random.default_rng(0)
    plane = rng.random((300_000, 2))
    kept = non_dominated(plane)
    assert 5 <= kept.sum() <= 30 and non_dominated_rank(plane).max() > 500
    assert np.array_equal(kept, non_dominated_rank(plane) == 0)
    assert non_dominated(rng.random((100_000, 3))).sum() < 300


@given(points())
def test_crowding_follows_the_definition(losses: np.ndarray) -> None:
    n, k = losses.shape
    expected = [math.inf if n == 1 else 0.0] * n
    for column in range(k):
        order = sorted(range(n), key=lambda at: (losses[at, column], at))
        span = losses[:, column].max(initial=0) - losses[:, column].min(initial=TOP)
        if span <= 0:
            continue
        expected[order[0]] = expected[order[-1]] = math.inf
        for before, at, after in zip(order, order[1:], order[2:], strict=False):
            expected[at] += (losses[after, column] - losses[before, column]) / span
    assert crowding_distance(losses).tolist() == pytest.approx(expected)


def test_crowding_by_hand() -> None:
    front = [[0, 10], [1, 6], [2, 5], [10, 0]]
    assert crowding_distance(front).tolist() == [math.inf, 0.2 + 0.5, 0.9 + 0.6, math.inf]
    assert crowding_distance([[3, 3]]).tolist() == [math.inf]
    assert crowding_distance([[3, 3]] * 4).tolist() == [0] * 4
    assert crowding_distance(np.empty((0, 2))).tolist() == []


@given(points())
def test_crowding_is_taken_within_each_front(losses: np.ndarray) -> None:
    rank, crowding = rank_and_crowding(losses)
    assert rank.tolist() == brute_rank(losses)
    for front in set(rank.tolist()):
        assert crowding[rank == front].tolist() == crowding_distance(losses[rank == front]).tolist()


@given(points(), st.integers(1, TOP + 1))
def test_hypervolume_counts_the_dominated_cells(losses: np.ndarray, corner: int) -> None:
    cells = itertools.product(range(corner), repeat=losses.shape[1])
    dominated = sum(any((point <= cell).all() for point in losses) for cell in cells)
    assert hypervolume(losses, [corner] * losses.shape[1]) == pytest.approx(dominated)


@given(points(most=6, least=1))
def test_hypervolume_agrees_with_inclusion_and_exclusion(losses: np.ndarray) -> None:
    losses = losses * 1.7 - 3.3
    corner = np.linspace(1.1, 2.3, losses.shape[1])
    total = 0.0
    for size in range(1, len(losses) + 1):
        for chosen in itertools.combinations(losses, size):
            total -= (-1) ** size * np.prod(np.clip(corner - np.max(chosen, axis=0), 0, None))
    assert hypervolume(losses, corner) == pytest.approx(total, abs=1e-9)


def test_hypervolume_by_hand() -> None:
    assert hypervolume([[1, 3], [2, 1]], [4, 4]) == 3 * 1 + 2 * 3 - 2 * 1
    assert hypervolume([[4, 0], [0, 4], [9, 9]], [4, 4]) == 0.0
    assert hypervolume(np.empty((0, 3)), [1, 1, 1]) == 0.0
    assert hypervolume([[0, 0, 0, 0, 0]], [1, 2, 3, 4, 5]) == 120.0


def test_hypervolume_refuses_a_reference_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match="`reference` needs one loss for each of 2 objectives, got 3"):
        hypervolume([[1, 2]], [1, 2, 3])
    with pytest.raises(ValueError, match="losses must be finite, got inf"):
        hypervolume([[1, 2]], [1, math.inf])


@given(points(least=1, kinds=(2,)))
def test_the_knee_is_furthest_from_the_line_through_the_ends(losses: np.ndarray) -> None:
    front = sorted(set(map(tuple, losses[[rank == 0 for rank in brute_rank(losses)]].tolist())))
    (x0, y0), (x1, y1) = front[0], front[-1]
    distances = []
    for x, y in front:
        u, v = (x - x0) / (x1 - x0 or 1), (y - y1) / (y0 - y1 or 1)  # the ends are (0, 1) and (1, 0)
        distances.append((1 - u - v) / math.sqrt(2))
    furthest = max(distances)
    expected = next(point for point, far in zip(front, distances, strict=True) if far > furthest - 1e-9)
    at = knee(losses)
    assert tuple(losses[at]) == expected
    assert at == losses.tolist().index(list(expected))


def test_knees_by_hand() -> None:
    assert knee([[0, 10], [2, 3], [3, 2.5], [10, 0], [2, 11]]) == 1
    assert knee([[0, 10_000], [2, 3_000], [10, 0]]) == 1
    assert knee([[10, 0], [5, 5], [0, 10]]) == 2  # straight: the least first loss
    assert knee([[0, 10], [8, 8], [10, 0]]) == 0  # inward: an end
    assert knee([[5, 5], [6, 6]]) == 0
    assert knee([[6, 6], [5, 5], [5, 5]]) == 1
    assert knee([[3], [1], [2]]) == 1
    assert knee([[0, 9, 4], [2, 2, 4], [9, 0, 4]]) == 1  # the third objective is flat
    assert knee([[0, 1, 1], [1, 0, 1], [1, 1, 0], [0.4, 0.4, 0.4]]) == 3
    with pytest.raises(ValueError, match="the knee needs at least one point"):
        knee(np.empty((0, 2)))


@pytest.mark.parametrize("function", [non_dominated, non_dominated_rank, crowding_distance, knee, rank_and_crowding])
def test_losses_that_are_not_finite_or_not_a_table_are_refused(function: object) -> None:
    with pytest.raises(ValueError, match="losses must be finite, got nan for point 1, objective 0; leave out"):
        function([[1, 2], [math.nan, 2]])  # type: ignore[operator]
    with pytest.raises(ValueError, match=r"losses must have shape \(points, objectives\), got \(2,\)"):
        function([1, 2])  # type: ignore[operator]
    with pytest.raises(ValueError, match=r"got \(3, 0\)"):
        function(np.empty((3, 0)))  # type: ignore[operator]


def test_nothing_is_changed_or_shared() -> None:
    losses = np.array([[2.0, 1.0], [1.0, 2.0]])
    check_losses(losses)[:] = 0
    hypervolume(losses, [3, 3])
    assert losses.tolist() == [[2.0, 1.0], [1.0, 2.0]]
