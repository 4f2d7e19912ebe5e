"""The engine of a Ray cluster: each worker is an actor on some node; one that is lost, with its node or alone, is replaced."""

from __future__ import annotations

import signal
import threading
import time
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from math import inf
from typing import Any

import torch

from nas.engines.contract import Job, Make, Place, Workers
from nas.engines.pool import TO_END, Lost, Member, Pool
from nas.engines.worker import Raised, packed
from pruners.progress import silent
from search_spaces.core import of_bytes

PATIENCE = 60.0
"""Seconds after which a cluster that has no room for any worker is named."""
LOCAL = "local"
"""What Ray calls a new cluster of this machine."""


class Actor:
    """What Ray keeps alive on a node: the state of a worker."""

    def make(self, made: bytes, place: Place) -> bytes:
        """Make the state. What is said comes as bytes, here and below, so that only the loss of an actor is an error of Ray's."""
        import ray.cloudpickle

        torch.set_num_threads(place.threads)
        try:
            self._state = ray.cloudpickle.loads(made)(place)
        except Exception as error:
            return packed(Raised(error))
        return packed(None)

    def do(self, job: Job) -> bytes:
        """Do a job."""
        try:
            return packed(getattr(self._state, job.call)(*job.args, progress=silent))
        except Exception as error:
            return packed(Raised(error))
