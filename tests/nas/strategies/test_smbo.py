"""SMBO: candidates ordered by a linear surrogate."""

from __future__ import annotations

import numpy as np
import pytest

from nas.strategies import SMBO, RandomSearch, Strategy
from search_spaces import Categorical, Integer, SearchSpace, make_space
from tests.conformance import check_strategy

LAYERS = SearchSpace("layers", tuple(Categorical(f"op{at}", tuple("abcd")) for at in range(10)))


@pytest.mark.parametrize("explore", [0.0, 1.0])
def test_settings_keep_the_contract(explore: float) -> None:
    check_strategy(lambda space, rng: SMBO(space, rng, start=3, explore=explore), make_space("resnet20-pooling"))


def _most_hits(strategy: Strategy, failing: int) -> int:
    most = 0
    for at in range(120):
        (arch,) = strategy.ask(1)
        hits = sum(value == "c" for value in arch.values())
        fails = failing and at % failing == 0
        strategy.tell([arch], [[1e30 if fails else -float(hits)]])
        most = max(most, 0 if fails else hits)
    return most


@pytest.mark.parametrize("failing", [0, 4])
def test_what_adds_up_is_found_though_trials_fail(failing: int) -> None:
    ours = [_most_hits(SMBO(LAYERS, np.random.default_rng(seed)), failing) for seed in range(3)]
    chance = [_most_hits(RandomSearch(LAYERS, np.random.default_rng(seed)), failing) for seed in range(3)]
    assert min(ours) >= 8 > max(chance)


def test_constant_results_and_a_space_of_one_column() -> None:
    line = SearchSpace("line", (Integer("x", tuple(range(60))),))
    strategy = SMBO(line, np.random.default_rng(0), start=2)
    for _ in range(60):
        strategy.tell(strategy.ask(1), [[1.0]])
    assert strategy.ask(1) == []


def test_bad_settings_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="`start` must be at least 2 and `candidates` at least 1, got start=1"):
        SMBO(LAYERS, rng, start=1)
    with pytest.raises(ValueError, match=r"`explore` is a probability between 0 and 1, got 1\.5"):
        SMBO(LAYERS, rng, explore=1.5)
