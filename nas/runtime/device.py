"""Where computation runs, and in which precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from nas.runtime import ranks


def resolve_device(name: str = "auto") -> torch.device:
    """The device of that name; `auto` is CUDA where there is one, else the CPU. Of several processes each has a GPU of its own.

    Raises:
        ValueError: the device is unknown or not there, or not for each process.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if ranks.started().of > 1 and name.startswith("cuda"):
        return _own(name)
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"`device` must be auto, cpu or a CUDA device that is there, got {name!r}") from error
    return device


def _own(name: str) -> torch.device:
    """The GPU of this process among those on its machine."""
    number, there = ranks.local(), torch.cuda.device_count()
    if name != "cuda" or number >= there:
        raise ValueError(
            f"of several processes each trains on a GPU of its own: `device` must be auto, cpu or cuda, and each machine needs as many "
            f"GPUs as it has processes, got {name} and {there} GPUs for process {number}; start fewer, or use cpu"
        )
    return torch.device("cuda", number)


def precision(device: torch.device) -> AbstractContextManager[object]:
    """bf16 autocast on CUDA, where it is faster at equal accuracy; float32 elsewhere."""
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


def half(on: bool) -> AbstractContextManager[object]:
    """bf16 autocast for what a CPU computes inside, if `on`. Casts of weights are not remembered, because training changes weights."""
    return torch.autocast("cpu", torch.bfloat16, cache_enabled=False) if on else nullcontext()


def memory_format(device: torch.device) -> torch.memory_format:
    """Channels last where convolutions run in bf16, as it is faster there: on CUDA, and on a CPU inside bf16 autocast."""
    half = device.type == "cuda" or torch.is_autocast_enabled(device.type)
    return torch.channels_last if half else torch.contiguous_format
