"""How a command is stopped: Ctrl-C and SIGTERM raise `Stopped`, but never in the middle of a step or of a file's change of place.

Where no command runs, as in a program that calls the library, signals do what that program wants.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """A signal has ended the command.

    Attributes:
        number: of the signal.
        further: how to go on, a sentence; empty where nothing is kept.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
        self.further = ""

    @property
    def code(self) -> int:
        """The exit status: 130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + self.number

    def __str__(self) -> str:
        return " ".join(filter(None, ("Stopped.", self.further)))


_holding = 0
_waiting: int | None = None


@contextmanager
def held() -> Iterator[None]:
    """Let a signal wait until the body is done."""
    global _holding, _waiting
    _holding += 1
    try:
        yield
    finally:
        _holding -= 1
        if not _holding and _waiting is not None:
            number, _waiting = _waiting, None
            signal.raise_signal(number)


@contextmanager
def going_on(further: str) -> Iterator[None]:
    """Let a stop of the body say how to go on."""
    try:
        yield
    except Stopped as stop:
        stop.further = further
        raise


def stop_at_once() -> None:
    """Let signals end the process with one line: while it imports, there is nothing to clean up."""
    _handle(_leave)


@contextmanager
def raised() -> Iterator[None]:
    """Let signals raise `Stopped` meanwhile."""
    before = _handle(_raise)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _handle(handler: Callable[[int, FrameType | None], Any]) -> dict[int, Any]:
    """Set a handler where a signal is not ignored, as Ctrl-C is in the background; returns those before."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    heeded: dict[int, Any] = {number: was for number, was in before.items() if was not in (signal.SIG_IGN, None)}
    for number in heeded:
        signal.signal(number, handler)
    return heeded


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    stop = Stopped(number)
    os.write(2, f"{stop}\n".encode())
    os._exit(stop.code)


def _raise(number: int, frame: FrameType | None) -> None:
    global _waiting
    if _holding:
        _waiting = number
        return
    raise Stopped(number)
