"""A worked example of each kind of task: its data, a model, and what a figure has to beat to show that anything was learned.

Each file has `make()`, the task; `model()`, an untrained network for it; `trained()`, the same after some epochs; and `BASELINE`, the
figure of the task's first metric that needs no learning. So each works by name:

    nas prune examples.tasks.segmentation:trained --task examples.tasks.segmentation:make --target macs=0.5

All data come with scikit-learn, or are made of such.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from nas.tasks import Task
from nas.training import Alone, TrainingConfig, fit


def learn(
    model: nn.Module, task: Task, *, epochs: int = 10, learning_rate: float = 0.1, batch_size: int = 64
) -> nn.Module:
    """Train a model on the training examples of a task, on the CPU."""
    config = TrainingConfig(epochs=epochs, learning_rate=learning_rate, batch_size=batch_size)
    device = torch.device("cpu")
    fit(Alone(model, task, config, device), task.train, config, seed=0, device=device)
    return model


def digits() -> tuple[Tensor, Tensor]:
    """1,797 handwritten digits: images (N, 8, 8) from 0 to 1, and classes (N,)."""
    found = load_digits()
    return torch.from_numpy(found.images).float() / 16, torch.from_numpy(found.target)


def placed(count: int, size: int, each: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Digits on larger black images, which may overlap.

    Returns:
        Images (count, size, size), classes (count, each), and the upper left corners (count, each, 2) as row and column.
    """
    rng = np.random.default_rng(seed)
    images, classes = digits()
    chosen = rng.integers(len(images), size=(count, each))
    corners = rng.integers(size - 7, size=(count, each, 2))
    out = torch.zeros(count, size, size)
    for row in range(count):
        for which, (top, left) in zip(chosen[row], corners[row], strict=True):
            part = out[row, top : top + 8, left : left + 8]
            part.copy_(torch.maximum(part, images[which]))
    return out, classes[torch.from_numpy(chosen)], torch.from_numpy(corners)
