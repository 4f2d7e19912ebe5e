"""The engine of this process: one job after another, each when its result is asked for."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nas.engines.contract import NOTHING, Job, Make, Place, Result, Told, Workers, now, unheard
from nas.engines.limit import limited


class Here:
    """Does jobs in the order they were handed in."""

    count = 1

    def __init__(self, state: Any) -> None:
        self._state = state
        self._waiting: deque[tuple[int, Job]] = deque()
        self._jobs = 0

    def submit(self, job: Job) -> int:
        self._waiting.append((self._jobs, job))
        self._jobs += 1
        return self._jobs - 1

    def next(self, told: Told = unheard) -> Result:
        if not self._waiting:
            raise LookupError(NOTHING)
        number, job = self._waiting.popleft()
        started, clock = now(), time.perf_counter()
        value, error = None, None

        def progress(step: str, done: float, total: float) -> None:
            told(number, done / total if total else 1.0)

        try:
            with limited(job.seconds):
                value = getattr(self._state, job.call)(*job.args, progress=progress)
        except Exception as raised:
            error = raised
        return Result(number, value, error, 0, started, round(time.perf_counter() - clock, 4))


@contextmanager
def this_process(make: Make, count: int, threads: int) -> Iterator[Workers]:
    """Work here; `count` is 1."""
    yield Here(make(Place(0, 1, threads)))
