"""What the commands show: progress bars and tables for people, lines of JSON for machines."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from pruners.progress import Progress as Listener

out = Console(soft_wrap=False)
err = Console(stderr=True)
LONG = 10.0  # seconds after which a step says how far it is


@contextmanager
def bars() -> Iterator[Listener]:
    """A listener that draws a bar with the time left for each step; away from a terminal, a line as each step ends, and one before
    where a step says that it starts, or takes long.
    """
    if not err.is_terminal:
        yield _lines()
        return
    columns = (
        TextColumn("{task.description:<15}"),
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
                tasks[step] = progress.add_task(step, total=total)
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
            err.print(f"{step}: {total:,.10g} done in {took:.0f} s", highlight=False)
            started[step] = -1
        elif step not in announced and (not done or took > LONG):
            left = f", about {took * (total / done - 1):.0f} s left" if done else ""
            err.print(f"{step}: {done:,.10g} of {total:,.10g} done{left}", highlight=False)
            announced.add(step)

    return listen


def show_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None, sentences: bool = False
) -> None:
    """Print a table; the first column is left aligned, the others right, but for sentences.

    What is too long for a line of the first is folded.
    """
    if title is not None:  # a line of its own: a table's title is wrapped at the width of the table
        out.print(title, style="italic", markup=False, highlight=False, soft_wrap=True)
    table = Table(header_style="bold")
    short = max((len(row[0]) for row in rows), default=0) <= out.width // 2
    table.add_column(columns[0], no_wrap=short, overflow="fold")
    for column in columns[1:]:
        table.add_column(column, justify="left" if sentences else "right")
    for row in rows:
        table.add_row(*row)
    out.print(table)


def show_json(row: Any) -> None:
    """Print one line of JSON."""
    print(json.dumps(row, default=_plain))


def show_rows(table: pd.DataFrame) -> None:
    """Print a line of JSON for each row; what is not known is left out."""
    for row in table.to_dict("records"):
        show_json({name: value for name, value in row.items() if not (isinstance(value, float) and np.isnan(value))})


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)
