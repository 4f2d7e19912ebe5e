"""What the script of a run's page reads: trials by column, their choices, failures, and what was done when."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from nas.objectives import OBJECTIVES, Objective
from nas.report.axes import front_axes
from nas.report.beside import parent
from nas.report.timeline import DONE, FAILED, TRAINED, Span, by_worker, sessions
from nas.runtime import names_function
from nas.study import OBJECT, Study, choose
from search_spaces import SPACES

MOST = 20_000
"""Trials that a page holds; of more, the front, what was trained alone and an even sample of the others."""
MOST_FAILED = 5_000
KINDS = (DONE, TRAINED, FAILED)
DIGITS = 7


def page_data(
    study: Study, ranked: pd.DataFrame, front: pd.DataFrame, asked: pd.DataFrame, source: str, found: Sequence[Span]
) -> dict[str, Any]:
    """Plain data, by column.

    Args:
        study: a run in any state.
        ranked: its `ranked`.
        front: its `front`.
        asked: its `searched_front`.
        source: where the figures that the search saw come from; part of a column's name.
        found: what was done when.
    """
    failed = study.failed
    data: dict[str, Any] = {
        "failed": {
            "labels": _texts(failed["label"][:MOST_FAILED]),
            "reasons": _texts(failed["reason"][:MOST_FAILED]),
            "seconds": _numbers(failed["seconds"][:MOST_FAILED]),
            "total": len(failed),
        }
    }
    if ranked.empty:
        return {**data, "timeline": _timeline(study.record, found, [])}
    keys = {*front["architecture"], *asked["architecture"]}
    kept = _kept(ranked, keys)
    table = ranked.iloc[kept].assign(trial=np.asarray(kept) + 1)
    table = _with_latency(table, study.latency)
    places = {key: at for at, key in enumerate(table["architecture"])}
    columns = _columns(study, table, source)
    names = [column["name"] for column in columns]
    axes = front_axes(ranked, study.objectives, study.worth)
    return {
        **data,
        "total": len(ranked),
        "columns": columns,
        "axes": [names.index(axis.column) if axis.column in names else 0 for axis in axes],
        "labels": _texts(table["label"]),
        "values": [_numbers(table[name]) for name in names],
        **_choices(_texts(table["architecture"])),
        "front": [places[key] for key in front["architecture"]],
        "behind": [places[key] for key in asked["architecture"] if key not in set(front["architecture"])],
        "parent": next((places[key] for key in parent(study, ranked)["architecture"] if key in places), None),
        "knee": places[choose(study, "knee")["architecture"].iloc[0]] if len(front) else None,
        "command": command(study),
        "timeline": _timeline(study.record, found, _texts(table["label"])),
    }


def island(data: Mapping[str, Any]) -> str:
    """JSON that can stand in a script element: nothing in it ends one, and every letter is ASCII."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def command(study: Study) -> dict[str, str]:
    """What stands before and behind a label in a command that makes something of it; nothing where no command can."""
    config, name = study.config, study.config.space.name
    if name not in SPACES and ":" not in name:
        return {}
    verb = "export" if config.data is not None or config.task not in (None, OBJECT) else "front"
    trust = names_function(name) or (verb == "export" and config.task is not None)
    return {"before": f"nas {verb} {shlex.quote(str(study.folder))} --pick ", "after": " --trust" if trust else ""}


def _kept(ranked: pd.DataFrame, keys: set[str]) -> list[int]:
    if len(ranked) <= MOST:
        return list(range(len(ranked)))
    alone = [name for name in ranked if str(name).endswith("_alone")]
    needed = ranked["architecture"].isin(keys) | ranked[alone].notna().any(axis=1)
    others = np.flatnonzero(~needed)
    evenly = np.linspace(0, len(others) - 1, max(0, min(len(others), MOST - int(needed.sum())))).astype(int)
    return sorted({*np.flatnonzero(needed).tolist(), *others[evenly].tolist()})


