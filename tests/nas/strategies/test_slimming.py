"""Slimming walks down by worth lost for each unit saved, and learns from its trials what choices lose."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest

from nas.objectives import Floats
from nas.strategies import Knowledge, Slimming
from search_spaces import Architecture, Categorical, Integer, SearchSpace
from tests.conformance import check_strategy

Damage = Callable[[Architecture], float]
LEVELS = SearchSpace("levels", tuple(Integer(f"w{at}", (1, 2, 3, 4)) for at in range(4)))
FEW = SearchSpace("few", (*LEVELS.choices[:2], Categorical("op", ("a", "b"))))
BLOCKS = SearchSpace("blocks", tuple(Categorical(f"b{at}", ("leave out", "keep")) for at in range(6)))


def kept(arch: Architecture) -> Sequence[int]:
    return [value if isinstance(value, int) else int(value in ("keep", "b")) for value in arch.values()]


def known(damage: Damage, price: Sequence[float]) -> Knowledge:
    """Milliseconds that add up, and a damage."""

    def signals(archs: Sequence[Architecture]) -> Floats:
        cost = [sum(n * p for n, p in zip(kept(arch), price, strict=True)) for arch in archs]
        return np.array([[c, damage(arch)] for arch, c in zip(archs, cost, strict=True)])

    return Knowledge(signals, {1: 0}, ("latency_ms", "damage"))


def linear(weights: Sequence[float], most: int) -> Damage:
    return lambda arch: float(sum(w * (most - n) for n, w in zip(kept(arch), weights, strict=True)))


def walked(strategy: Slimming, worth: Damage, trials: int, knowledge: Knowledge) -> list[Architecture]:
    asked: list[Architecture] = []
    for _ in range(trials):
        (arch,) = strategy.ask(1)
        cost = np.asarray(knowledge.signals([arch]))[0, 0]
        strategy.tell([arch], [[worth(arch), cost]])
        asked.append(arch)
    return asked


@pytest.mark.parametrize("space", [FEW, SearchSpace("three", BLOCKS.choices[:3])], ids=["few", "blocks"])
@pytest.mark.parametrize("knows", ["damage", "costs", "nothing"])
def test_it_keeps_the_contract(space: SearchSpace, knows: str) -> None:
    knowledge = known(linear([1.0] * len(space.choices), 4), [1.0] * len(space.choices))
    costs = Knowledge(lambda archs: np.asarray(knowledge.signals(archs))[:, :1], {1: 0}, ("latency_ms",))
    given: Mapping[str, Knowledge | None] = {"damage": knowledge, "costs": costs, "nothing": None}
    check_strategy(lambda space, rng: Slimming(space, rng, given[knows]), space)


@pytest.mark.parametrize("seed", range(5))
def test_where_all_blocks_cost_alike_they_go_in_the_order_of_their_importance(seed: int) -> None:
    importance = np.random.default_rng(seed).permutation(6).astype(float) + 1
    knowledge = known(linear(importance.tolist(), 1), [1.0] * 6)
    asked = walked(Slimming(BLOCKS, np.random.default_rng(0), knowledge), lambda arch: 0.0, 7, knowledge)
    order = [next(at for at in range(6) if kept(a)[at] != kept(b)[at]) for a, b in zip(asked, asked[1:], strict=False)]
    assert kept(asked[0]) == [1] * 6 and order == np.argsort(importance).tolist()


def test_what_saves_twice_as_much_may_lose_twice_as_much() -> None:
    knowledge = known(linear([1.0, 3.9, 2.1], 1), [1.0, 2.0, 1.0])
    space = SearchSpace("three", BLOCKS.choices[:3])
    asked = walked(Slimming(space, np.random.default_rng(0), knowledge), lambda arch: 0.0, 4, knowledge)
    assert [kept(arch) for arch in asked] == [[1, 1, 1], [0, 1, 1], [0, 0, 1], [0, 0, 0]]


def test_trials_correct_a_damage_that_is_wrong() -> None:
    """The damage says that the first blocks lose least; in truth the last do."""
    truth = linear([6.0, 5.0, 4.0, 3.0, 2.0, 1.0], 1)
    knowledge = known(linear([1.0, 1.3, 1.6, 1.9, 2.2, 2.5], 1), [1.0] * 6)
    asked = walked(Slimming(BLOCKS, np.random.default_rng(0), knowledge), truth, 20, knowledge)
    assert kept(asked[1]) == [0, 1, 1, 1, 1, 1]
    halves = [truth(arch) for arch in asked if sum(kept(arch)) == 3]
    assert min(halves) <= 7 < halves[0]


def test_without_a_damage_every_change_is_tried_before_a_step() -> None:
    truth = linear([3.0, 1.0, 2.0, 4.0], 4)
    costs = Knowledge(lambda archs: np.array([[float(sum(kept(arch)))] for arch in archs]), {1: 0}, ("macs",))
    asked = walked(Slimming(LEVELS, np.random.default_rng(0), costs), truth, 10, costs)
    assert kept(asked[0]) == [4] * 4 and sorted(sum(kept(arch)) for arch in asked[1:5]) == [15] * 4
    assert all(kept(arch)[1] <= 3 for arch in asked[5:9])
