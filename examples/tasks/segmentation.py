"""A class for each pixel: background, or the kind of digit that a pixel belongs to."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from examples.tasks import learn, placed
from nas import tasks

BASELINE = 0.3
"""Mean intersection over union of naming the background everywhere: its share of all pixels, over three classes."""
CLASSES = 3


def make() -> tasks.Task:
    """1,500 images with two digits each; their pixels are of small (0 to 4) or large (5 to 9) digits."""
    images, classes, corners = placed(1500, 24, 2)
    target = (images > 0).long()
    for row, (kinds, places) in enumerate(zip(classes.tolist(), corners.tolist(), strict=True)):
        for kind, (top, left) in zip(kinds, places, strict=True):
            box = target[row, top : top + 8, left : left + 8]
            box[box > 0] = 1 if kind < 5 else 2
    return tasks.segmentation((images.unsqueeze(1), target), classes=CLASSES, name="pixels of digits")


class Segmenter(nn.Module):
    """Two scales, joined by a concatenation."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.fine = _convolutions(1, width)
        self.coarse = nn.Sequential(
            nn.MaxPool2d(2), _convolutions(width, 2 * width), _convolutions(2 * width, 2 * width)
        )
        self.grow = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.join = nn.Sequential(_convolutions(2 * width, width), nn.Conv2d(width, CLASSES, 1))

    def forward(self, x: Tensor) -> Tensor:
        fine = self.fine(x)
        coarse = self.grow(self.coarse(fine))
        return self.join(torch.cat([fine, coarse], dim=1))


def _convolutions(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())


def model() -> nn.Module:
    """A small U-Net."""
    return Segmenter()


def trained() -> nn.Module:
    """The network after some epochs."""
    return learn(model(), make(), epochs=3)
