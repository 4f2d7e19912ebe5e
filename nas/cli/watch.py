"""`nas watch`: how far a run is, from another shell."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nas.cli import terminal
from nas.events import Phase, Session, Tail, Told, parse
from nas.objectives import Objective
from nas.report import measured, si
from nas.study import is_held

EVERY = 0.5  # seconds between looks at the file
QUIET = 5.0  # seconds without an event after which the lock says whether the process lives
AGAIN = 10.0  # seconds between lines away from a terminal


def watch(
    folder: Annotated[Path, typer.Argument(help="A run folder, or one that is about to be made.", show_default=False)],
    once: Annotated[bool, typer.Option("--once", help="Show how far it is, and end.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Pass the lines of events.jsonl on as they come.")] = False,
) -> None:
    """Follow a run from another shell: steps with the time left, trials, failures, the front so far, and how it ended.

    It only reads, and ends with the run's session.

    Example: `nas watch runs/digits`
    """
    if once and not folder.is_dir():
        raise ValueError(f"{folder} is not there; give the --out of a run, or leave out --once to wait for it")
    run = Watched(folder)
    try:
        if json:
            for lines in [run.look()] if once else _looks(run):
                for line in lines:
                    terminal.show(line)
        elif once:
            run.look()
            for line in (*_lines(run), *_heard(run)):
                terminal.show(line)
        else:
            with _screen() as draw:
                for _ in _looks(run):
                    draw(run)
    except KeyboardInterrupt:
        terminal.say(f"Stopped watching; the run does not mind. Again with: nas watch {shlex.quote(str(folder))}")
        raise typer.Exit(130) from None


class Watched:
    """A run folder as its event file tells of it. `alive` is False where the process is gone that did not say how it ended."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.session, self.alive = folder, Session(), True
        self._tail = Tail(folder)

    def look(self) -> list[str]:
        """Take in the new lines of the event file, and return them."""
        lines = self._tail.lines()
        for line in lines:
            if (event := parse(line)) is not None:
                self.session.take(event)
        if self.session.command is not None and self.session.ended is None and self.quiet > QUIET:
            self.alive = is_held(self.folder) is not False
        return lines

    @property
    def over(self) -> bool:
        return self.session.ended is not None or not self.alive

    @property
    def quiet(self) -> float:
        """Seconds since the last event, by the clocks of both machines; 0 where its time cannot be read."""
        try:
            return (datetime.now(UTC) - datetime.fromisoformat(self.session.at)).total_seconds()
        except (ValueError, TypeError):
            return 0.0


def _looks(run: Watched) -> Iterator[list[str]]:
    """New lines, again and again until the session is over."""
    while True:
        yield run.look()
        if run.over:
            return
        time.sleep(EVERY)


@contextmanager
def _screen() -> Iterator[Callable[[Watched], None]]:
    """What draws a run: in place on a terminal, else by a line for each that changed, now and then."""
    if terminal.out.is_terminal:
        with Live(console=terminal.out, auto_refresh=False) as live:
            yield lambda run: live.update(_picture(run), refresh=True)
        return
    shown: list[str] = []
    last = -AGAIN

    def draw(run: Watched) -> None:
        nonlocal shown, last
        if run.over or time.monotonic() - last >= AGAIN:
            lines = _lines(run)
            for line in lines:
                if line not in shown:
                    terminal.show(line)
            shown, last = lines, time.monotonic()

    yield draw


def _picture(run: Watched) -> Group:
    bars = Table.grid(padding=(0, 2))
    for step, phase in run.session.phases.items():
        bar = ProgressBar(total=max(phase.total, 1e-9), completed=phase.done, width=30)
        bars.add_row(Text(terminal.printable(step)), bar, Text(_how_far(phase)))
    others = [Text(terminal.printable(line)) for line in (*_others(run.session), *_heard(run))]
    return Group(Text(terminal.printable(_state(run)), style="bold"), bars, *others)


def _lines(run: Watched) -> list[str]:
    steps = [f"{step}: {_how_far(phase)}" for step, phase in run.session.phases.items()]
    return [_state(run), *steps, *_others(run.session)]


def _state(run: Watched) -> str:
    session = run.session
    if session.command is None:
        return f"{run.folder}: no events yet"
    if session.ended is not None:
        why = f": {session.reason}" if session.reason else ""
        return f"{run.folder}: {session.ended} after {_time(session.seconds)}{why}"
    if not run.alive:
        return f"{run.folder}: its process is gone without a word; last heard of {_time(run.quiet)} ago, the same command goes on"
    return f"{run.folder}: running: {session.command}"


def _heard(run: Watched) -> list[str]:
    quiet = run.session.command is not None and not run.over and run.quiet > QUIET
    return [f"last heard of {_time(run.quiet)} ago"] if quiet else []


def _how_far(phase: Phase) -> str:
    if phase.done >= phase.total:
        return f"{phase.total:,.10g} done"
    left = "" if phase.left is None else f", about {_time(phase.left)} left"
    return f"{phase.done:,.10g} of {phase.total:,.10g}{left}"


def _others(session: Session) -> Iterator[str]:
    """What there is to say of a session beside its steps."""
    for supernet, figures in session.epochs.items():
        if {"loss", "epoch"} <= figures.keys():
            rate = f", learning rate {figures['learning_rate']:.3g}" if "learning_rate" in figures else ""
            yield f"supernet {supernet}: loss {figures['loss']:.4g} after epoch {figures['epoch'] + 1:g}{rate}"
    if session.trials:
        front, known = dict(session.front), session.objectives
        failed = f", {session.failed:,} failed" if session.failed else ""
        volume = f", hypervolume {front['hypervolume']:.4g}" if "hypervolume" in front else ""
        yield f"{session.trials:,} trials{failed}; front of {front.get('size', 0):g}{volume}"
        if best := {name: front[f"best_{name}"] for name in known if f"best_{name}" in front}:
            yield f"best: {_figures(best, known)}"
    named: dict[str, list[Told]] = {
        "trial": [*session.last],
        "alone": [*session.alone],
        "measured": [*session.measured],
    }
    for what, told in named.items():
        for each in told:
            shown = {name: value for name, value in each.figures.items() if name not in ("number", "seconds")}
            yield f"{what} {each.label}: {_figures(shown, session.objectives)}"
    for each in session.failures:
        yield f"failed {each.label}: {each.reason}"
    if session.exports:
        yield f"{session.exports} exported"


def _figures(figures: Mapping[str, float], known: Mapping[str, Objective]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {_figure(value, known.get(name))}" for name, value in figures.items())


def _figure(value: float, objective: Objective | None) -> str:
    if objective is not None and objective.unit == "%":
        return measured(objective)(value)
    unit = "" if objective is None else objective.unit
    return f"{si(value) if abs(value) >= 1000 else f'{value:.4g}'} {unit}".rstrip()


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{max(seconds, 0):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
