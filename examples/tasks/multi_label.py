"""Several labels at once: which digits are on an image of two."""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn

from examples.tasks import learn, placed
from nas import tasks

BASELINE = 0.2
"""About the mean average precision of scores that say nothing: the share of images that a digit is on."""


def make() -> tasks.Task:
    """2,000 images of two digits side by side, with ten labels each."""
    images, classes, _ = placed(2000, 16, 2)
    present = F.one_hot(classes, 10).amax(1)
    return tasks.multi_label((images.unsqueeze(1), present), labels=10, name="digits on an image")


def model() -> nn.Module:
    """A small convolutional network."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(),
        nn.Linear(64, 10),
    )  # fmt: skip


def trained() -> nn.Module:
    """The network after some epochs."""
    return learn(model(), make(), epochs=8)
