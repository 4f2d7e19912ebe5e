"""Searches that train nothing before the front: scores of untrained networks, and latency from a table."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from estimators import Latency, LatencyTable, measure_table
from nas import Study, search
from nas.data.dataset import ImageData
from nas.scoring import costs as scoring
from search_spaces import make_space

FEW = {"strategy": "random", "trials": 6, "retrain": "none", "limit": 200, "test_limit": 50}


def run(folder: Path, **settings: Any) -> Study:
    return search("resnet20-pooling", "digits", out=folder, **{**FEW, **settings})


def test_scores_are_objectives_and_the_same_again(tmp_path: Path) -> None:
    first, second = (run(tmp_path / name, objectives=["naswot", "synflow", "macs"]) for name in "ab")
    assert first.trials[["label", "naswot", "synflow"]].equals(second.trials[["label", "naswot", "synflow"]])
    best = first.trials.loc[first.trials["naswot"].idxmax(), "label"]
    assert best in set(first.front["label"])
    assert not (tmp_path / "a" / "supernets").exists()


@pytest.mark.parametrize("strategy", ["random", "nsga2", "evolution"])
def test_an_architecture_without_a_score_is_left_out_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    values = iter([3.0, math.nan, 1.0, -math.inf, 2.0, 5.0])
    monkeypatch.setattr(scoring, "score", lambda *_, **__: next(values))
    with pytest.warns(UserWarning, match="2 of 6 architectures have no naswot; they are left out"):
        study = run(tmp_path / "run", objectives=["naswot", "macs"], strategy=strategy)
    trials = study.ranked
    assert trials["naswot"].isna().tolist() == [False, True, False, True, False, False]
    assert not trials.loc[trials["naswot"].isna(), "on_front"].any() and trials["on_front"].any()
    assert (study.folder / "report.html").exists()


def test_no_architecture_has_a_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "score", lambda *_, **__: math.nan)
    with pytest.raises(ValueError, match="6 of 6 architectures have no naswot; search for another objective"):
        run(tmp_path / "run", objectives=["naswot", "macs"])


def test_a_table_predicts_what_is_searched(tmp_path: Path, digits: ImageData) -> None:
    space = make_space("resnet20-pooling", in_channels=1, image_size=8)
    table = measure_table(space, space.enumerate(), warmup_s=1e-4, runs=5, max_seconds=1e-4)
    table.save(tmp_path / "table.json")
    study = run(tmp_path / "run", objectives=["latency_ms", "macs"], latency_table=tmp_path / "table.json")
    expected = [table.predict(study.space, study.find(label)) for label in study.trials["label"]]
    np.testing.assert_allclose(study.trials["latency_ms"], expected)


def test_a_table_that_is_not_used_or_of_another_space(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a latency table is for the objective latency_ms, got accuracy, macs"):
        run(tmp_path / "run", latency_table="table.json")
    latency = Latency(1.0, 1.0, 1.0, 5, 10, True, 1, 1, "cpu", "2")
    LatencyTable("another", "0", {"block": latency}).save(tmp_path / "table.json")
    with pytest.raises(ValueError, match="must be of space 'resnet20-pooling'"):
        run(tmp_path / "run", objectives=["latency_ms"], latency_table=tmp_path / "table.json")
    space = make_space("resnet20-pooling", in_channels=1, image_size=8)
    some = measure_table(space, list(space.enumerate())[:1], warmup_s=1e-4, runs=5, max_seconds=1e-4)
    some.save(tmp_path / "table.json")
    with pytest.raises(ValueError, match="has not been measured; measure a table that covers"):
        run(tmp_path / "run", objectives=["latency_ms"], latency_table=tmp_path / "table.json")
    assert not (tmp_path / "run").exists()


def test_a_measured_latency_keeps_its_quartiles_and_conditions(tmp_path: Path) -> None:
    study = run(tmp_path / "run", objectives=["latency_ms", "macs"], trials=2)
    trials = study.trials
    assert (trials["latency_p25_ms"] <= trials["latency_ms"]).all()
    assert (trials["latency_ms"] <= trials["latency_p75_ms"]).all()
    conditions = next(iter(study.latency.values()))
    assert conditions["runtime"] == "eager" and conditions["batch_size"] == 1 and conditions["threads"] >= 1
