"""The published tables against the built-in spaces: costs of every row, and strategies that run on them."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from estimators import CostModel
from estimators.accuracy.tabular import PUBLISHED, published_table
from nas.strategies import make_strategy
from search_spaces import make_space

ROWS = {"nas-bench-macro": 6_561, "channel-bench-macro-resnet": 16_384}
DISTINCT = {"nas-bench-macro": 3_969, "channel-bench-macro-resnet": 16_384}


def test_costs_of_every_row_in_under_a_minute(real_data: Path) -> None:
    start = time.monotonic()
    for name, rows in ROWS.items():
        path = real_data / PUBLISHED[name].file
        if not path.exists():
            pytest.skip(f"{path} is missing; set NAS_DATA to the folder that holds it")
        table, space = pd.read_csv(path, dtype={"arch": str}), make_space(name)
        archs = [space.parse(label) for label in table["arch"]]
        costs = CostModel(space).batch(space.encode(archs))
        assert table["arch"].nunique() == rows == space.raw_size and len(set(archs)) == DISTINCT[name]
        np.testing.assert_array_equal(costs["params"], table["params"])
        np.testing.assert_array_equal(costs["macs"], table["macs"])
    assert time.monotonic() - start < 60


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_strategy_finds_good_architectures_in_simulated_time(name: str, real_data: Path) -> None:
    if not (real_data / PUBLISHED[name].file).exists():
        pytest.skip(f"{PUBLISHED[name].file} is missing; set NAS_DATA to the folder that holds it")
    space = make_space("nas-bench-201" if name.startswith("nas-bench-201") else name)
    table = published_table(name, real_data, space, epoch_seconds=2.0)
    assert table.missing == 0 and len(table) == DISTINCT.get(name, space.size)
    table.query(table.archs[:1])
    assert table.seconds == {"nas-bench-201": 424, "nas-bench-201-latency": 0, "nas-bench-macro": 100}.get(name, 2)
    metric = next(iter(table.metrics))
    strategy = make_strategy("evolution", table.space, np.random.default_rng(0))
    found: dict = {}
    for _ in range(30):
        archs = strategy.ask(10)
        losses = table.losses(archs, [metric])
        strategy.tell(archs, losses)
        found |= dict(zip(archs, losses[:, 0].tolist(), strict=True))
    every = table.losses(table.archs, [metric])[:, 0]
    assert min(found.values()) <= np.quantile(every, 0.02)
