"""TensorBoard and MLflow are told what the event file is told, and read back by their own readers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas.events import logged
from nas.events.event import curves
from nas.events.mlflow import DEFAULTS, RUN
from tests.nas.events.test_log import TWO, events, trial


def write(folder: Path, name: str, first: int) -> dict[str, list[tuple[int, float]]]:
    """A session with trials, an epoch and a network alone; the curves that the event file has of it and those before."""
    known = [trial(number) for number in range(first)]
    with logged(folder, (name,), {"seed": 3}, "nas search", objectives=TWO, known=known, alone=first // 25) as log:
        log.trials([trial(number) for number in range(first, first + 25)])
        log.epochs([{"epoch": first, "supernet": 1, "loss": 0.5, "learning_rate": 0.1, "steps": float("nan")}])
        log.alone([trial(first)._replace(user_attrs={"label": "a", "seed": 0, "seconds": 1.0})], TWO)
    told: dict[str, list[tuple[int, float]]] = {}
    for event in events(folder):
        for curve, value, at in curves(event):
            told.setdefault(curve, []).append((at, value))
    return told


def test_tensorboard_reads_the_curves(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write(tmp_path, "tensorboard", 0)
    told = write(tmp_path, "tensorboard", 25)
    read: dict[str, list[tuple[int, float]]] = {}
    for path in sorted((tmp_path / "tensorboard").iterdir()):
        board = EventAccumulator(str(path))
        board.Reload()
        for curve in board.Tags()["scalars"]:
            read.setdefault(curve, []).extend((point.step, point.value) for point in board.Scalars(curve))
    assert {"trial/accuracy", "front/hypervolume", "supernet1/loss", "alone/macs"} <= read.keys() == told.keys()
    for curve, points in told.items():
        np.testing.assert_allclose(sorted(read[curve]), sorted(points), rtol=1e-6, err_msg=curve)


def test_mlflow_has_one_run_with_parameters_and_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    before = dict(os.environ)
    write(tmp_path, "mlflow", 0)
    told = write(tmp_path, "mlflow", 25)
    assert {name: value for name, value in os.environ.items() if name in DEFAULTS} == {
        name: value for name, value in before.items() if name in DEFAULTS
    }
    from mlflow import MlflowClient

    kept: dict[str, Any] = json.loads((tmp_path / RUN).read_text())
    for name, value in DEFAULTS.items():
        monkeypatch.setenv(name, value)
    client = MlflowClient(tracking_uri=kept["tracking_uri"])
    (run,) = client.search_runs([client.get_run(kept["run_id"]).info.experiment_id])
    assert (run.data.params, run.info.status, run.info.run_name) == ({"seed": "3"}, "FINISHED", tmp_path.name)
    assert run.data.metrics.keys() == told.keys()
    for curve, points in told.items():
        read = [(point.step, point.value) for point in client.get_metric_history(kept["run_id"], curve)]
        assert sorted(read) == sorted(points), curve


def test_a_server_that_is_down_costs_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.warns(UserWarning, match="log mlflow is left out from here on"):
        write(tmp_path, "mlflow", 0)
    assert events(tmp_path)[-1]["how"] == "finished"
