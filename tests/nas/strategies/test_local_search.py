"""Local search: neighbours, walks, and where they go on."""

from __future__ import annotations

import numpy as np
import pytest

from nas.strategies import LocalSearch
from nas.strategies.neighbours import neighbours
from search_spaces import Architecture, Categorical, Integer, SearchSpace, Subset, make_space
from tests.conformance import check_strategy

GRID = SearchSpace("grid", tuple(Integer(f"x{at}", tuple(range(5))) for at in range(6)))
CONDITIONAL = SearchSpace(
    "conditional",
    (
        Categorical("op", ("conv", "pool")),
        Integer("kernel", (3, 5, 7), when={"op": ("conv",)}),
        Subset("taps", (1, 2, 3, 4), 2),
    ),
)


def _at(*values: int) -> Architecture:
    return GRID.architecture({f"x{at}": value for at, value in enumerate(values)})


def _apart(a: Architecture, b: Architecture) -> int:
    return sum(a[name] != b[name] for name in a)


def _squares(arch: Architecture, goal: int = 3) -> float:
    return float(sum((int(str(value)) - goal) ** 2 for value in arch.values()))


@pytest.mark.parametrize("best", [False, True])
@pytest.mark.parametrize("space", [CONDITIONAL, make_space("resnet20-pooling")], ids=lambda space: space.name)
def test_both_kinds_of_steps_keep_the_contract(space: SearchSpace, best: bool) -> None:
    check_strategy(lambda space, rng: LocalSearch(space, rng, start=2, best=best), space)


def test_neighbours_are_all_that_differ_in_one_choice() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        arch = GRID.sample(rng)
        found = list(neighbours(GRID, arch, rng))
        assert len(found) == len(set(found)) == 6 * 4 and {_apart(arch, other) for other in found} == {1}
    assert list(neighbours(GRID, arch, rng)) != list(neighbours(GRID, arch, rng))  # in random order


def test_neighbours_swap_one_item_and_bring_choices_to_life() -> None:
    rng = np.random.default_rng(0)
    pool = CONDITIONAL.architecture({"op": "pool", "taps": (1, 2)})
    found = list(neighbours(CONDITIONAL, pool, rng))
    assert len(found) == 1 + 4 and sum("kernel" in arch for arch in found) == 1
    assert {arch["taps"] for arch in found if "kernel" not in arch} == {(1, 3), (1, 4), (2, 3), (2, 4)}
    alive = {arch["kernel"] for _ in range(30) for arch in neighbours(CONDITIONAL, pool, rng) if "kernel" in arch}
    assert alive == {3, 5, 7}


def test_the_walk_goes_to_the_first_that_is_better() -> None:
    strategy = LocalSearch(GRID, np.random.default_rng(0), start=1)
    best = [_at(0, 0, 0, 0, 0, 0)]
    strategy.tell(best, [[_squares(best[0])]])
    for _ in range(60):
        (arch,) = strategy.ask(1)
        assert any(_apart(arch, place) == 1 for place in best)
        strategy.tell([arch], [[_squares(arch)]])
        least = min(map(_squares, [arch, *best]))
        best = [place for place in [arch, *best] if _squares(place) == least]
        if least == 0:
            return
    pytest.fail("the goal is never further than a better neighbour")


def test_with_best_all_neighbours_are_tried_before_the_walk_goes_on() -> None:
    strategy = LocalSearch(GRID, np.random.default_rng(0), start=1, best=True)
    at = _at(0, 0, 0, 0, 0, 0)
    strategy.tell([at], [[_squares(at)]])
    tried: list[Architecture] = []
    for _ in range(24):
        (arch,) = strategy.ask(1)
        strategy.tell([arch], [[_squares(arch)]])
        tried.append(arch)
    assert {_apart(arch, at) for arch in tried} == {1}
    (arch,) = strategy.ask(1)
    best = [place for place in tried if _squares(place) == min(map(_squares, tried))]
    assert any(_apart(arch, place) == 1 for place in best) and _apart(arch, at) == 2


def test_from_a_local_optimum_the_walk_goes_on_from_the_next_best() -> None:
    line = SearchSpace("pair", (Integer("a", (0, 1, 2)), Integer("b", (0, 1, 2))))
    strategy = LocalSearch(line, np.random.default_rng(0), start=1)
    archs = {(a, b): line.architecture({"a": a, "b": b}) for a in range(3) for b in range(3)}
    optimum, around = archs[0, 0], [archs[1, 0], archs[2, 0], archs[0, 1], archs[0, 2]]
    strategy.tell([optimum, *around], [[0.0], [5.0], [1.0], [6.0], [7.0]])
    assert set(strategy.ask(2)) == {archs[2, 1], archs[2, 2]}  # neighbours of (2, 0), the second best


def test_failed_trials_are_where_the_walk_goes_last() -> None:
    strategy = LocalSearch(GRID, np.random.default_rng(0), start=1)
    failed, good = _at(4, 4, 4, 4, 4, 4), _at(0, 0, 0, 0, 0, 0)
    strategy.tell([failed, good], [[1e30], [1.0]])
    assert all(_apart(arch, good) == 1 for arch in strategy.ask(24))
    assert _apart(strategy.ask(1)[0], failed) == 1


def test_with_several_objectives_the_whole_front_is_walked_from() -> None:
    strategy = LocalSearch(GRID, np.random.default_rng(0), start=1)
    front, behind = [_at(0, 0, 0, 0, 0, 0), _at(2, 2, 2, 2, 2, 2)], _at(4, 4, 4, 4, 4, 4)
    strategy.tell([*front, behind], [[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    asked = strategy.ask(48)
    for place in front:
        assert sum(_apart(arch, place) == 1 for arch in asked) == 24
    assert _apart(strategy.ask(1)[0], behind) == 1


def test_one_objective_is_minimised() -> None:
    wide = SearchSpace("wide", tuple(Integer(f"x{at}", tuple(range(8))) for at in range(10)))
    strategy = LocalSearch(wide, np.random.default_rng(0))
    losses = [
        _squares(arch)
        for _ in range(400)
        for arch in [*strategy.ask(1)]
        if not strategy.tell([arch], [[_squares(arch)]])
    ]
    assert min(losses) == 0 < min(losses[:100])


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="`start` must be at least 1, got 0"):
        LocalSearch(GRID, np.random.default_rng(0), start=0)
