"""Random streams: one generator for each purpose, so that stopping and resuming draws the same numbers."""

from __future__ import annotations

import zlib

import numpy as np


def stream(seed: int, *purpose: str | int) -> np.random.Generator:
    """The generator for a purpose, such as `stream(seed, "train", epoch)`; the same in every process."""
    key = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in purpose]
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def torch_seed(seed: int, *purpose: str | int) -> int:
    """A seed for torch from the stream of a purpose."""
    return int(stream(seed, *purpose).integers(2**63))
