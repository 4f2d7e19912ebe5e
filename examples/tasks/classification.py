"""Classes of unequal size: two digits are rare, weights let the loss count them as the others."""

from __future__ import annotations

import torch
from torch import nn

from examples.tasks import digits, learn
from nas import tasks

BASELINE = 0.125
"""Accuracy of always naming the largest class."""
RARE = (8, 9)


def make() -> tasks.Task:
    """Digits, of which every sixth 8 and 9 is kept; classes weigh the inverse of how often they come."""
    images, labels = digits()
    rare = torch.isin(labels, torch.tensor(RARE))
    kept = ~rare | (torch.arange(len(labels)) % 6 == 0)
    images, labels = images[kept].unsqueeze(1), labels[kept]
    weights = len(labels) / 10 / torch.bincount(labels, minlength=10)
    return tasks.classification(
        (images, labels), class_weights=weights.tolist(), stratify=True, name="digits with rare classes"
    )


def model() -> nn.Module:
    """A small convolutional network."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(32, 10),
    )  # fmt: skip


def trained() -> nn.Module:
    """The network after some epochs."""
    return learn(model(), make())
