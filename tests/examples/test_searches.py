"""The example spaces are searched for tasks that are no classification of images, and export what they computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import nas
from nas import tasks

QUICK = {"epochs": 1, "alone_epochs": 1, "batch_size": 32, "learning_rate": 0.02, "trials": 3}


def pixels() -> tasks.Task:
    """Which pixels of noise are bright; images that are not square."""
    images = torch.rand(120, 1, 12, 20, generator=torch.Generator().manual_seed(0))
    return tasks.segmentation((images, (images[:, 0] > 0.7).long()), classes=2, name="bright pixels")


def waves() -> tasks.Task:
    """The frequency of a sine in noise, from two channels."""
    rng = np.random.default_rng(0)
    rates, times = rng.uniform(1, 5, 160), np.linspace(0, 1, 48)
    signals = np.sin(2 * np.pi * rates[:, None, None] * times) + 0.1 * rng.standard_normal((160, 2, 48))
    return tasks.regression((signals, rates), name="waves")


@pytest.mark.parametrize(
    ("space", "task", "metric", "strategy", "supernets"),
    [
        ("examples.unet:unet", pixels, "miou", "one-shot", 1),
        ("examples.unet:unet", pixels, "miou", "mixture", 2),
        ("examples.sequence_space:sequence_space", waves, "rmse", "one-shot", 1),
    ],
)
def test_it_is_searched(space: str, task, metric: str, strategy: str, supernets: int, tmp_path: Path) -> None:
    made = task()
    given = {**QUICK, "strategy": strategy, "supernets": supernets, "export": ("onnx",)}
    study = nas.search(space, made, objectives=[metric, "macs"], out=tmp_path / "run", **given)
    assert study.trials[metric].notna().all() and study.front[f"{metric}_alone"].notna().all()
    arch = study.find(study.front["architecture"].iloc[0])
    folder = study.place("exports", arch)
    assert (folder / "model.onnx").exists()
    batch = next(made.test.batches(4))
    outputs = nas.load(folder, space=space)(batch.inputs)
    assert made.goal.loss(outputs, batch.target).isfinite()
    if metric == "miou":
        assert outputs.shape == (4, 2, 12, 20) and study.space.net.input_shape == (1, 12, 20)
    else:
        assert outputs.shape == (4, 1)
