"""Random streams: one generator for each purpose, so that stopping and resuming draws the same numbers."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


def stream(seed: int, *purpose: str | int) -> np.random.Generator:
    """The generator for a purpose, such as `stream(seed, "train", epoch)`; the same in every process."""
    key = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in purpose]
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def torch_seed(seed: int, *purpose: str | int) -> int:
    """A seed for torch from the stream of a purpose."""
    return int(stream(seed, *purpose).integers(2**63))


@contextmanager
def drawing(seed: int, *purpose: str | int, device: torch.device) -> Iterator[None]:
    """Let what torch draws meanwhile, on the CPU and on a device, come from the stream of a purpose: dropout, noise, loaders.

    Afterwards its random numbers are what they were.
    """
    before = random_state(device)
    number = torch_seed(seed, *purpose)
    torch.default_generator.manual_seed(number)  # torch.manual_seed would seed every GPU as well
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(number)
    try:
        yield
    finally:
        restore_random_(before)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Where torch's random numbers are, on the CPU and on a device, by the name of the place."""
    found = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        found[str(device)] = torch.cuda.get_rng_state(device)
    return found


def restore_random_(state: Mapping[str, Tensor]) -> None:
    """Put back what `random_state` gave."""
    for place, value in state.items():
        if place == "cpu":
            torch.set_rng_state(value)
        else:
            torch.cuda.set_rng_state(value, place)
