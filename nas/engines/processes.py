"""The engine of local processes: each has its share of the threads; one that dies or hangs is replaced, and its job done again."""

from __future__ import annotations

import pickle
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext
from multiprocessing.process import BaseProcess
from typing import Any

from nas.engines.contract import Job, Make, Place, Workers
from nas.engines.pool import TO_END, Lost, Member, Pool, at_work
from nas.engines.worker import work


@dataclass(eq=False, kw_only=True)
class Worker(Member):
    """A process, and the pipe to it."""

    process: BaseProcess
    pipe: Connection


class Processes(Pool[Worker]):
    """Workers in processes of their own, each with a pipe, so that the end of one leaves the others alone.

    Args:
        make: gives each its state; it has to be picklable.
        count: how many.
        threads: of each.

    Raises:
        ValueError: `make` cannot be sent to another process.
    """

    advice = 'in a script, call this below `if __name__ == "__main__":`, and see what they printed'

    def __init__(self, make: Make, count: int, threads: int) -> None:
        super().__init__(count)
        self._threads = threads
        self._context = _context(make)
        try:
            self._make = pickle.dumps(make)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ValueError(
                f"what worker processes need must be picklable, got {error}; name functions as module:function, or use `engine` "
                "this-process"
            ) from error

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
        return Worker(number, process=process, pipe=ours)

    def _wait(self, seconds: float | None) -> Collection[Worker]:
        ends = [each for worker in self._workers for each in (worker.pipe, worker.process.sentinel)]
        found = set(wait(ends, seconds))
        return [worker for worker in self._workers if worker.pipe in found or worker.process.sentinel in found]

    def _read(self, worker: Worker) -> Any:
        try:
            return worker.pipe.recv()
        except (EOFError, ConnectionResetError):
            worker.process.join()
            code = worker.process.exitcode
            raise Lost(f"signal {-code}" if code is not None and code < 0 else f"exit code {code}") from None

    def _give(self, worker: Worker, job: Job) -> bool:
        try:
            worker.pipe.send(job)
        except (BrokenPipeError, ConnectionResetError):  # its death is looked at in its turn
            return False
        return True

    def _end(self, worker: Worker) -> None:
        worker.process.kill()
        worker.process.join()
        worker.process.close()
        worker.pipe.close()


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
    with at_work(Processes(make, count, threads)) as workers:
        yield workers
