"""The engine of a Ray cluster: each worker is an actor on some node; one that is lost, alone or with its node, is replaced."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import threading
import time
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from nas.engines.contract import Job, Make, Place, Workers
from nas.engines.pool import TO_END, Lost, Member, Pool, at_work
from nas.engines.worker import Raised, packed
from pruners.progress import silent

PATIENCE = 60.0
"""Seconds after which a cluster that has no room for any worker is named."""
REACHED = 10.0
"""Seconds in which the head of a cluster must answer."""
LOCAL = "local"
"""What Ray calls a new cluster of this machine."""


class Actor:
    """What Ray keeps alive on a node: the state of a worker.

    All that it says, also of errors, are bytes: an error of Ray's is the loss of an actor.
    """

    def make(self, made: bytes, place: Place) -> bytes:
        """Make the state."""
        torch.set_num_threads(place.threads)
        try:
            self._state = pickle.loads(made)(place)
        except Exception as error:
            return packed(Raised(error))
        return packed(None)

    def do(self, job: Job) -> bytes:
        """Do a job."""
        try:
            value: Any = getattr(self._state, job.call)(*job.args, progress=silent)
        except Exception as error:
            value = Raised(error)
        return packed(value)


@dataclass(eq=False, kw_only=True)
class Worker(Member):
    """An actor, and what it was last asked for, if it has not answered yet."""

    actor: Any
    asked: Any


class Cluster(Pool[Worker]):
    """Workers on the nodes of a cluster. What makes their state stands once in its object store.

    Args:
        make: gives each its state.
        count: how many.
        threads: of each, which are as many CPUs of the cluster.
        gpus: of each.

    Raises:
        ValueError: `make` cannot be sent to another machine.
    """

    advice = "all nodes need this version of nas-toolkit and what it imports; Ray's logs tell more"

    def __init__(self, make: Make, count: int, threads: int, gpus: float) -> None:
        import ray
        from ray import cloudpickle

        super().__init__(count)
        self._ray, self._threads = ray, threads
        try:
            self._make = ray.put(cloudpickle.dumps(make))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ValueError(
                f"what workers on other machines need must be picklable, got {error}; name functions as module:function, or use "
                "`engine` this-process"
            ) from error
        self._actors: Any = ray.remote(num_cpus=threads, num_gpus=gpus, max_restarts=0)(Actor)
        self._begun = time.monotonic()
        self._warned = False

    def close(self, at_once: bool) -> None:
        """End the workers; those that are busy, or do not end, are killed."""
        idle = [] if at_once else [worker for worker in self._workers if worker.ready and worker.job is None]
        if ends := [worker.actor.__ray_terminate__.remote() for worker in idle]:
            self._ray.wait(ends, num_returns=len(ends), timeout=TO_END)
        for worker in self._workers:
            self._end(worker)

    def _start(self, number: int) -> Worker:
        actor = self._actors.remote()
        return Worker(
            number, actor=actor, asked=actor.make.remote(self._make, Place(number, self.count, self._threads))
        )

    def _wait(self, seconds: float | None) -> Collection[Worker]:
        asked = {worker.asked: worker for worker in self._workers if worker.asked is not None}
        if not self._warned and not any(worker.ready for worker in self._workers):
            seconds = min(PATIENCE, PATIENCE if seconds is None else seconds)
        found, _ = self._ray.wait(list(asked), timeout=seconds)
        if found:
            found, _ = self._ray.wait(list(asked), num_returns=len(asked), timeout=0)
        elif not self._warned and time.monotonic() - self._begun > PATIENCE:
            self._warned = True
            warnings.warn(
                f"no worker could start on the cluster in {PATIENCE:g} s; `ray status` there says what is lacking, and the run goes on "
                "as soon as there is room",
                stacklevel=2,
            )
        return [asked[each] for each in found]

    def _read(self, worker: Worker) -> Any:
        asked, worker.asked = worker.asked, None
        try:
            return pickle.loads(self._ray.get(asked))
        except self._ray.exceptions.RayError as error:
            raise Lost(f"the loss of its process or node ({type(error).__name__})") from error

    def _give(self, worker: Worker, job: Job) -> bool:
        worker.asked = worker.actor.do.remote(job)
        return True

    def _end(self, worker: Worker) -> None:
        self._ray.kill(worker.actor)


@contextmanager
def ray_cluster(
    make: Make, parallel: int | None, threads: int, address: str | None, gpus: float | None
) -> Iterator[Workers]:
    """Work on a cluster, in as many actors as have room where `parallel` is not given; they end when the body ends, however it does."""
    with _connected(address, parallel):
        count = parallel or _room(threads, gpus or 0)
        with at_work(Cluster(make, count, threads, gpus or 0)) as workers:
            yield workers


@contextmanager
def _connected(address: str | None, cpus: int | None) -> Iterator[None]:
    """Be part of a cluster: of the one that this process is part of, one at an address, or a new one here, which ends with the body.

    Raises:
        ValueError: no cluster is there.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or LOCAL
    main = threading.current_thread() is threading.main_thread()
    terminated = signal.getsignal(signal.SIGTERM)
    try:
        host, _, port = address.rpartition(":")
        if host and "/" not in host:  # Ray itself takes minutes to give up
            socket.create_connection((host, int(port)), REACHED).close()
        ray.init(
            address,
            num_cpus=cpus if address == LOCAL else None,
            include_dashboard=False if address == LOCAL else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (OSError, ValueError, RuntimeError, ImportError, ray.exceptions.RayError) as error:
        raise ValueError(
            f"no Ray cluster could be reached at `address` {address} ({str(error).partition(chr(10))[0]}); start one by "
            "`ray start --head`, or leave it out for one of this machine"
        ) from error
    finally:
        if main:  # Ray has put its own handler there
            signal.signal(signal.SIGTERM, terminated)
    try:
        yield
    finally:
        ray.shutdown()


def _room(threads: int, gpus: float) -> int:
    """Workers that a cluster has room for.

    Raises:
        ValueError: none.
    """
    import ray

    found = 0
    for node in ray.nodes():
        if node["Alive"]:
            there = node["Resources"]
            found += int(
                min(there.get("CPU", 0) // threads, there.get("GPU", 0) // gpus if gpus else there.get("CPU", 0))
            )
    if not found:
        raise ValueError(
            f"no node of the cluster has {threads} CPU and {gpus:g} GPUs for a worker; give `parallel` where nodes are yet to come"
        )
    return found
