"""The engines by name, and the settings of where trials run."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from pydantic import field_validator, model_validator

from nas.engines.contract import Make, Workers
from nas.engines.here import this_process
from nas.engines.processes import local_processes
from search_spaces.core import Part, setting, unknown_name

MOST_PARALLEL = 4096


class EngineEntry(NamedTuple):
    """One engine.

    Attributes:
        help: where it runs jobs.
        needs: an extra, if any.
        elsewhere: whether workers are other processes.
        open: from what makes the state of a worker, the number of workers and the threads of each: the engine at work.
    """

    help: str
    needs: str
    elsewhere: bool
    open: Callable[[Make, int, int], AbstractContextManager[Workers]]


ENGINES: dict[str, EngineEntry] = {
    "this-process": EngineEntry("one after another, in the process that searches", "", False, this_process),
    "processes": EngineEntry(
        "in processes on this machine; one that dies or hangs is replaced", "", True, local_processes
    ),
}


class EngineConfig(Part):
    """Where trials run and networks are trained alone; it decides nothing of what they come to, but for `asynchronous`."""

    name: str | None = setting(
        None,
        name="engine",
        adjustable=True,
        help="Where trials run: see `nas list engines`.",
        otherwise="this-process, or processes where `parallel` is above 1",
    )
    parallel: int | None = setting(
        None,
        ge=1,
        le=MOST_PARALLEL,
        adjustable=True,
        help="Trials, or networks trained alone, at the same time.",
        otherwise="1, or with an engine of several workers the number of cores",
    )
    asynchronous: bool = setting(
        False,
        adjustable=True,
        help="Ask for the next trial as soon as a worker is free, not in generations: nobody waits, but trials depend on who is first.",
    )
    trial_seconds: float | None = setting(
        None, gt=0, adjustable=True, help="Seconds after which a trial has failed.", otherwise="no bound"
    )

    @field_validator("name")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None and name not in ENGINES:
            raise unknown_name("engine", name, ENGINES)
        return name

    @model_validator(mode="after")
    def _fits(self) -> EngineConfig:
        if not self.elsewhere and self.workers > 1:
            raise ValueError(
                f"`engine` {self.used} does one trial at a time, got `parallel` {self.parallel}; use processes"
            )
        return self

    @property
    def used(self) -> str:
        """The name of the engine, also where none is given."""
        return self.name or ("processes" if (self.parallel or 1) > 1 else "this-process")

    @property
    def elsewhere(self) -> bool:
        """Whether workers are other processes, which need what they work on sent to them."""
        return ENGINES[self.used].elsewhere

    @property
    def workers(self) -> int:
        """How many there are."""
        return self.parallel or (os.cpu_count() or 1 if self.elsewhere else 1)


def open_engine(config: EngineConfig, make: Make) -> AbstractContextManager[Workers]:
    """The workers of a run, for a `with` statement that ends them; this process's threads are shared among them.

    Raises:
        ValueError: `make` cannot be sent to another process.
    """
    threads = max(torch.get_num_threads() // config.workers, 1)
    return ENGINES[config.used].open(make, config.workers, threads)
