"""The benchmark of what the knapsack spends: what a row says, and that rows are measured once."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import latency_lever as benchmark
from estimators import count
from examples.cifar_resnet import CifarResNet
from nas.data.dataset import ImageData
from tests.small_data import class_folder


@pytest.fixture
def data(tmp_path: Path) -> ImageData:
    class_folder(tmp_path / "images", {"a": 16, "b": 16})
    return benchmark.load_data(str(tmp_path / "images"), seed=0, validation_fraction=0.1)


def by_macs(full: nn.Module, x: torch.Tensor) -> Any:
    return lambda model, _: count(model, x.shape[1:]).total.macs / count(full, x.shape[1:]).total.macs


@pytest.mark.parametrize("round_to", [1, 16])
def test_a_row_is_of_the_pruned_and_repaired_model(
    data: ImageData, round_to: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "part_of", by_macs)  # no clock decides
    monkeypatch.setattr(benchmark, "SHAPE", (3, 8, 8))
    torch.manual_seed(3)
    model, x = CifarResNet(1, classes=2).eval(), torch.randn(2, 3, 8, 8)
    row = benchmark.measure(model, 0.7, "macs", round_to, 0, data, x)
    assert 0.5 < float(row["macs_part"]) <= 0.7 and float(row["params_part"]) < 1
    assert float(row["aligned"]) == 1 if round_to == 16 else 0 <= float(row["aligned"]) < 1
    assert all(0 <= float(row[name]) <= 100 for name in ("cut", "least_squares"))
    assert float(row["full_p25_ms"]) <= float(row["full_median_ms"]) <= float(row["full_p75_ms"])


def test_rows_are_measured_once(data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[tuple[Any, ...]] = []

    def measure(model: nn.Module, target: float, lever: str, round_to: int, seed: int, *_: object) -> dict[str, object]:
        measured.append((target, lever, round_to, seed))
        return {"target": target, "lever": lever, "round_to": round_to, "seed": seed, "least_squares": "50.00"}

    monkeypatch.setattr(benchmark, "measure", measure)
    monkeypatch.setattr(benchmark, "pretrained", lambda path: nn.Identity())
    options = ["--data", str(tmp_path / "images"), "--weights", "weights", "--out", str(tmp_path / "out")]
    threads = torch.get_num_threads()
    try:
        benchmark.main([*options, "--targets", "0.5"])
        benchmark.main([*options, "--targets", "0.5", "0.333", "--seeds", "0", "1"])
    finally:
        torch.set_num_threads(threads)
    assert len(measured) == len(set(measured)) == 8
    with (tmp_path / "out" / "latency_lever.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 8
