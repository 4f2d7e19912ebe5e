"""Agreement of two orders: Kendall's tau, and whether two figures order alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from nas.objectives.correlation import gap, kendall, same_order


def brute_force_tau(a: Sequence[float], b: Sequence[float]) -> float:
    """Tau-b by looking at every pair."""
    signs = [(np.sign(a[i] - a[j]), np.sign(b[i] - b[j])) for i, j in combinations(range(len(a)), 2)]
    untied = math.sqrt(sum(x != 0 for x, _ in signs) * sum(y != 0 for _, y in signs))
    return sum(x * y for x, y in signs) / untied


@pytest.mark.parametrize("values", [5, 1000])
def test_tau_is_that_of_a_count_over_all_pairs(values: int) -> None:
    rng = np.random.default_rng(values)
    for size in (3, 10, 40):
        a, b = (pd.Series(rng.integers(values, size=size)) for _ in range(2))
        assert kendall(a, b) == pytest.approx(brute_force_tau(a.tolist(), b.tolist()))


def test_tau_says_nothing_about_few_or_equal_values() -> None:
    assert kendall(pd.Series([1, 2]), pd.Series([1, 2])) is None
    assert kendall(pd.Series([1, 1, 1]), pd.Series([1, 2, 3])) is None


def test_same_order() -> None:
    front = pd.DataFrame({"accuracy": [0.1, 0.2, 0.3, 0.35, 0.36, 0.4], "by_macs": [1, 2, 3, 4, 5, 6]})
    assert same_order(front) and not same_order(front.assign(by_macs=[1, 2, 3, 4, 6, 5])) and not same_order(front[:2])


def test_gap_is_the_difference_of_both_tau_with_an_interval_around_it() -> None:
    rng = np.random.default_rng(0)
    truth = pd.Series(rng.normal(size=30))
    table = pd.DataFrame(
        {"accuracy": truth + rng.normal(size=30) / 4, "by_macs": rng.normal(size=30), "accuracy_alone": truth}
    )
    found = gap(table)
    assert found is not None
    taus = [kendall(table[column], truth) for column in ("accuracy", "by_macs")]
    assert found.difference == pytest.approx(taus[0] - taus[1])  # type: ignore[operator]
    assert 0 < found.low < found.difference < found.high < 1.5
    turned = gap(table, first="by_macs", second="accuracy")
    assert turned == pytest.approx((-found.difference, -found.high, -found.low))


def test_gap_excludes_nothing_where_there_is_no_difference() -> None:
    rng, wrong = np.random.default_rng(1), 0
    for _ in range(200):
        truth = rng.normal(size=12)
        scores = {name: truth + rng.normal(size=12) for name in ("accuracy", "by_macs")}
        found = gap(pd.DataFrame({**scores, "accuracy_alone": truth}))
        assert found is not None
        wrong += found.low > 0 or found.high < 0
    assert wrong <= 14  # 5 of 100 are allowed


def test_gap_says_nothing_about_few_or_equal_rows() -> None:
    rows = pd.DataFrame({"accuracy": [1, 2, 3, 4, 5], "by_macs": [5, 4, 3, 2, 1], "accuracy_alone": [1, 2, 3, 4, 5]})
    assert gap(rows) is not None and gap(rows[:4]) is None
    assert gap(rows.assign(by_macs=1)) is None and gap(rows.assign(by_macs=[1, 1, 1, 1, 2])) is None
