"""What the commands show: progress bars and tables for people, lines of JSON for machines.

Labels, names and paths are somebody else's text: nothing in them is taken for markup, what a terminal would obey is replaced, and so is
what the terminal's encoding cannot show.
"""

from __future__ import annotations

import codecs
import json
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:  # neither has to be there to print a line
    import pandas as pd

    from pruners.progress import Progress as Listener

out = Console(soft_wrap=False)
err = Console(stderr=True)
IN_ASCII = {"…": "...", "–": "-", "—": "-", "±": "+-", "µ": "u", "μ": "u", "×": "x", "τ": "tau", "²": "2"}
LONG = 10.0  # seconds after which a step says how far it is


@contextmanager
def plain() -> Iterator[None]:
    """Write everything meanwhile, warnings too, so that no text commands the terminal and none fails for its encoding."""
    written = warnings.formatwarning
    streams = [each for each in (sys.stdout, sys.stderr) if isinstance(each, TextIOWrapper)]
    errors = [each.errors for each in streams]
    warnings.formatwarning = lambda *args, **more: printable(written(*args, **more))
    for stream in streams:
        stream.reconfigure(errors=REPLACED)
    try:
        yield
    finally:
        warnings.formatwarning = written
        for stream, before in zip(streams, errors, strict=True):
            stream.reconfigure(errors=before)


def printable(text: str) -> str:
    """The text with a question mark in place of what a terminal does not print but obeys; lines and tabs stay."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "?" for letter in text)


def _replaced(error: UnicodeError) -> tuple[str, int]:
    """What stands for letters that an encoding does not have."""
    assert isinstance(error, UnicodeEncodeError)
    letters = error.object[error.start : error.end]
    return "".join(IN_ASCII.get(letter, "?") for letter in letters), error.end


REPLACED = "nas-replaced"
codecs.register_error(REPLACED, _replaced)


def say(text: str) -> None:
    """Print a line for people, beside what a command gives; of any length."""
    err.print(Text(printable(text)), soft_wrap=True)


def say_error(text: str) -> None:
    """Print why a command failed."""
    err.print(Text.assemble(("error:", "bold red"), " ", printable(text)), soft_wrap=True)


def show(text: object) -> None:
    """Print a line of what a command gives, such as a path."""
    print(printable(str(text)))


@contextmanager
def bars() -> Iterator[Listener]:
    """A listener that draws a bar with the time left for each step; away from a terminal, a line as each step ends, and one before
    where a step says that it starts, or takes long.
    """
    if not err.is_terminal:
        yield _lines()
        return
    columns = (
        TextColumn("{task.description:<15}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err) as progress:
        tasks: dict[str, Any] = {}

        def listen(step: str, done: float, total: float) -> None:
            if step not in tasks:
                tasks[step] = progress.add_task(printable(step), total=total)
            progress.update(tasks[step], completed=done, total=total)

        yield listen


def _lines() -> Listener:
    started: dict[str, float] = {}
    announced: set[str] = set()

    def listen(step: str, done: float, total: float) -> None:
        start = started.setdefault(step, time.monotonic())
        took = time.monotonic() - start
        if start < 0:
            return
        if done >= total:
            say(f"{step}: {total:,.10g} done in {took:.0f} s")
            started[step] = -1
        elif step not in announced and (not done or took > LONG):
            left = f", about {took * (total / done - 1):.0f} s left" if done else ""
            say(f"{step}: {done:,.10g} of {total:,.10g} done{left}")
            announced.add(step)

    return listen


def show_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None, sentences: bool = False
) -> None:
    """Print a table; the first column is left aligned, the others right, but for sentences.

    What is too long for a line of the first is folded.
    """
    if title is not None:  # a line of its own: a table's title is wrapped at the width of the table
        out.print(Text(printable(title), style="italic"), soft_wrap=True)
    table = Table(header_style="bold")
    short = max((len(row[0]) for row in rows), default=0) <= out.width // 2
    table.add_column(_cell(columns[0]), no_wrap=short, overflow="fold")
    for column in columns[1:]:
        table.add_column(_cell(column), justify="left" if sentences else "right")
    for row in rows:
        table.add_row(*map(_cell, row))
    out.print(table)


def _cell(text: str) -> Text:
    return Text(printable(text))


def show_json(row: Any) -> None:
    """Print one line of JSON."""
    print(json.dumps(row, default=_plain))


def show_rows(table: pd.DataFrame) -> None:
    """Print a line of JSON for each row; what is not known is left out."""
    for row in table.to_dict("records"):
        show_json({name: value for name, value in row.items() if not (isinstance(value, float) and np.isnan(value))})


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)
