"""What engines of several workers share: jobs wait, go to whoever is free and come back; whoever dies or is late is replaced."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from nas.engines.contract import NOTHING, Died, Job, Late, Result, Told, now, unheard
from nas.engines.worker import Part, Raised

TRIES = 2
"""How often a job is tried whose worker dies."""
STARTS = 3
"""How often in a row workers may die before they have done a job; where there are more workers, as often as there are."""
TO_END = 5.0
"""Seconds that an idle worker is given to end by itself."""


class Lost(Exception):
    """A worker has ended by itself; says by what."""


@dataclass(eq=False)
class Member:
    """A worker, and what it does.

    Attributes:
        job: the number of the job that it has; None while it starts or waits.
        ready: whether it has its state.
        begun: when its job began, on the clock that never jumps.
    """

    number: int
    job: int | None = None
    ready: bool = False
    begun: float = 0.0
    started: str = ""


W = TypeVar("W", bound=Member)


class Pool(ABC, Generic[W]):
    """Workers that start when there is something to do, and the jobs that wait for them.

    Args:
        count: how many.
    """

    advice = ""
    """What may help where workers cannot start."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._waiting: deque[int] = deque()
        self._jobs: dict[int, Job] = {}
        self._tries: dict[int, int] = {}
        self._over: deque[Result] = deque()
        self._handed_in = 0
        self._dead_in_a_row = 0
        self._workers: list[W] = []

    def submit(self, job: Job) -> int:
        if not self._workers:
            self._workers = [self._start(each) for each in range(self.count)]
        number, self._handed_in = self._handed_in, self._handed_in + 1
        self._jobs[number] = job
        self._waiting.append(number)
        self._hand_out()
        return number

    def next(self, told: Told = unheard) -> Result:
        if not self._jobs and not self._over:
            raise LookupError(NOTHING)
        while not self._over:
            self._look(told)
        return self._over.popleft()

    # --- what workers of a kind do ---

    @abstractmethod
    def close(self, at_once: bool) -> None:
        """End the workers; those that are busy, or do not end, are killed."""

    @abstractmethod
    def _start(self, number: int) -> W:
        """A new worker, which makes its state and says so."""

    @abstractmethod
    def _wait(self, seconds: float | None) -> Collection[W]:
        """Those that say something, or have ended; waits for the first of them for so long."""

    @abstractmethod
    def _read(self, worker: W) -> Any:
        """What it says: a value, `Raised`, or `Part`; raises `Lost` if it has ended."""

    @abstractmethod
    def _give(self, worker: W, job: Job) -> bool:
        """Give it a job; whether it took it, as one that has just ended does not."""

    @abstractmethod
    def _end(self, worker: W) -> None:
        """Kill it, if it has not ended, and let go of it."""

    # --- inside ---

    def _hand_out(self) -> None:
        for worker in self._workers:
            if not self._waiting:
                return
            if worker.ready and worker.job is None and self._give(worker, self._jobs[self._waiting[0]]):
                worker.job, worker.begun, worker.started = self._waiting.popleft(), time.monotonic(), now()

    def _look(self, told: Told) -> None:
        """Wait until a worker says something, dies, or is late."""
        found = set(self._wait(self._left()))
        for place, worker in enumerate(self._workers):
            if not (self._hear(worker, told) if worker in found else self._in_time(worker)):
                self._end(worker)
                self._workers[place] = self._start(worker.number)
        self._hand_out()

    def _hear(self, worker: W, told: Told) -> bool:
        """Take what a worker says; whether it lives."""
        try:
            said = self._read(worker)
        except Lost as lost:
            self._lose(worker, str(lost))
            return False
        if not worker.ready:
            if isinstance(said, Raised):
                raise said.error
            worker.ready = True
            return True
        assert worker.job is not None
        if isinstance(said, Part):
            told(worker.job, said.done)
            return True
        value, error = (None, said.error) if isinstance(said, Raised) else (said, None)
        self._finish(worker, value, error)
        return True

    def _finish(self, worker: W, value: Any, error: Exception | None) -> None:
        assert worker.job is not None
        seconds = round(time.monotonic() - worker.begun, 4)
        self._over.append(Result(worker.job, value, error, worker.number, worker.started, seconds))
        del self._jobs[worker.job]
        self._tries.pop(worker.job, None)
        worker.job = None
        self._dead_in_a_row = 0

    def _lose(self, worker: W, how: str) -> None:
        """A worker has died: its job is done again, or has failed."""
        job = worker.job
        if job is None:
            self._dead_in_a_row += 1
            if self._dead_in_a_row == max(STARTS, self.count):
                raise Died(
                    f"{self._dead_in_a_row} workers in a row ended by {how} before they had done anything; {self.advice}"
                )
            return
        self._tries[job] = self._tries.get(job, 0) + 1
        if self._tries[job] < TRIES:
            self._waiting.appendleft(job)
        else:
            died = Died(f"its worker was ended by {how}, {TRIES} times, as by the system where memory runs out")
            self._finish(worker, None, died)

    def _in_time(self, worker: W) -> bool:
        """Whether a worker may go on; the job of one that has had it for too long has failed."""
        if worker.job is None or (seconds := self._jobs[worker.job].seconds) is None:
            return True
        if time.monotonic() - worker.begun < seconds:
            return True
        self._finish(worker, None, Late(f"it took longer than {seconds:g} s"))
        return False

    def _left(self) -> float | None:
        """Seconds until the first worker is late."""
        ends = [
            worker.begun + seconds
            for worker in self._workers
            if worker.job is not None and (seconds := self._jobs[worker.job].seconds) is not None
        ]
        return max(min(ends) - time.monotonic(), 0) if ends else None


@contextmanager
def at_work(pool: Pool[W]) -> Iterator[Pool[W]]:
    """End the workers when the body ends: those that are busy at once, where it raises."""
    try:
        yield pool
    except BaseException:
        pool.close(at_once=True)
        raise
    pool.close(at_once=False)
