"""A bound on the seconds that something takes in this process."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from nas.engines.contract import Late

AGAIN = 1.0
"""Seconds after which what swallowed `Late` is told again."""


def can_limit() -> bool:
    """Whether `limited` works here: in the main thread of a system that has timers."""
    return hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()


@contextmanager
def limited(seconds: float | None) -> Iterator[None]:
    """Raise `Late` in the middle of what takes longer than `seconds`; a call of compiled code that hangs is not ended.

    Raises:
        ValueError: there is no timer here.
    """
    if seconds is None:
        yield
        return
    if not can_limit():
        raise ValueError("`trial_seconds` needs the main thread of a system with timers; use `engine` processes")

    def late(number: int, frame: FrameType | None) -> None:
        raise Late(f"it took longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, late)
    started = time.monotonic()
    left, again = signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if left:  # a timer of somebody else goes on
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - started), 1e-3), again)
