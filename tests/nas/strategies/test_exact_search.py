"""Strategy `exact`: a balanced sample, then what is exactly best by fitted sums."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from nas.objectives import non_dominated
from nas.strategies import Exact
from nas.strategies.balanced import Balanced
from search_spaces import Architecture, Categorical, Integer, SearchSpace

CHAIN = SearchSpace("chain", tuple(Integer(f"w{at}", (8, 16, 24, 32)) for at in range(4)))


def test_a_balanced_sample_has_each_value_as_often() -> None:
    sample = Balanced(CHAIN, np.random.default_rng(0))
    archs = [arch for _ in range(40) if (arch := sample.draw()) is not None]
    for name in archs[0]:
        assert set(Counter(arch[name] for arch in archs).values()) == {10}


def _figures(arch: Architecture) -> list[float]:
    """Error, which falls with each width, and macs, which add up over pairs."""
    w = [float(str(value)) for value in arch.values()]
    return [sum((at + 1) / width for at, width in enumerate(w)), sum(a * b for a, b in zip(w[:-1], w[1:], strict=True))]


def test_a_front_of_figures_that_add_up_is_found_in_few_trials() -> None:
    archs = list(CHAIN.enumerate())
    losses = np.array([_figures(arch) for arch in archs])
    front = {arch for arch, kept in zip(archs, non_dominated(losses), strict=True) if kept}
    strategy = Exact(CHAIN, np.random.default_rng(0))
    asked: list[Architecture] = []
    for _ in range(100):
        (arch,) = strategy.ask(1)
        strategy.tell([arch], [_figures(arch)])
        asked.append(arch)
    assert len(front & set(asked)) >= 0.7 * len(front) > 100 * len(front) / 256


@pytest.mark.parametrize("failing", [0, 3])
def test_the_best_is_the_first_proposal_where_choices_add_up_and_trials_fail(failing: int) -> None:
    worth = {value: float(at) for at, value in enumerate("cabd")}
    layers = SearchSpace("layers", tuple(Categorical(f"op{at}", tuple("abcd")) for at in range(10)))
    strategy, found = Exact(layers, np.random.default_rng(0), start=40), []
    for at in range(44):
        (arch,) = strategy.ask(1)
        found.append(sum(worth[str(value)] for value in arch.values()))
        strategy.tell([arch], [[1e30 if failing and at % failing == 1 and at < 12 else found[-1]]])
    assert min(found[40:]) <= (0 if not failing else 5) < min(found[:40])


def test_bad_settings_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="`start` must be at least 2, got 1"):
        Exact(CHAIN, rng, start=1)
    with pytest.raises(ValueError, match="`proposals` must be at least 1, got 0"):
        Exact(CHAIN, rng, proposals=0)
