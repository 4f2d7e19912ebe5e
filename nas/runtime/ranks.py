"""Processes that train together, as torchrun starts them: which one this is, and what they tell each other; alone it does nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

TIMEOUT = timedelta(minutes=30)
"""A process that waits for the others longer than this gives up."""
T = TypeVar("T")


class Share(NamedTuple):
    """One process's part of every batch: each `of`-th example from number `rank` on."""

    rank: int = 0
    of: int = 1

    @property
    def rows(self) -> slice:
        return slice(self.rank, None, self.of)


WHOLE = Share()
_joined = WHOLE


def started() -> Share:
    """This process among those that torchrun started, joined or not."""
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys():
        return WHOLE
    return Share(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))


def first() -> bool:
    """Whether this is the process that writes, prints and goes on after the training: the only one, or that of rank 0."""
    return started().rank == 0


def local() -> int:
    """The number of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", 0))


def share() -> Share:
    """This process among those that are joined."""
    return _joined


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Connect the processes that torchrun started: by gloo, and between GPUs by nccl. Waits until all are here."""
    global _joined
    if started().of == 1 or _joined != WHOLE:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    _joined = started()
    try:
        yield
    finally:
        _joined = WHOLE
        dist.destroy_process_group()


def told(value: T) -> T:
    """What the first process has."""
    if _joined.of == 1:
        return value
    box: list[Any] = [value]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    found: T = box[0]
    return found


def totals(sizes: Sequence[int]) -> Sequence[int]:
    """Sums of counts over the processes."""
    if _joined.of == 1:
        return sizes
    every = torch.tensor(sizes)
    dist.all_reduce(every)
    found: list[int] = every.tolist()
    return found


def mean(values: Tensor, sizes: Sequence[int]) -> Tensor:
    """Means over the examples of all processes, in float64, from means over this one's; of one process those themselves.

    Args:
        values: (n,), or a scalar.
        sizes: examples behind each of them.
    """
    if _joined.of == 1:
        return values
    counts = torch.tensor(sizes, dtype=torch.float64, device=values.device).view_as(values)
    every = summed(torch.stack([values.double() * counts, counts]))
    return every[0] / every[1]


def summed(x: Tensor) -> Tensor:
    """The sum over the processes, in a tensor of its own."""
    total = x.detach().clone()
    dist.all_reduce(total)
    return total


def gathered(x: Tensor) -> Tensor:
    """What each process has, (processes, *shape)."""
    every = [torch.empty_like(x) for _ in range(_joined.of)]
    dist.all_gather(every, x)
    return torch.stack(every)


def average_(tensors: Iterable[Tensor]) -> None:
    """Put the means over the processes in the place of tensors, all of a type at once."""
    if _joined.of == 1:
        return
    by_type: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        by_type.setdefault(tensor.dtype, []).append(tensor)
    for alike in by_type.values():
        flat = torch.cat([tensor.flatten() for tensor in alike])
        dist.all_reduce(flat)
        flat /= _joined.of
        for tensor, part in zip(alike, flat.split([tensor.numel() for tensor in alike]), strict=True):
            tensor.copy_(part.view_as(tensor))
