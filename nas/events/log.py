"""The log of a session: what happens becomes events, few enough to be cheap, and goes to each writer."""

from __future__ import annotations

import os
import platform
import shutil
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from nas.events.event import MAIN, Event, make_event
from nas.events.file import FILE
from nas.events.front import FrontSoFar
from nas.events.writers import ALWAYS, LOGS, Writer
from nas.objectives import Objective
from pruners.progress import Progress
from search_spaces.core import first_line

EVERY = 1.0
"""Seconds between two events of the progress of one step, and between two of the front."""
SHARE = 0.02
"""Of the time, at most, goes into computing the front."""
RATE = 20.0
"""Finished trials a second that have an event each; of more, the last of each batch have one."""
BURST = 64.0
"""Trials that have an event each however fast they come, after a pause."""


class Outcome(Protocol):
    """A trial that is over: values, None where it failed, and notes."""

    @property
    def values(self) -> list[float] | None: ...

    @property
    def user_attrs(self) -> dict[str, Any]: ...


class Log:
    """Turns what happens in a session into events. A writer that raises is left out, with a warning.

    Writers are made with the first event.

    Args:
        folder: the run folder; None writes nothing.
        names: writers beside the event file, see `LOGS`.
        settings: the run's, by name.
        objectives: of its trials.
    """

    def __init__(
        self,
        folder: Path | None,
        names: Sequence[str] = (),
        settings: Mapping[str, Any] | None = None,
        objectives: Sequence[Objective] = (),
    ) -> None:
        self._folder, self._settings, self._objectives = folder, settings or {}, objectives
        self._unmade = [] if folder is None else list(dict.fromkeys([ALWAYS, *names]))
        self._writers: dict[str, Writer] = {}
        self._held: list[Event] = []
        self._started = time.monotonic()
        self._steps: dict[str, tuple[float, bool]] = {}
        self._front = FrontSoFar(objectives)
        self._count = {"trials": 0, "failed": 0, "alone": 0}
        self._next_front, self._told_of = 0.0, 0
        self._allowance, self._asked = BURST, self._started

    def write(self, kind: str, figures: Mapping[str, Any] | None = None, *, worker: str = MAIN, **about: Any) -> None:
        """Write one event.

        Args:
            kind: what happened.
            figures: numbers by name.
            worker: who tells.
            about: what else is said, in words.
        """
        if self._folder is not None:
            self._send([self._event(kind, figures or {}, worker, about)])

    def listening(self, progress: Progress) -> Progress:
        """A listener that also writes how far each step is: where it starts and ends, and every second."""
        if self._folder is None:
            return progress

        def listen(step: str, done: float, total: float) -> None:
            progress(step, done, total)
            now = time.monotonic()
            at, over = self._steps.get(step, (-EVERY, False))
            if step not in self._steps or now - at >= EVERY or (done >= total and not over):
                self._steps[step] = now, done >= total
                self.write("progress", {"done": round(done, 3), "total": total}, step=step)

        return listen

    def known(self, trials: Iterable[Outcome], alone: int) -> None:
        """Count trials and networks of earlier sessions."""
        if self._folder is not None:
            for trial in trials:
                self._take(trial)
            self._count["alone"] += alone

    def trials(self, trials: Sequence[Outcome]) -> None:
        """Write of trials that ended together, by one write, and of the front. Every failure is written."""
        if self._folder is None or not trials:
            return
        finished = sum(trial.values is not None for trial in trials)
        left_out = finished - self._allowed(finished)
        events = []
        for trial in trials:
            self._take(trial)
            notes = trial.user_attrs
            figures = {"number": self._count["trials"], "seconds": notes.get("seconds", 0.0)}
            about = {"label": notes["label"]}
            if trial.values is None:
                about["reason"] = str(notes.get("reason"))
            elif left_out:
                left_out -= 1
                continue
            else:
                figures |= _named(self._objectives, trial.values)
            kind = "trial failed" if trial.values is None else "trial"
            events.append(self._event(kind, figures, notes.get("worker", MAIN), about))
        events += self._of_front()
        if events:
            self._send(events)

    def alone(self, trials: Sequence[Outcome], metrics: Sequence[Objective]) -> None:
        """Write of networks that were trained alone."""
        for trial in trials:
            self._count["alone"] += 1
            notes = trial.user_attrs
            about, worker = {"label": notes["label"], "seed": notes["seed"]}, notes.get("worker", MAIN)
            figures = {"number": self._count["alone"], "seconds": notes["seconds"]}
            if trial.values is None:
                self.write("alone failed", figures, worker=worker, **about, reason=str(notes.get("reason")))
            else:
                self.write("alone", figures | _named(metrics, trial.values), worker=worker, **about)

    def epochs(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Write the last epoch of a history."""
        if self._folder is not None:
            self._send([self._event("epoch", row, MAIN, {}) for row in rows if row["epoch"] == rows[-1]["epoch"]])

    def start(self, command: str) -> None:
        """The session starts. Nothing is written before something happens in it where there is no folder yet."""
        objectives = [asdict(one) for one in self._objectives]
        about = {"command": command, "pid": os.getpid(), "host": platform.node()}
        about |= {
            "objectives": [{name: one[name] for name in ("name", "unit", "higher_is_better")} for one in objectives]
        }
        self._held = [self._event("session started", self._count, MAIN, about)]
        if self._folder is not None and self._folder.is_dir():
            self._send(self._of_front(now=True))

    def end(self, how: str, reason: str | None = None) -> None:
        """The session ends: `finished`, `stopped` or `failed`."""
        if self._held:
            return
        about = {"how": how, **({} if reason is None else {"reason": reason})}
        self._send([*self._of_front(now=True), self._event("session ended", self._count, MAIN, about)])
        self._close(how, list(self._writers))

    def move(self, folder: Path) -> None:
        """Copy what was written to a folder that takes the place of this one; only the event file is written to afterwards."""
        if self._folder is None:
            return
        self._close("finished", [name for name in self._writers if name != ALWAYS])
        for path in left_by_logs(self._folder):
            copy = shutil.copytree if path.is_dir() else shutil.copy2
            copy(path, folder / path.name)

    # --- inside ---

    def _event(self, kind: str, figures: Mapping[str, Any], worker: str, about: Mapping[str, Any]) -> Event:
        return make_event(kind, time.monotonic() - self._started, worker, about, figures)

    def _send(self, events: Sequence[Event]) -> None:
        events, self._held = [*self._held, *events], []
        assert self._folder is not None
        made, self._unmade = self._unmade, []
        for name in made:
            with self._left_out_if_it_fails(name):
                self._writers[name] = LOGS[name].make(self._folder, self._settings)
        for name, writer in list(self._writers.items()):
            with self._left_out_if_it_fails(name):
                writer.write(events)

    def _close(self, how: str, names: Sequence[str]) -> None:
        for name in names:
            with self._left_out_if_it_fails(name):
                self._writers.pop(name).close(how)

    @contextmanager
    def _left_out_if_it_fails(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a log is never worth a search
            self._writers.pop(name, None)
            warnings.warn(
                f"log {name} is left out from here on ({type(error).__name__}: {first_line(error)}); all else goes on",
                stacklevel=2,
            )

    def _take(self, trial: Outcome) -> None:
        self._count["trials"] += 1
        if trial.values is None:
            self._count["failed"] += 1
        else:
            self._front.add(trial.values)

    def _allowed(self, wanted: int) -> int:
        """How many of the trials that ended now have an event."""
        now = time.monotonic()
        self._allowance = min(BURST, self._allowance + RATE * (now - self._asked))
        self._asked = now
        allowed = min(wanted, int(self._allowance))
        self._allowance -= allowed
        return allowed

    def _of_front(self, now: bool = False) -> list[Event]:
        """An event of the front, if it is due and there are trials that no event knew of."""
        begun = time.monotonic()
        if self._count["trials"] == self._told_of or (begun < self._next_front and not now):
            return []
        self._told_of = self._count["trials"]
        figures = {"trials": self._told_of, "failed": self._count["failed"], **self._front.figures()}
        ended = time.monotonic()
        self._next_front = ended + max(EVERY, (ended - begun) / SHARE)
        return [self._event("front", figures, MAIN, {})]


SILENT = Log(None)
"""Writes nothing."""


@contextmanager
def logged(
    folder: Path | None,
    names: Sequence[str],
    settings: Mapping[str, Any],
    command: str,
    *,
    objectives: Sequence[Objective] = (),
    known: Iterable[Outcome] = (),
    alone: int = 0,
) -> Iterator[Log]:
    """The log of a session, which ends as the body does; see `Log`.

    Args:
        folder: the run folder; None writes nothing.
        names: writers beside the event file.
        settings: the run's, by name.
        command: what the session was started by.
        objectives: of its trials.
        known: trials of earlier sessions.
        alone: how many networks earlier sessions trained alone.
    """
    log = Log(folder, names, settings, objectives)
    log.known(known, alone)
    log.start(command)
    try:
        yield log
    except BaseException as error:
        how = "failed" if isinstance(error, Exception) else "stopped"
        log.end(how, f"{type(error).__name__}: {first_line(error)}" if how == "failed" else None)
        raise
    log.end("finished")


def left_by_logs(folder: Path) -> list[Path]:
    """What writers left in a folder; nothing where there is no event file, as what is there is not theirs."""
    paths = [folder / name for entry in LOGS.values() for name in entry.files]
    return [path for path in paths if path.exists()] if (folder / FILE).exists() else []


def clear(folder: Path) -> None:
    """Remove what writers left in a folder."""
    for path in left_by_logs(folder):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _named(objectives: Sequence[Objective], values: Sequence[float]) -> dict[str, float]:
    return {objective.name: value for objective, value in zip(objectives, values, strict=True)}
