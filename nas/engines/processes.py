"""The engine of local processes: each has its share of the threads; one that dies or hangs is replaced, and its job done again."""

from __future__ import annotations

import pickle
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext
from multiprocessing.process import BaseProcess
from typing import Any

from nas.engines.contract import NOTHING, Died, Job, Late, Make, Place, Result, Told, Workers, now, unheard
from nas.engines.worker import Part, Raised, work

TRIES = 2
"""How often a job is tried whose worker dies."""
STARTS = 3
"""How often in a row workers may die before they have done a job."""
TO_END = 5.0
"""Seconds that an idle worker is given to end by itself."""


@dataclass
class Worker:
    """A process, the pipe to it, and what it does.

    Attributes:
        job: the number of the job that it has; None while it starts or waits.
        ready: whether it has its state.
        begun: when its job began, on the clock that never jumps.
    """

    process: BaseProcess
    pipe: Connection
    number: int
    job: int | None = None
    ready: bool = False
    begun: float = 0.0
    started: str = ""


class Processes:
    """Workers in processes of their own, each with a pipe, so that the end of one leaves the others alone.

    Args:
        make: gives each its state; it has to be picklable.
        count: how many.
        threads: of each.

    Raises:
        ValueError: `make` cannot be sent to another process.
    """

    def __init__(self, make: Make, count: int, threads: int) -> None:
        self.count, self._threads = count, threads
        self._context = _context(make)
        try:
            self._make = pickle.dumps(make)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ValueError(
                f"what worker processes need must be picklable, got {error}; name functions as module:function, or use `engine` "
                "this-process"
            ) from error
        self._waiting: deque[int] = deque()
        self._jobs: dict[int, Job] = {}
        self._tries: dict[int, int] = {}
        self._over: deque[Result] = deque()
        self._handed_in = 0
        self._dead_in_a_row = 0
        self._workers: list[Worker] = []  # start when there is something to do

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

    def close(self, at_once: bool) -> None:
        """End the workers; those that are busy, or do not end, are killed."""
        for worker in self._workers:
            if at_once or worker.job is not None or not worker.ready:
                worker.process.kill()
            else:
                worker.pipe.close()
        until = time.monotonic() + TO_END
        for worker in self._workers:
            worker.process.join(max(until - time.monotonic(), 0))
            if worker.process.is_alive():
                worker.process.kill()
            worker.process.join()
            worker.process.close()
            worker.pipe.close()

    def _start(self, number: int) -> Worker:
        ours, theirs = self._context.Pipe()
        place = Place(number, self.count, self._threads)
        process = self._context.Process(
            target=work, args=(theirs, self._make, place), name=f"worker {number}", daemon=True
        )
        process.start()
        theirs.close()
        return Worker(process, ours, number)

    def _hand_out(self) -> None:
        for worker in self._workers:
            if worker.ready and worker.job is None and self._waiting:
                job = self._waiting.popleft()
                try:
                    worker.pipe.send(self._jobs[job])
                except (BrokenPipeError, ConnectionResetError):  # its death is looked at in its turn
                    self._waiting.appendleft(job)
                    continue
                worker.job, worker.begun, worker.started = job, time.monotonic(), now()

    def _look(self, told: Told) -> None:
        """Wait until a worker says something, dies, or is late."""
        found = wait(
            [each for worker in self._workers for each in (worker.pipe, worker.process.sentinel)], self._left()
        )
        for place, worker in enumerate(self._workers):
            said = worker.pipe in found or worker.process.sentinel in found
            lives = self._hear(worker, told) if said else not self._is_late(worker)
            if not lives:
                worker.process.join()
                worker.process.close()
                worker.pipe.close()
                self._workers[place] = self._start(worker.number)
        self._hand_out()

    def _hear(self, worker: Worker, told: Told) -> bool:
        """Take what a worker says; whether it lives."""
        try:
            said = worker.pipe.recv()
        except (EOFError, ConnectionResetError):
            self._lose(worker)
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

    def _finish(self, worker: Worker, value: Any, error: Exception | None) -> None:
        assert worker.job is not None
        seconds = round(time.monotonic() - worker.begun, 4)
        self._over.append(Result(worker.job, value, error, worker.number, worker.started, seconds))
        del self._jobs[worker.job]
        self._tries.pop(worker.job, None)
        worker.job = None
        self._dead_in_a_row = 0

    def _lose(self, worker: Worker) -> None:
        """A worker has died: its job is done again, or has failed."""
        worker.process.join()
        code, job = worker.process.exitcode, worker.job
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        if job is None:
            self._dead_in_a_row += 1
            if self._dead_in_a_row == STARTS:
                raise Died(
                    f"{STARTS} workers in a row ended by {how} before they had done anything; in a script, call this below "
                    '`if __name__ == "__main__":`, and see what they printed'
                )
            return
        self._tries[job] = self._tries.get(job, 0) + 1
        if self._tries[job] < TRIES:
            self._waiting.appendleft(job)
        else:
            died = Died(f"its worker was ended by {how}, {TRIES} times, as by the system where memory runs out")
            self._finish(worker, None, died)

    def _is_late(self, worker: Worker) -> bool:
        """End a worker that has had its job for too long."""
        if worker.job is None or (seconds := self._jobs[worker.job].seconds) is None:
            return False
        if time.monotonic() - worker.begun < seconds:
            return False
        worker.process.kill()
        self._finish(worker, None, Late(f"it took longer than {seconds:g} s"))
        return True

    def _left(self) -> float | None:
        """Seconds until the first worker is late."""
        ends = [
            worker.begun + seconds
            for worker in self._workers
            if worker.job is not None and (seconds := self._jobs[worker.job].seconds) is not None
        ]
        return max(min(ends) - time.monotonic(), 0) if ends else None


def _context(make: Make) -> SpawnContext:
    """How processes start: never as a fork of this one, whose threads they would miss.

    On Linux they are forks of a server without threads, which has imported what makes their state, so that a new one is there at once.
    """
    if sys.platform != "linux":
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload([make.__module__])
    return context  # type: ignore[return-value]  # a type that other systems lack


@contextmanager
def local_processes(make: Make, count: int, threads: int) -> Iterator[Workers]:
    """Work in `count` processes on this machine, which end when the body ends, however it does."""
    workers = Processes(make, count, threads)
    try:
        yield workers
    except BaseException:
        workers.close(at_once=True)
        raise
    workers.close(at_once=False)
