"""The benchmark of samplers: equal passes, and how it compares orders."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest

from benchmarks import samplers as benchmark


@pytest.mark.parametrize("sampler", benchmark.SAMPLERS)
def test_samplers_get_the_same_passes_up_to_half_an_epoch_of_theirs(sampler: str) -> None:
    wanted = 13
    epochs = benchmark.epochs_for(sampler, wanted, 0)
    found = benchmark.passes(sampler, epochs, 0)
    assert all(
        abs(benchmark.passes(sampler, epochs + step, 0) - wanted) >= abs(found - wanted)
        for step in (-1, 1)
        if epochs + step
    )
    assert abs(found - wanted) <= 2


def test_a_sampler_of_many_stages_gets_an_epoch_for_each() -> None:
    assert benchmark.passes("progressive", 4, 0) == 0 < benchmark.passes("progressive", 5, 0)
    assert benchmark.epochs_for("progressive", 1, 0) == 5


def test_agreement_counts_pairs() -> None:
    pairs = [(0, 1), (0, 2), (1, 2)]
    assert benchmark.agreement([1, 2, 3], [10, 20, 30], pairs) == 1
    assert benchmark.agreement([3, 2, 1], [10, 20, 30], pairs) == -1
    assert benchmark.agreement([1, 3, 2], [10, 20, 30], pairs) == pytest.approx(1 / 3, abs=1e-3)
    assert benchmark.agreement([1, 1, 2], [10, 20, 30], pairs) == pytest.approx(2 / 3, abs=1e-3)


def test_similar_macs_are_compared_apart() -> None:
    alone = pd.DataFrame({"architecture": ["a", "b", "c"], "macs": [100, 120, 1000], "accuracy": [0.5, 0.4, 0.9]})
    same = {"sampler": "uniform", "seed": 0}
    scores = pd.DataFrame({"architecture": ["a", "b", "c"], "accuracy": [0.3, 0.4, 0.8]} | same)
    summary = benchmark.summarise(alone, scores, pd.DataFrame([same])).set_index("sampler")
    assert summary.loc["uniform", "tau"] == summary.loc["macs", "tau"] == pytest.approx(1 / 3, abs=1e-3)
    assert summary.loc["uniform", "tau_similar_macs"] == -1 and summary.loc["uniform", "mean"] == 0.5


def test_a_small_run_writes_its_tables_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        benchmark, "SPACE", benchmark.make_space("resnet-elastic", choices="depth", in_channels=1, image_size=8)
    )

    def run(*samplers: str) -> pd.DataFrame:
        small = "--data digits --passes 60 --limit 60 --batch-size 20 --architectures 2 --alone-epochs 1"
        monkeypatch.setattr(sys, "argv", ["samplers", *small.split(), "--out", str(tmp_path), "--samplers", *samplers])
        benchmark.main()
        return pd.read_csv(tmp_path / "summary.csv")

    first = run("uniform")
    both = run("uniform", "sandwich")
    assert list(both["sampler"]) == ["uniform", "sandwich", "macs"]
    assert both.iloc[0]["seconds"] == first.iloc[0]["seconds"] and (tmp_path / "samplers.png").exists()
