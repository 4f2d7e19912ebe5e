"""Figures as people read them: in the terminal, on the report's page and in plots."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from nas.objectives import OBJECTIVES, Objective

PREFIXES = {0: "", 3: "k", 6: "M", 9: "G", 12: "T", 15: "P"}
UNKNOWN = "–"
ALWAYS = ("macs", "params", "latency_ms")


Column = tuple[str, Callable[..., str], tuple[str, ...]]
"""A title, how a value is written, and the columns that hold it, the first of which has to be known."""


class Table(NamedTuple):
    """A table of strings: names of the columns, and a row of cells per line."""

    columns: list[str]
    rows: list[list[str]]


def si(value: float | None, digits: int = 3) -> str:
    """A count with an SI prefix and that many significant digits: `40.8 M`, `270 k`, `17`; `–` if it is not known."""
    if _unknown(value):
        return UNKNOWN
    assert value is not None
    if abs(value) < 1000 and value == int(value):
        return f"{int(value)}"
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])
    thousands = min(max(exponent // 3 * 3, 0), max(PREFIXES))
    if exponent >= max(PREFIXES) + 3:
        return f"{value:.{digits - 1}e}"
    shown = f"{value / 10**thousands:.{max(digits - 1 - (exponent - thousands), 0)}f}"
    return f"{shown} {PREFIXES[thousands]}".rstrip()


def percent(fraction: float | None, spread: float | None = None) -> str:
    """A fraction in percent, with a standard deviation if there is one: `93.25 %`, `93.25 ± 0.31 %`."""
    if _unknown(fraction):
        return UNKNOWN
    assert fraction is not None
    around = "" if spread is None or _unknown(spread) else f" ± {100 * spread:.2f}"
    return f"{100 * fraction:.2f}{around} %"


def measured(objective: Objective) -> Callable[..., str]:
    """How a metric and its standard deviation are written: in percent, or with four significant digits and its unit."""

    def plain(value: float | None, spread: float | None = None) -> str:
        if _unknown(value):
            return UNKNOWN
        around = "" if spread is None or _unknown(spread) else f" ± {spread:.2g}"
        return f"{value:.4g}{around} {objective.unit}".rstrip()

    return percent if objective.unit == "%" else plain


def milliseconds(median: float | None, p25: float | None = None, p75: float | None = None) -> str:
    """A latency to three significant digits, with its quartiles to as many decimals: `1.31 ms (1.28–1.40)`."""
    if _unknown(median):
        return UNKNOWN
    assert median is not None
    exponent = int(f"{median:.2e}".partition("e")[2])
    decimals = min(max(2 - exponent, 0), 6)
    known = p25 is not None and p75 is not None and not _unknown(p25) and not _unknown(p75)
    around = f" ({p25:.{decimals}f}–{p75:.{decimals}f})" if known else ""
    return f"{median:.{decimals}f} ms{around}"


def repaired(note: Mapping[str, Any]) -> str:
    """What a summary's `recovery` tells of one step of repair, in words; empty if it tells nothing."""
    return "; ".join(_repaired(note))


def _repaired(note: Mapping[str, Any]) -> Iterator[str]:
    if "did" in note:
        yield note["did"]
    if "solved" in note:
        yield f"{note['solved']} layers solved"
    if note.get("used"):
        used, there = note["used"]
        yield f"on {used:,} of {there:,} examples, as many as fit into memory"
    if note.get("left_out"):
        yield f"left as they were: {', '.join(note['left_out'])}"
    if note.get("more_examples"):
        yield "more examples would help"
    if "learning_rate" in note:
        among = f", the best of {', '.join(f'{float(rate):g}' for rate in note['tried'])}" if note.get("tried") else ""
        yield f"at a learning rate of {note['learning_rate']:g}{among}"
    if note.get("restored"):
        yield "it came no nearer to the unpruned model and was taken back"
    elif "after" in note:
        yield f"its distance from the unpruned model's outputs fell from {note['before']:.3g} to {note['after']:.3g}"


def front_table(
    front: pd.DataFrame,
    searched: str = "supernet",
    objectives: Sequence[str] = (),
    metrics: Sequence[Objective] = (OBJECTIVES["accuracy"],),
) -> Table:
    """Rows of `Study.front` for people.

    Args:
        front: architectures with whatever is known about them; figures that none of them has get no column.
        searched: where the figures that the search saw come from; part of a column's name.
        objectives: of the run; those that have no column otherwise, such as activations, get one.
        metrics: of the task, which networks are measured by.

    Returns:
        Columns architecture, each metric alone and as searched, macs, params, further objectives, and latency with its quartiles.
    """
    known = [metric.name for metric in metrics]
    extra = [name for name in objectives if name not in (*ALWAYS, *known)]
    of_metrics: list[Column] = []
    for metric in metrics:
        said = metric.name.replace("_", " ")
        of_metrics.append((f"{said} alone", measured(metric), (f"{metric.name}_alone", f"{metric.name}_alone_std")))
        of_metrics.append((f"{said} {searched}", measured(metric), (metric.name,)))
    columns, cells = ["architecture"], [[str(label) for label in front["label"]] if "label" in front else []]
    shown: list[Column] = [
        *of_metrics,
        *((name, si, (name,)) for name in ("macs", "params", *extra)),
        ("latency", milliseconds, ("latency_ms", "latency_p25_ms", "latency_p75_ms")),
    ]
    for name, show, sources in shown:
        texts = _cells(front, show, sources)
        if any(text != UNKNOWN for text in texts):
            columns.append(name)
            cells.append(texts)
    return Table(columns, [list(row) for row in zip(*cells, strict=True)])


def _cells(front: pd.DataFrame, show: Callable[..., str], sources: Sequence[str]) -> list[str]:
    """One cell per row, from the columns that are there; unknown where the first of them is not."""
    if sources[0] not in front:
        return [UNKNOWN] * len(front)
    known = front.reindex(columns=list(sources)).apply(pd.to_numeric)
    return [show(*row) for row in known.itertuples(index=False)]


def _unknown(value: float | None) -> bool:
    return value is None or math.isnan(value)
