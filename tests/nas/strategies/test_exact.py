"""Exact optima and fronts of figures that add up: equal to what enumeration finds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.objectives import non_dominated
from nas.strategies.additive import Additive, pairs_of
from nas.strategies.exact import front, optimum
from search_spaces import Categorical, Constraint, Integer, SearchSpace, Subset, make_space
from search_spaces.core import Choice


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    """Small spaces with conditions of every form: of one and several parents, of alternatives, and of subsets."""
    choices: list[Choice] = []
    for at in range(draw(st.integers(1, 5))):
        parents = (
            draw(st.lists(st.sampled_from(choices), max_size=2, unique_by=lambda choice: choice.name))
            if choices
            else []
        )
        conditions = tuple(
            {
                parent.name: tuple(
                    parent.value(code)
                    for code in draw(st.sets(st.integers(0, parent.size - 1), min_size=1, max_size=parent.size))
                )
                for parent in some
            }
            for some in draw(st.sampled_from([[parents], [[parent] for parent in parents] or [[]]]))
        )
        when = conditions[0] if len(conditions) == 1 else conditions
        kind = draw(st.sampled_from(["integer", "categorical", "subset"]))
        if kind == "subset":
            choices.append(Subset(f"c{at}", (1, 2, 3), draw(st.integers(1, 2)), when))
        elif kind == "integer":
            choices.append(Integer(f"c{at}", tuple(range(draw(st.integers(1, 4)))), when))
        else:
            choices.append(Categorical(f"c{at}", ("a", "b", "c")[: draw(st.integers(1, 3))], when))
    rule = Constraint("the last choice is there", lambda values: choices[-1].name in values)
    kept = SearchSpace("random", tuple(choices), (rule,))
    free = SearchSpace("random", tuple(choices))
    return kept if draw(st.booleans()) and next(kept.enumerate(), None) is not None else free


def figure(space: SearchSpace, rng: np.random.Generator, pairwise: bool = True) -> Additive:
    """Whole numbers, so that nothing is a matter of rounding."""
    sizes = [len(column.values) + 1 for column in space.columns]
    pairs = [(a, b) for a in range(len(sizes)) for b in range(a + 1, len(sizes)) if pairwise and rng.random() < 0.5]
    return Additive(
        tuple(rng.integers(-9, 10, size).astype(float) for size in sizes),
        {(a, b): rng.integers(-9, 10, (sizes[a], sizes[b])).astype(float) for a, b in pairs},
        float(rng.integers(10)),
    )


@settings(max_examples=25, deadline=None)
@given(spaces(), st.integers(0, 10**6))
def test_optima_within_limits_are_those_of_enumeration(space: SearchSpace, seed: int) -> None:
    rng = np.random.default_rng(seed)
    archs = list(space.enumerate())
    codes = space.encode(archs)
    objective, cost, other = (figure(space, rng) for _ in range(3))
    limits = {
        "cost": (cost, float(np.quantile(cost(codes), 0.6))),
        "other": (other, float(np.quantile(other(codes), 0.6))),
    }
    keeps = np.all([each(codes) <= most for each, most in limits.values()], axis=0)
    if not keeps.any():
        with pytest.raises(ValueError, match="has other of at most .* with cost of at most .* reached is") as caught:
            optimum(space, objective, limits)
        reached = other(codes)[cost(codes) <= limits["cost"][1]].min()
        assert float(str(caught.value).split()[-1]) == pytest.approx(reached)
        return
    found = optimum(space, objective, limits)
    assert found.proved and found.arch in archs
    assert found.value == pytest.approx(objective(codes)[keeps].min())
    row = space.encode([found.arch])
    assert objective(row)[0] == pytest.approx(found.value)
    assert all(each(row)[0] <= most for each, most in limits.values())


@settings(max_examples=10, deadline=None)
@given(spaces(), st.integers(0, 10**6))
def test_fronts_are_those_of_enumeration(space: SearchSpace, seed: int) -> None:
    rng = np.random.default_rng(seed)
    codes = space.encode(list(space.enumerate()))
    first, second = figure(space, rng), figure(space, rng)
    losses = np.stack([first(codes), second(codes)], axis=1)
    expected = {tuple(row) for row in losses[non_dominated(losses)].tolist()}
    found = space.encode([point.arch for point in front(space, first, second)])
    assert [tuple(row) for row in np.stack([first(found), second(found)], axis=1).tolist()] == sorted(expected)


def test_a_front_of_few_points_spans_it() -> None:
    space = SearchSpace("wide", tuple(Integer(f"w{at}", tuple(range(5))) for at in range(6)))
    up = Additive(tuple(np.arange(-1.0, 5.0) * (at + 1) for at in range(6)))
    down = Additive(tuple(-np.sqrt(np.arange(6.0)) for _ in range(6)))
    points = front(space, down, up, most=5)
    assert 2 <= len(points) <= 5
    costs = up(space.encode([point.arch for point in points]))
    assert (np.diff(costs) < 0).all() and costs[-1] == 0


def test_excluded_architectures_are_not_found() -> None:
    space = make_space("resnet20-pooling")
    objective = figure(space, np.random.default_rng(0))
    order = np.sort(objective(space.encode(list(space.enumerate()))))
    gone = [optimum(space, objective).arch]
    for value in order[1:4]:
        found = optimum(space, objective, excluded=gone)
        assert found.arch not in gone and found.value == pytest.approx(value)
        gone.append(found.arch)
    with pytest.raises(ValueError, match="was found that is not excluded"):
        optimum(space, objective, excluded=list(space.enumerate()))


def test_limits_that_nothing_meets_are_named_with_what_can_be_reached() -> None:
    space = SearchSpace("two", (Integer("a", (1, 2, 3)), Integer("b", (1, 2, 3))))
    rising = np.array([0.0, 10.0, 20.0, 30.0])
    small, large = Additive((rising, rising)), Additive((-rising, -rising), {}, 100.0)
    with pytest.raises(ValueError, match="no architecture of 'two' has macs of at most 5; .* reached is 20"):
        optimum(space, large, {"macs": (small, 5)})
    with pytest.raises(ValueError, match="has b of at most 50 with a of at most 30; .* reached is 70"):
        optimum(space, large, {"a": (small, 30), "b": (large, 50)})
    with pytest.raises(ValueError, match="has macs of at most 5"):
        front(space, large, small, {"macs": (small, 5)})


def test_rules_that_no_program_holds_end_in_bounded_time() -> None:
    sum_rule = Constraint("all are 4", lambda values: set(values.values()) == {4})
    space = SearchSpace("hard", tuple(Integer(f"w{at}", tuple(range(5))) for at in range(3)), (sum_rule,))
    with pytest.raises(ValueError, match=r"the best 100 descriptions of 'hard' .* \(all are 4\)"):
        optimum(space, Additive(tuple(np.arange(6.0) for _ in range(3))))


def test_too_few_nodes_give_a_bound_or_say_so() -> None:
    rng = np.random.default_rng(0)
    space = SearchSpace("wide", tuple(Integer(f"w{at}", tuple(range(4))) for at in range(8)))
    objective = figure(space, rng)
    best = optimum(space, objective)
    assert best.proved
    try:
        quick = optimum(space, objective, nodes=1)
    except ValueError as error:
        assert "nodes" in str(error)
    else:
        assert quick.bound <= best.value + 1e-6 <= quick.value + 2e-6


def test_costs_that_add_up_in_pairs_are_fitted_exactly() -> None:
    rng = np.random.default_rng(0)
    space = SearchSpace("chain", tuple(Integer(f"w{at}", (8, 16, 24, 32)) for at in range(4)))
    archs = [space.sample(rng) for _ in range(150)]
    widths = np.array([list(arch.values()) for arch in archs], dtype=float)
    macs = 9 * 64 * (widths[:, :-1] * widths[:, 1:]).sum(axis=1)
    codes = space.encode(archs)
    pairwise = Additive.fit(space, codes[:100], macs[:100], pairs_of(space))
    assert pairwise(codes[100:]) == pytest.approx(macs[100:], rel=1e-3)
    single = Additive.fit(space, codes[:100], macs[:100], [])
    assert np.abs(single(codes[100:]) / macs[100:] - 1).max() > 0.05


def test_fits_of_few_and_of_constant_figures() -> None:
    rng = np.random.default_rng(0)
    space = SearchSpace("chain", tuple(Integer(f"w{at}", (8, 16, 24, 32)) for at in range(4)))
    codes = space.encode([space.sample(rng) for _ in range(20)])
    assert Additive.fit(space, codes, [3.0] * 20, pairs_of(space))(codes) == pytest.approx(np.full(20, 3.0))
    assert Additive.fit(space, codes[:1], [3.0], [])(codes[:1]) == pytest.approx(3.0)
