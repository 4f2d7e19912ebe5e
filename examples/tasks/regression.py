"""Numbers: the progress of diabetes from ten measurements."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_diabetes
from torch import nn

from examples.tasks import learn
from nas import tasks

BASELINE = 77.0
"""Root mean squared error of always naming the mean."""
SCALE = 100.0


class Scaled(nn.Module):
    """A network of numbers near 1, whose outputs are read in the unit of the target."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x):  # type: ignore[no-untyped-def]
        return SCALE * self.inner(x)


def make() -> tasks.Task:
    """442 patients."""
    found = load_diabetes()
    inputs = found.data / found.data.std(0)
    return tasks.regression((inputs, found.target.astype(np.float32)), name="diabetes", loss="l1")


def model() -> nn.Module:
    """Two hidden layers."""
    return Scaled(nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1)))


def trained() -> nn.Module:
    """The network after some epochs."""
    return learn(model(), make(), epochs=40, learning_rate=1e-3, batch_size=32)