def _with_latency(table: pd.DataFrame, measured: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    """Latency as it was measured where it was, else as the search saw it."""
    for name in ("latency_ms", "latency_p25_ms", "latency_p75_ms"):
        known = table["architecture"].map({key: entry[name] for key, entry in measured.items()}).astype(float)
        table[name] = known.fillna(table[name].astype(float)) if name in table else known
    return table


def _columns(study: Study, table: pd.DataFrame, source: str) -> list[dict[str, Any]]:
    """Columns of numbers, those that people look at first in front: what they are called, written as, and which way is better."""
    known = {**OBJECTIVES, **{objective.name: objective for objective in (*study.objectives, *study.metrics)}}
    metrics = {metric.name: metric for metric in study.metrics}
    first = [
        *(name for metric in metrics for name in (f"{metric}_alone", metric)),
        *("macs", "params"),
        *(objective.name for objective in study.objectives),
        "latency_ms",
    ]
    there = [
        str(name)
        for name in table
        if is_numeric_dtype(table[name]) and not is_bool_dtype(table[name]) and table[name].notna().any()
    ]
    ordered = [
        *(name for name in dict.fromkeys(first) if name in there),
        *(name for name in there if name not in first),
    ]
    return [_column(name, known, metrics, source, main=name in first) for name in ordered]


def _column(
    name: str, known: Mapping[str, Objective], metrics: Mapping[str, Objective], source: str, main: bool
) -> dict[str, Any]:
    of, behind = name, ""
    for end, words in (("_alone_std", " alone, standard deviation"), ("_alone", " alone")):
        if name.endswith(end) and name.removesuffix(end) in metrics:
            of, behind = name.removesuffix(end), words
            break
    else:
        behind = f" {source}" if name in metrics else ""
        for part, words in (("_supernet", " supernet {}"), ("_epoch", ", epoch {}")):
            base, _, number = name.partition(part)
            if base in metrics and number.isdigit():
                of, behind = base, words.format(number)
    objective = known.get(of)
    unit = "ms" if of.endswith("_ms") else "s" if of == "seconds" else objective.unit if objective else ""
    quartile = {"latency_p25_ms": "latency, lower quartile", "latency_p75_ms": "latency, upper quartile"}.get(of)
    written = "percent" if unit == "%" else "plain" if of in metrics or unit == "s" else "ms" if unit == "ms" else "si"
    return {
        "name": name,
        "title": quartile or of.removesuffix("_ms").replace("_", " ") + behind,
        "unit": {"bytes": "B"}.get(unit, unit),
        "as": written,
        "up": bool(objective and objective.higher_is_better and not name.endswith("_std")),
        "main": main,
        "alone": f"{name}_alone" if name in metrics else None,
    }


def _choices(keys: Sequence[str]) -> dict[str, Any]:
    """The choices of each trial as numbers of their values; -1 where an architecture lacks one."""
    rows: list[dict[str, Any]] = [json.loads(key) for key in keys]
    names = dict.fromkeys(name for row in rows for name in row)
    choices, codes = [], []
    for name in names:
        numbers: dict[str, int] = {}
        codes.append([numbers.setdefault(_word(row[name]), len(numbers)) if name in row else -1 for row in rows])
        choices.append({"name": name, "values": list(numbers)})
    return {"choices": choices, "codes": codes}


def _word(value: object) -> str:
    """A value of a choice as the keys of architectures write it, a string without quotes."""
    if type(value) is int:  # most are, and this is quick
        return str(value)
    return value if isinstance(value, str) else json.dumps(value)


def _texts(column: pd.Series) -> list[str]:
    return [str(text) for text in column]


def _numbers(column: pd.Series) -> list[float | int | None]:
    """Numbers of as many digits as anyone reads; None for what is not known."""
    return [_number(value) for value in pd.to_numeric(column, errors="coerce").tolist()]


def _number(value: float) -> float | int | None:
    if not math.isfinite(value):
        return None
    return int(value) if value == int(value) and abs(value) < 2**53 else float(f"{value:.{DIGITS}g}")


def _timeline(record: Mapping[str, Any], found: Sequence[Span], labels: Sequence[str]) -> dict[str, Any]:
    """Workers with their spans by column, in seconds since the first, and sessions. Spans know trials by their place in `labels`."""
    commands, places = sessions(record), {label: at for at, label in enumerate(labels)}
    origin = min([span.start for span in found] + [session.start for session in commands], default=0.0)
    workers = []
    for name, own in by_worker(found):
        named = [(span, str(span.trial.user_attrs["label"])) for span in own]
        shown = [(span, label) for span, label in named if label in places or span.kind != DONE]
        workers.append(
            {
                "name": name,
                "start": [round(span.start - origin, 2) for span, _ in shown],
                "seconds": [round(span.end - span.start, 2) for span, _ in shown],
                "kind": [KINDS.index(span.kind) for span, _ in shown],
                "trial": [places.get(label, -1) for _, label in shown],
                "labels": {at: label for at, (_, label) in enumerate(shown) if label not in places},
            }
        )
    ends = [None if session.end is None else round(session.end - origin, 2) for session in commands]
    return {
        "origin": origin,
        "workers": workers,
        "sessions": [[round(session.start - origin, 2), end] for session, end in zip(commands, ends, strict=True)],
    }
