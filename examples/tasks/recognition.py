"""Lines of digits, read by connectionist temporal classification: nobody says where on the line a digit stands."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from examples.tasks import digits, learn
from nas import tasks

BASELINE = 0.9
"""About the character error rate of reading one digit in each line."""
ALPHABET = "-0123456789"
LONGEST = 5


def make() -> tasks.Task:
    """2,500 lines of 3 to 5 digits, 8 pixels high and 52 wide."""
    rng = np.random.default_rng(0)
    images, classes = digits()
    lines, symbols, lengths = torch.zeros(2500, 1, 8, 52), torch.zeros(2500, LONGEST, dtype=torch.long), []
    for row in range(len(lines)):
        count = int(rng.integers(3, LONGEST + 1))
        left = 0
        for place, which in enumerate(rng.integers(len(images), size=count)):
            left += int(rng.integers(0, 3))
            lines[row, 0, :, left : left + 8] = images[which]
            symbols[row, place] = classes[which] + 1
            left += 8
        lengths.append(count)
    return tasks.ctc((lines, (symbols, np.array(lengths))), alphabet=ALPHABET, name="lines of digits")


class Reader(nn.Module):
    """Convolutions over the line, whose columns are then read one by one."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.look = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, (4, 3), padding=(0, 1)), nn.BatchNorm2d(2 * width), nn.ReLU(),
        )  # fmt: skip
        self.read = nn.Sequential(
            nn.Conv1d(2 * width, 2 * width, 5, padding=2), nn.BatchNorm1d(2 * width), nn.ReLU(),
            nn.Conv1d(2 * width, len(ALPHABET), 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.look(x).squeeze(2)).transpose(1, 2)


def model() -> nn.Module:
    """A small recogniser."""
    return Reader()


def trained() -> nn.Module:
    """The network after some epochs."""
    return learn(model(), make(), epochs=3, learning_rate=0.05, batch_size=32)
