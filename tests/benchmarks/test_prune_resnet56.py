"""The benchmark of pruned ResNets: what a row says, and that rows are measured once for each way to train."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import prune_resnet56 as benchmark
from examples.cifar_resnet import CifarResNet
from nas.data.dataset import ImageData
from tests.small_data import class_folder


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ImageData:
    monkeypatch.setattr(benchmark, "SHAPE", (3, 8, 8))
    class_folder(tmp_path / "images", {"a": 16, "b": 16})
    return benchmark.load_data(str(tmp_path / "images"), seed=0, validation_fraction=0.1)


@pytest.mark.parametrize("distill", [False, True])
def test_a_row_is_of_the_pruned_repaired_and_trained_model(
    data: ImageData, distill: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, taught = [], []
    prune, distilled = benchmark.prune, benchmark.Distilled
    monkeypatch.setattr(benchmark, "prune", lambda *args, **kwargs: asked.append(kwargs) or prune(*args, **kwargs))
    monkeypatch.setattr(benchmark, "Distilled", lambda *args: taught.append(args[2]) or distilled(*args))
    monkeypatch.setitem(benchmark.STEPS, "iterative", 5)
    torch.manual_seed(0)
    model = CifarResNet(1, classes=2).eval()
    row = benchmark.measure(model, 1.3, "iterative", "inner", 0, data, lambda _: 0.02, distill)
    assert asked[0]["steps"] == 5 and taught == [model] * distill
    assert 1.3 <= float(row["macs_speedup"]) < 1.6 and row["learning_rate"] == 0.02 and row["form"] == "module"
    assert all(0 <= float(row[name]) <= 100 for name in ("dense", "cut", "recalibrated", "least_squares", "trained"))


def test_rows_are_measured_once_for_each_recipe(
    data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[tuple[Any, ...]] = []

    def measure(
        model: nn.Module,
        speedup: float,
        method: str,
        channels: str,
        seed: int,
        data: ImageData,
        rate: Any,
        distill: bool,
    ) -> dict[str, object]:
        measured.append((speedup, method, seed, rate is not None, distill))
        return {"trained": "50.00" if rate else ""}

    monkeypatch.setattr(benchmark, "measure", measure)
    monkeypatch.setattr(benchmark, "pretrained", lambda path: nn.Identity())
    options = ["--data", str(tmp_path / "images"), "--weights", "weights", "--out", str(tmp_path / "out")]
    options += ["--models", "resnet20", "--methods", "iterative", "--speedups", "2", "3", "--seeds", "0", "1"]
    for recipe in (["--no-training"], ["--no-training"], [], [], ["--distill"], ["--distill"]):
        monkeypatch.setattr("sys.argv", ["prune_resnet56", *options, *recipe])
        benchmark.main()
    assert len(measured) == len(set(measured)) == 12
    with (tmp_path / "out" / "prune_resnet56.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["recipe"] for row in rows].count("usual") == [row["recipe"] for row in rows].count("distilled") == 4
    assert all(row["trained"] for row in rows)


def test_nni_keeps_the_budget_and_cuts_inside_blocks(data: ImageData) -> None:
    model = CifarResNet(1, classes=2).eval()
    budget = benchmark.count(model, benchmark.SHAPE).total.macs / 1.3
    smaller = benchmark.by_nni(model, budget, benchmark.NNI["nni-l1-inner"])
    assert 0.8 * budget < benchmark.count(smaller, benchmark.SHAPE).total.macs <= budget
    widths = [layer.out_channels for layer in smaller.modules() if isinstance(layer, nn.Conv2d)]
    assert sum(width not in (16, 32, 64) for width in widths) == 3  # the first convolution of each block
