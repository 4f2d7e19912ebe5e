"""The loop of a worker process."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

import torch

from nas.engines.contract import Make, Place
from pruners.progress import Progress

EVERY = 0.5
"""Seconds between two words of how far a job is."""


class Raised(NamedTuple):
    """What a worker sends in place of a value."""

    error: Exception


class Part(NamedTuple):
    """What a worker sends before a value: how much of its job is done, from 0 to 1."""

    done: float


def packed(value: Any) -> bytes:
    """A value, or why it cannot be sent."""
    try:
        data = pickle.dumps(value)
        if isinstance(value, Raised):  # an exception of several arguments may be written and not be read
            pickle.loads(data)
    except Exception as error:
        said = value.error if isinstance(value, Raised) else error
        data = pickle.dumps(Raised(RuntimeError(f"{type(said).__name__}: {said}")))
    return data


def work(pipe: Connection, made: bytes, place: Place) -> None:
    """Make the state, say so, and do jobs until the pipe closes. Ctrl-C is the parent's; when that dies, so does the worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(place.threads)
    try:
        make: Make = pickle.loads(made)
        state = make(place)
    except Exception as error:
        _send(pipe, Raised(error))
        return
    _send(pipe, None)
    while True:
        try:
            job = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            value: Any = getattr(state, job.call)(*job.args, progress=_telling(pipe))
        except Exception as error:
            value = Raised(error)
        _send(pipe, value)


def _telling(pipe: Connection) -> Progress:
    """Tells the parent now and then."""
    last = time.monotonic()

    def progress(step: str, done: float, total: float) -> None:
        nonlocal last
        if time.monotonic() - last > EVERY:
            last = time.monotonic()
            pipe.send(Part(done / total if total else 1.0))

    return progress


def _send(pipe: Connection, value: Any) -> None:
    pipe.send_bytes(packed(value))


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
