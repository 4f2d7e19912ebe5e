"""A state of workers whose jobs do what they are told, also badly. Worker processes import it from here."""

from __future__ import annotations

import os
import time
from pathlib import Path

from nas.engines import Place
from pruners.progress import Progress
from search_spaces import Architecture


class State:
    def __init__(self, place: Place) -> None:
        self.place, self.jobs = place, 0

    def square(self, x: int, *, progress: Progress) -> tuple[int, int]:
        self.jobs += 1
        return x * x, self.jobs

    def steps(self, *, progress: Progress) -> None:
        for step in range(4):
            progress("step", step + 1, 4)
            time.sleep(0.3)

    def fail(self, *, progress: Progress) -> None:
        raise ValueError("no luck")

    def hang(self, *, progress: Progress) -> None:
        while True:
            try:
                time.sleep(60)
            except Exception:  # whatever is raised in the middle of it
                continue

    def sleep(self, *, progress: Progress) -> None:
        time.sleep(60)

    def die(self, *, progress: Progress) -> None:
        os._exit(3)

    def die_once(self, mark: str, *, progress: Progress) -> str:
        if not Path(mark).exists():
            Path(mark).touch()
            os._exit(3)
        return "done"

    def unsendable(self, *, progress: Progress) -> object:
        return lambda: None


def cannot_be_made(place: Place) -> State:
    raise ValueError("no data there")


def dies_at_once(place: Place) -> State:
    os._exit(7)


def by_number(arch: Architecture) -> float:
    """Fails for some, hangs for one of eleven, ends its process for another."""
    number = sum(arch.key.encode())
    if number % 11 == 0:
        time.sleep(60)
    if number % 11 == 1:
        os._exit(9)
    if number % 5 == 0:
        raise RuntimeError(f"no luck with {number}")
    return float(number % 17)


def well(arch: Architecture) -> float:
    number = sum(arch.key.encode())
    if number % 5 == 0:
        raise RuntimeError(f"no luck with {number}")
    return float(number % 17)
