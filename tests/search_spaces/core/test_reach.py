"""Limits are kept without drawing until something keeps them: against a walk over every description, and in spaces where few do."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces import Categorical, Constraint, Integer, SearchSpace
from search_spaces.core import Value, first_kept, reach
from tests.search_spaces.core.test_space import choices

SEEDS = st.integers(0, 2**32 - 1)


class Limit:
    """A cost that adds up over choices, drawn at random, with a limit; it counts how often it is asked."""

    def __init__(self, space: SearchSpace, seed: int, most: float) -> None:
        self.space, self.most, self.asked = space, most, 0
        weights = np.random.default_rng([seed, 1])
        self.costs = {
            choice.name: {choice.value(at): float(weights.uniform(1, 10)) for at in range(choice.size)}
            for choice in space.choices
        }

    def cost(self, values: Mapping[str, Value]) -> float:
        return math.fsum(self.costs[name][value] for name, value in values.items())

    def beyond(self, values: Mapping[str, Value]) -> float:
        self.asked += 1
        return max(0.0, self.cost(values) / self.most - 1)

    def limited(self, *, dear: bool = False) -> SearchSpace:
        rule = Constraint("limited", lambda values: not self.beyond(values), self.beyond, dear)
        return replace(self.space, constraints=(*self.space.constraints, rule))


def large(seed: int, most: float, *, of: int = 60) -> Limit:
    """Of a space of 4**of architectures, whose cheapest values stand anywhere."""
    return Limit(SearchSpace("large", tuple(Categorical(f"c{at}", (0, 1, 2, 3)) for at in range(of))), seed, most)


@settings(deadline=None, max_examples=40)
@given(choices(), SEEDS, st.floats(0, 1), st.booleans(), st.booleans())
def test_whatever_is_drawn_mutated_or_crossed_keeps_the_limit(chosen, seed, share, dear, often) -> None:  # type: ignore[no-untyped-def]
    space = SearchSpace("any", chosen)
    costs = sorted(Limit(space, seed, 1).cost(arch) for arch in space.enumerate())
    limit = Limit(space, seed, costs[round(share * (len(costs) - 1))])
    allowed, rng = limit.limited(dear=dear), np.random.default_rng(seed)
    kept = set(allowed.enumerate())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reach, "FEWEST" if not dear else "FEWEST_DEAR", 0 if often else 10_000)
        patch.setattr(reach, "MOST_ASKED_DEAR", 20_000)
        assert allowed.nearest() in kept
        drawn = [allowed.sample(rng) for _ in range(10)]
        assert set(drawn) <= kept
        for a, b in zip(drawn, drawn[1:], strict=False):
            child = allowed.mutate(a, rng, edits=int(rng.integers(1, 4)))
            assert child in kept and (child != a or len(kept) == 1 or dear)
            assert allowed.crossover(a, b, rng) in kept and allowed.crossover(a, a, rng) == a


@given(SEEDS, st.integers(0, 5))
@settings(deadline=None, max_examples=3)
def test_where_few_keep_the_limit_all_of_them_come(seed: int, more: int) -> None:
    """Of 4,096 architectures about fifty keep it, far fewer than what would be drawn until one does."""
    limit = large(seed, 1, of=6)
    costs = sorted(limit.cost(arch) for arch in limit.space.enumerate())
    limit.most = costs[30 + more]
    allowed, rng = limit.limited(), np.random.default_rng(seed)
    counts = Counter(allowed.sample(rng) for _ in range(2000))
    assert len(counts) >= 0.9 * (31 + more) and set(counts) <= set(allowed.enumerate())
    assert max(counts.values()) < 25 * 2000 / (31 + more)


@pytest.mark.parametrize("dear", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_in_a_large_space_few_are_asked_for_each(seed: int, dear: bool) -> None:
    """The limit is 5 % above the least cost that there is: one in 10**25 or fewer keep it."""
    limit = large(seed, 1)
    least = sum(min(limit.cost({f"c{at}": v}) for v in range(4)) for at in range(60))
    limit.most = 1.05 * least
    allowed, rng = limit.limited(dear=dear), np.random.default_rng(seed)
    if dear:  # where the first values are no help, measuring takes a lot of them
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(reach, "MOST_ASKED_DEAR", 20_000)
            allowed.nearest()
    parent = allowed.sample(rng)
    limit.asked = 0
    drawn = {allowed.sample(rng) for _ in range(20)}
    assert limit.asked / 20 < (30 if dear else 300)
    assert len(drawn) > 10 or dear
    limit.asked = 0
    children = [allowed.mutate(parent, rng, 3) for _ in range(20)] + [allowed.crossover(parent, d, rng) for d in drawn]
    assert all(limit.cost(child) <= limit.most for child in [*children, *drawn])
    assert limit.asked / len(children) < 120


@given(choices(), SEEDS)
@settings(deadline=None, max_examples=30)
def test_of_a_limit_that_nothing_keeps_the_nearest_is_found(chosen, seed) -> None:  # type: ignore[no-untyped-def]
    """Costs of choices without conditions add up, so one choice after another leads to the least."""
    space = SearchSpace("any", tuple(replace(choice, when={}) for choice in chosen))  # type: ignore[type-var]
    least = min(Limit(space, seed, 1).cost(arch) for arch in space.enumerate())
    allowed = Limit(space, seed, least / 2).limited()
    assert math.isclose(Limit(space, seed, 1).cost(allowed.nearest()), least)
    with pytest.raises(ValueError, match="no architecture of 'any' was found that keeps its limits"):
        allowed.sample(np.random.default_rng(0))


def test_nothing_to_keep_ends_soon() -> None:
    limit = large(0, 1e-3)
    limit.limited(dear=True).nearest()
    assert limit.asked <= reach.MOST_ASKED_DEAR + 2 * reach.DESCENTS
    limit.asked = 0
    limit.limited().nearest()
    assert limit.asked < 10_000


def test_rules_that_are_no_limits_are_kept_on_the_way() -> None:
    space = SearchSpace("differing", tuple(Integer(f"c{at}", (1, 2, 3, 4)) for at in range(12)))
    rule = Constraint("the first two differ", lambda values: values["c0"] != values["c1"])

    def over(values: Mapping[str, Value]) -> float:
        return max(0, sum(values.values()) - 15)  # type: ignore[arg-type]

    small = Constraint("at most 15", lambda values: not over(values), over)
    allowed, rng = replace(space, constraints=(rule, small)), np.random.default_rng(0)
    for arch in (allowed.sample(rng) for _ in range(50)):
        assert arch["c0"] != arch["c1"] and not over(arch)


@given(st.lists(st.booleans(), max_size=40))
def test_the_first_kept_of_a_path_stands_behind_one_that_is_not(kept: list[bool]) -> None:
    path = [*kept, True]
    asked: list[int] = []
    at = first_kept(range(len(path)), lambda at: asked.append(at) or path[at])  # type: ignore[func-returns-value]
    assert path[at] and (at == 0 or not path[at - 1])
    assert len(asked) <= 1 + math.ceil(math.log2(len(path)))
