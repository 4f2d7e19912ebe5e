"""Latency as an objective: of eager networks, and in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import nas
from estimators.latency import compare_latency
from nas.scoring import costs
from nas.study import configure

pytestmark = pytest.mark.usefixtures("hurried")
HERE = "tests.nas.scoring.test_latency"


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 4)).eval()


def test_trials_are_measured_in_the_runtime_that_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtimes = []

    def quick(*given: Any, **settings: Any) -> Any:
        runtimes.append((settings["runtime"], settings["device"].type))
        return compare_latency(*given, **settings, warmup_s=0.01, runs=5, max_seconds=0.1)

    monkeypatch.setattr(costs, "compare_latency", quick)
    with pytest.warns(UserWarning, match="a search without examples knows nothing"):
        study = nas.search(
            model=f"{HERE}:net", input="1x64", objectives=("params", "onnxruntime_ms"), strategy="random", trials=4,
        limits={"latency_ms": 1e3}, out=tmp_path / "run", device="cpu", trust=True,
    )  # fmt: skip
    assert {runtime for runtime, _ in runtimes} == {"eager", "onnxruntime"}
    assert {"onnxruntime_ms", "latency_ms"} <= set(study.trials.columns)
    assert (study.trials["onnxruntime_ms"] > 0).all() and (study.trials["latency_ms"] > 0).all()


def test_a_measured_objective_needs_quiet() -> None:
    given: dict[str, Any] = {"model": f"{HERE}:net", "input": "1x64", "asynchronous": True, "engine": "processes"}
    with pytest.raises(ValueError, match=r"onnxruntime_ms is measured while no worker computes, .* leave it out$"):
        configure(objectives=("params", "onnxruntime_ms"), **given)
