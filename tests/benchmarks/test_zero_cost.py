"""The zero-cost benchmark goes on where it stopped, and compares what it has."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks import zero_cost
from search_spaces import make_space


@pytest.fixture(autouse=True)
def _few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zero_cost, "SAMPLES", {name: min(4, n) for name, n in zero_cost.SAMPLES.items()})


def test_a_stopped_run_goes_on(tmp_path: Path) -> None:
    space, path = make_space("nas-bench-201", image_size=8, channels=2, cells=1), tmp_path / "scores.csv"
    cells = [space.label(space.sample(np.random.default_rng(seed))) for seed in range(3)]
    images = torch.randn(4, 3, 8, 8), torch.arange(4)
    zero_cost.write_scores(path, space, cells, images)
    whole = pd.read_csv(path)
    assert whole["cellstr"].tolist() == cells and whole.columns.tolist() == zero_cost.COLUMNS
    path.write_text(path.read_text()[:-20])
    zero_cost.write_scores(path, space, cells, images)
    again = pd.read_csv(path)
    names = ["cellstr", *zero_cost.SAMPLES]
    pd.testing.assert_frame_equal(again[names], whole[names])
    before = path.read_text()
    zero_cost.write_scores(path, space, cells, images)
    assert path.read_text() == before


def test_rankings_are_compared_without_nan() -> None:
    found = zero_cost.agreement(np.array([1.0, np.nan, 3.0, 2.0]), np.array([10.0, 0.0, 30.0, 20.0]))
    assert found == {"spearman": 1.0, "kendall": 1.0, "ranked": 3, "nan": 1}


def test_a_comparison_holds_every_score_baseline_and_aggregate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zero_cost, "LOOKED_AT", 5)
    space, rng = make_space("nas-bench-201"), np.random.default_rng(0)
    cells = pd.DataFrame({"cellstr": [space.label(space.sample(rng)) for _ in range(40)]})
    for name in zero_cost.SAMPLES:
        cells[name], cells[f"{name}_s"] = rng.normal(size=40), 0.5
    cells[zero_cost.ACCURACY] = cells["synflow"]
    cells.loc[0, "jacob_cov"] = np.nan
    found = zero_cost.compare(space, cells, argparse.Namespace(seed=0, labels=20, draws=1))
    assert {*zero_cost.SAMPLES, "macs", "params", "layers", "aggregate without labels"} < set(found)
    assert found["synflow"]["spearman"] == 1 and found["jacob_cov"]["nan"] == 1  # type: ignore[index]
    assert found["aggregate without labels"]["cpu_seconds"] == 2.5  # type: ignore[index]
    assert found["aggregate without labels"]["ranked"] == 35  # type: ignore[index]
    assert found["labels, all columns"]["spearman_mean"] > 0.3  # type: ignore[index]
