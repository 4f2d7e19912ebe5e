"""A teacher's embeddings, without labels: a small network learns what a larger one puts out."""

from __future__ import annotations

from functools import cache

from torch import nn

from examples.tasks import digits, learn
from examples.tasks.classification import trained as teacher_of_digits
from nas import tasks

BASELINE = 0.81
"""About the cosine of every embedding with their mean."""


@cache
def teacher() -> nn.Module:
    """The network of the classification, up to its features."""
    return teacher_of_digits()[:-1].eval()  # type: ignore[index]


def make() -> tasks.Task:
    """Images of digits without their classes."""
    return tasks.matching(teacher(), digits()[0].unsqueeze(1), loss="cosine", name="embeddings of digits")


def model() -> nn.Module:
    """A network with half the channels inside."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 32),
    )  # fmt: skip


def trained() -> nn.Module:
    """The network after some epochs."""
    return learn(model(), make(), epochs=10, learning_rate=0.3)
