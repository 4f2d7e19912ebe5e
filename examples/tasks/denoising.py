"""An image for each image: digits without the noise that was put on them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from examples.tasks import digits, learn
from nas import tasks

BASELINE = 14.0
"""Peak signal-to-noise ratio of the noisy images, in dB."""
NOISE = 0.2


def make() -> tasks.Task:
    """Digits under Gaussian noise of a deviation of 0.2."""
    images = digits()[0].unsqueeze(1)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return tasks.image_to_image((images + NOISE * noise, images), loss="mse", name="noisy digits")


class Denoiser(nn.Module):
    """Predicts the noise, and takes it away."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.noise = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, 1, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x - self.noise(x)


def model() -> nn.Module:
    """Three convolutions around a shortcut."""
    return Denoiser()


def trained() -> nn.Module:
    """The network after some epochs."""
    return learn(model(), make(), epochs=10, learning_rate=0.2)
