"""Passes over data within time and memory."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from pruners.operators import number, several
from pruners.progress import Progress
from pruners.tracing import Batch, Trace
from search_spaces.core import Part, setting


class Bounds(Part):
    """What a pass over data may take."""

    max_seconds: float = setting(
        90.0,
        gt=0,
        help="Seconds that a pass over data may take, about: examples beyond are left out.",
    )
    max_bytes: int = setting(
        2**31,
        gt=0,
        help="Bytes that the values of a pass may take; batches are taken in smaller pieces.",
    )


USUAL = Bounds()
"""Where none is given."""


def pieces(
    batches: Iterable[Batch], trace: Trace, bounds: Bounds, step: str, progress: Progress, samples: float
) -> Iterator[Batch]:
    """Batches in pieces that fit the memory, as long as there is time, up to a number of samples.

    Args:
        batches: as the traced graph takes them.
        trace: of the model.
        bounds: what the pass may take.
        step: what the pass is called.
        progress: called as (step, samples done, samples that there are time for).
        samples: how many at most.
    """
    size = max(1, int(bounds.max_bytes // max(bytes_per_sample(trace), 1)))
    started, seen = time.monotonic(), 0
    for batch in batches:
        length = next((len(x) for x in batch.inputs if isinstance(x, Tensor) and x.dim()), 1)
        if not trace.batched:
            size = length
        for start in range(0, length, size):
            if seen >= samples or (seen and time.monotonic() - started > bounds.max_seconds):
                progress(step, seen, seen)
                return
            end = int(min(start + size, length, start + samples - seen))
            yield batch.part(start, end) if trace.batched else batch
            seen += end - start
            rate = (time.monotonic() - started) / seen
            progress(step, seen, max(seen, min(samples, bounds.max_seconds / max(rate, 1e-9))))


def bytes_per_sample(trace: Trace) -> int:
    """What all values of a graph take that grow with the batch, in float32, for one sample."""
    total = 0
    for node in trace.nodes:
        for value in several(node.meta.get("val")) if node.op == "call_function" else ():
            if isinstance(value, Tensor) and any(isinstance(n, torch.SymInt) for n in value.shape):
                entries = 1
                for n in value.shape:
                    entries *= number(n)
                total += 4 * entries
    example = next((len(x) for x in trace.args + tuple(trace.kwargs.values()) if isinstance(x, Tensor) and x.dim()), 1)
    return total // max(1, example * trace.copies)
