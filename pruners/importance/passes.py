"""Passes over data within time and memory."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any

import torch
from torch import Tensor

from pruners.operators import number, several
from pruners.progress import Progress
from pruners.tracing import Batch, Trace, as_batch
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
LONG = 10.0  # seconds of a pass that are said before
WORK_ENDS = "as many as are computed with in a model of this size"
Tell = Callable[[str], None]
"""Told a sentence that a reader should know."""


def unheard(words: str) -> None:
    """Listen to nothing: the default."""


def pieces(
    batches: Iterable[Batch],
    trace: Trace,
    bounds: Bounds,
    step: str,
    progress: Progress,
    samples: float,
    held: int | None = None,
    tell: Tell = unheard,
    why: str = WORK_ENDS,
) -> Iterator[Batch]:
    """Batches in pieces that fit the memory, as long as there is time, up to a number of samples.

    Args:
        batches: as the traced graph takes them.
        trace: of the model.
        bounds: what the pass may take.
        step: what the pass is called.
        progress: called as (step, samples done, samples that will be). Of a pass that the first piece shows to be long, the name says
            the time and the memory, and comes once with 0 done.
        samples: how many at most.
        held: how many there are, see `held_samples`.
        tell: told in words if some are left out, and why.
        why: what bounds `samples`, in words.

    Raises:
        ValueError: `max_bytes` does not hold one sample.
    """
    each = bytes_per_sample(trace)
    if each > bounds.max_bytes:
        unit = "sample" if trace.batched else "batch, which the model does not let be cut,"
        raise ValueError(
            f"`max_bytes` must hold what the model computes for one {unit} at least, got {bounds.max_bytes:,} where that takes about "
            f"{each:,}; give more."
        )
    return _pieces(batches, trace, bounds, step, progress, samples, math.inf if held is None else held, tell, why)


def _pieces(
    batches: Iterable[Batch],
    trace: Trace,
    bounds: Bounds,
    step: str,
    progress: Progress,
    samples: float,
    held: float,
    tell: Tell,
    why: str,
) -> Iterator[Batch]:
    each = bytes_per_sample(trace)
    size = max(1, bounds.max_bytes // max(each, 1))
    name, started, seen = step, time.monotonic(), 0
    for batch in batches:
        length = next((len(x) for x in batch.inputs if isinstance(x, Tensor) and x.dim()), 1)
        start = 0
        while start < length:
            late = bool(seen) and time.monotonic() - started > bounds.max_seconds
            if seen >= samples or late:
                progress(name, seen, seen)
                if seen < samples:
                    why = f"as many as `max_seconds` of {bounds.max_seconds:g} allows; more time or faster hardware uses more"
                tell(_left_out(step, seen, held, why))
                return
            end = int(min(start + size, length, start + samples - seen)) if trace.batched else length
            yield batch.part(start, end) if trace.batched else batch
            first, seen = not seen, seen + end - start
            rate = (time.monotonic() - started) / seen
            expected = max(seen, min(samples, held, bounds.max_seconds / max(rate, 1e-9)))
            if first and LONG < rate * expected < math.inf:
                piece = min(size, length) * each if trace.batched else each
                name = f"{step} (about {rate * expected:.0f} s, {piece / 1e9:.2g} GB)"
                progress(name, 0, expected)
            progress(name, seen, expected)
            start = end
    progress(name, seen, seen)


def _left_out(step: str, seen: int, held: float, why: str) -> str:
    """How many samples a pass used of how many, and why not all."""
    if held == math.inf:
        return f"{step}: {seen:,} samples were used and others left out, {why}"
    return f"{step}: {seen:,} of {held:,} samples were used, {why}"


def held_samples(batches: Iterable[Any]) -> int | None:
    """How many samples there are, of a list or a data loader; None if only reading them all would tell."""
    if isinstance(batches, (list, tuple)):
        every = ([x for x in as_batch(given).inputs if isinstance(x, Tensor) and x.dim()] for given in batches)
        return sum(len(tensors[0]) for tensors in every if tensors)
    sampler = getattr(batches, "sampler", None)
    return len(sampler) if isinstance(sampler, Sized) else None


def bytes_per_sample(trace: Trace) -> int:
    """What all values of a graph take that grow with the batch, in float32, for one sample; all of them where no batch can be cut."""
    total = 0
    for node in trace.nodes:
        for value in several(node.meta.get("val")) if node.op == "call_function" else ():
            if isinstance(value, Tensor) and (
                not trace.batched or any(isinstance(n, torch.SymInt) for n in value.shape)
            ):
                total += 4 * math.prod(number(n) for n in value.shape)
    if not trace.batched:
        return total
    example = next((len(x) for x in trace.args + tuple(trace.kwargs.values()) if isinstance(x, Tensor) and x.dim()), 1)
    return total // max(1, example * trace.copies)
