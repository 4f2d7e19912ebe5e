"""What every engine keeps: jobs go in, results come out as they finish, and failures are results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

NOTHING = "no job was handed in that is not over"


class Place(NamedTuple):
    """Where a worker stands: its number, how many there are, and how many threads each may use."""

    number: int
    workers: int
    threads: int


Make = Callable[[Place], Any]
"""Gives a worker the state that its jobs share, such as a supernet and data; called once in each. Other processes get it pickled."""


class Job(NamedTuple):
    """A method of a worker's state and what it is called with; where it takes longer than `seconds`, it has failed.

    The method also gets the keyword `progress`, to tell how far it is.
    """

    call: str
    args: tuple[Any, ...] = ()
    seconds: float | None = None


class Result(NamedTuple):
    """What became of a job.

    Attributes:
        job: the number that `submit` gave it.
        value: what the method returned; None where it failed.
        error: what it raised, `Late`, or `Died`; None where it did not fail.
        worker: the number of the worker.
        started: when, in UTC by ISO 8601.
        seconds: how long it took.
    """

    job: int
    value: Any
    error: Exception | None
    worker: int
    started: str
    seconds: float

    @property
    def origin(self) -> dict[str, str]:
        """The worker and when it began, as notes of a trial."""
        return {"worker": str(self.worker), "started": self.started}


class Late(Exception):
    """A job took longer than it may."""


class Died(Exception):
    """A worker ended in the middle of a job, twice."""


Told = Callable[[int, float], None]
"""Told the number of a job, and how much of it is done, from 0 to 1."""


def unheard(job: int, done: float) -> None:
    """For whoever does not want to know."""


class Workers(Protocol):
    """An engine at work.

    Attributes:
        count: jobs that run at the same time.
    """

    count: int

    def submit(self, job: Job) -> int:
        """Hand in a job; returns its number."""

    def next(self, told: Told = unheard) -> Result:
        """The next job that is over, in any order; waits for it, and tells meanwhile how far others are.

        Raises:
            LookupError: no job was handed in that is not over.
        """


def results(
    workers: Workers, jobs: Iterable[Job], told: Callable[[float], None] | None = None
) -> Iterator[tuple[int, Result]]:
    """Hand in jobs, and give each result as it comes with the place of its job among them.

    Args:
        workers: an engine at work that has no other jobs.
        jobs: what to do.
        told: how many jobs are done, those that run in parts.
    """
    places = {workers.submit(job): place for place, job in enumerate(jobs)}
    parts: dict[int, float] = {}
    for over in range(len(places)):

        def inside(job: int, done: float, over: int = over) -> None:
            parts[job] = done
            if told is not None:
                told(over + sum(parts.values()))

        result = workers.next(inside)
        parts.pop(result.job, None)
        yield places[result.job], result


def now() -> str:
    """The time, in UTC by ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
