"""What the events of a run's last session come to."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import NamedTuple

from nas.events.event import Event, is_number
from nas.objectives import Objective

SHOWN = 5
"""Trials, failures and networks that are kept of each."""


class Phase(NamedTuple):
    """How far a step is: `done` of `total` at `last`, and at `first` when it was first told of, in seconds of the session."""

    done: float
    total: float
    last: float
    first: float
    already: float

    @property
    def left(self) -> float | None:
        """Seconds that it takes on, at its speed so far; None where that is not known."""
        came = self.done - self.already
        if self.done >= self.total or came <= 0:
            return 0.0 if self.done >= self.total else None
        return (self.last - self.first) / came * (self.total - self.done)


class Told(NamedTuple):
    """A trial, a failure or a network: what it is called, its figures, and why it failed."""

    label: str
    figures: dict[str, float]
    reason: str = ""


class Session:
    """Takes events one by one. Those of a kind that it does not know, or without what belongs to their kind, change nothing.

    Attributes:
        command: that started the session; None before there is one.
        at: when its last event was, UTC.
        seconds: from its start to that.
        objectives: of its trials, by name.
        phases: steps by name, in the order they began.
        epochs: the last epoch of each supernet, by its number.
        trials, failed: how many there are, of all sessions.
        front: figures of the front so far.
        last, failures, alone: the last trials, failed trials and networks trained alone.
        measured: what a pruned model was measured at, by when.
        exports: how many networks were exported.
        ended: how the session ended; None while it goes on.
        reason: why it failed.
    """

    def __init__(self) -> None:
        self.command: str | None = None
        self._begin({"seconds": 0.0}, {})

    def take(self, event: Event) -> None:
        """Change as an event says."""
        kind = event["kind"]
        numbers = {str(name): float(value) for name, value in event["figures"].items() if is_number(value)}
        with suppress(KeyError, TypeError, ValueError):
            if kind == "session started":
                self.command = str(event["command"])
                self._begin(event, numbers)
            elif kind in TAKEN:
                TAKEN[kind](self, event, numbers)
            self.at, self.seconds = str(event["time"]), float(event["seconds"])

    def _begin(self, event: Event, numbers: dict[str, float]) -> None:
        self.at, self.seconds = str(event.get("time", "")), float(event["seconds"])
        self.objectives = {
            str(one["name"]): Objective(str(one["name"]), str(one["unit"]), bool(one["higher_is_better"]))
            for one in event.get("objectives", [])
        }
        self.phases: dict[str, Phase] = {}
        self.epochs: dict[int, dict[str, float]] = {}
        self.trials, self.failed = int(numbers.get("trials", 0)), int(numbers.get("failed", 0))
        self.front: dict[str, float] = {}
        self.last: deque[Told] = deque(maxlen=SHOWN)
        self.failures: deque[Told] = deque(maxlen=SHOWN)
        self.alone: deque[Told] = deque(maxlen=SHOWN)
        self.measured: deque[Told] = deque(maxlen=SHOWN)
        self.exports = 0
        self.ended: str | None = None
        self.reason = ""

    def _progress(self, event: Event, numbers: dict[str, float]) -> None:
        step, now = str(event["step"]), float(event["seconds"])
        done, total, known = numbers["done"], numbers["total"], self.phases.get(step)
        if known is None or done < known.done:  # it starts, or starts again
            known = Phase(done, total, now, now, done)
        self.phases[step] = Phase(done, total, now, known.first, known.already)

    def _epoch(self, event: Event, numbers: dict[str, float]) -> None:
        self.epochs[int(numbers.get("supernet", 0))] = numbers

    def _trial(self, event: Event, numbers: dict[str, float]) -> None:
        self.trials = int(numbers["number"])
        self.last.append(Told(str(event["label"]), numbers))

    def _failure(self, event: Event, numbers: dict[str, float]) -> None:
        self.trials, self.failed = int(numbers["number"]), self.failed + 1
        self.failures.append(Told(str(event["label"]), numbers, str(event["reason"])))

    def _of_front(self, event: Event, numbers: dict[str, float]) -> None:
        self.trials, self.failed = int(numbers.pop("trials")), int(numbers.pop("failed"))
        self.front = numbers

    def _alone(self, event: Event, numbers: dict[str, float]) -> None:
        self.alone.append(Told(str(event["label"]), numbers))

    def _alone_failed(self, event: Event, numbers: dict[str, float]) -> None:
        self.failures.append(Told(str(event["label"]), numbers, str(event["reason"])))

    def _measured(self, event: Event, numbers: dict[str, float]) -> None:
        self.measured.append(Told(str(event["when"]), numbers))

    def _export(self, event: Event, numbers: dict[str, float]) -> None:
        self.exports += 1

    def _end(self, event: Event, numbers: dict[str, float]) -> None:
        self.ended, self.reason = str(event["how"]), str(event.get("reason", ""))


TAKEN = {
    "progress": Session._progress,
    "epoch": Session._epoch,
    "trial": Session._trial,
    "trial failed": Session._failure,
    "front": Session._of_front,
    "alone": Session._alone,
    "alone failed": Session._alone_failed,
    "measured": Session._measured,
    "export": Session._export,
    "session ended": Session._end,
}
"""What an event of each kind changes."""
