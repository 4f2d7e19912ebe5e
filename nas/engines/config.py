"""The engines by name, and the settings of where trials run."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib.util import find_spec
from typing import NamedTuple

import torch
from pydantic import field_validator, model_validator

from nas.engines.cluster import ray_cluster
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
        open: from what makes the state of a worker, and the settings: the engine at work.
        extra: that is to be installed.
        remote: whether workers may be on other machines, which do not see the files of this one.
    """

    help: str
    needs: str
    elsewhere: bool
    open: Callable[[Make, EngineConfig], AbstractContextManager[Workers]]
    extra: str | None = None
    remote: bool = False


ENGINES: dict[str, EngineEntry] = {
    "this-process": EngineEntry(
        "one after another, in the process that searches",
        "",
        False,
        lambda make, config: this_process(make, config.workers, config.threads),
    ),
    "processes": EngineEntry(
        "in processes on this machine; one that dies or hangs is replaced",
        "",
        True,
        lambda make, config: local_processes(make, config.workers, config.threads),
    ),
    "ray": EngineEntry(
        "on the nodes of a Ray cluster, which need not share a disk; one that is lost is replaced",
        "extra ray",
        True,
        lambda make, config: ray_cluster(make, config.parallel, 1, config.address, config.gpus),
        extra="ray",
        remote=True,
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
        otherwise="1, or with an engine of several workers the number of cores, of ray's cluster the CPUs",
    )
    address: str | None = setting(
        None,
        adjustable=True,
        help="Of the cluster of `engine` ray: auto for the one that runs here, or host:port.",
        otherwise="RAY_ADDRESS, or a cluster of this machine that ends with the run",
    )
    gpus: float | None = setting(
        None,
        gt=0,
        adjustable=True,
        help="GPUs, or a share such as 0.25, that each worker of `engine` ray keeps from others.",
        otherwise="none: workers of a node take turns on its GPUs",
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
        for name in ("address", "gpus"):
            if getattr(self, name) is not None and not ENGINES[self.used].remote:
                raise ValueError(f"`{name}` is for `engine` ray, got `engine` {self.used}; leave it out, or use ray")
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
    def remote(self) -> bool:
        """Whether workers may not see the files of this machine."""
        return ENGINES[self.used].remote

    @property
    def workers(self) -> int:
        """How many there are on this machine."""
        return self.parallel or (os.cpu_count() or 1 if self.elsewhere else 1)

    @property
    def threads(self) -> int:
        """Of each worker on this machine, which share those of this process."""
        return max(torch.get_num_threads() // self.workers, 1)

    def check(self) -> None:
        """Raises ValueError where the engine needs a package that is not there."""
        extra = ENGINES[self.used].extra
        if extra is not None and find_spec(extra) is None:
            raise ValueError(f"`engine` {self.used} needs a package: pip install 'nas-toolkit[{extra}]'")


def open_engine(config: EngineConfig, make: Make) -> AbstractContextManager[Workers]:
    """The workers of a run, for a `with` statement that ends them.

    Raises:
        ValueError: `make` cannot be sent to another process, or the engine's package or cluster is not there.
    """
    config.check()
    return ENGINES[config.used].open(make, config)
