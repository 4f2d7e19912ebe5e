"""What a front is held against: the trained model that it was searched in, and what other methods made of it."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from nas.objectives import Objective
from nas.report.format import UNKNOWN, measured, si
from nas.report.html import table
from nas.runtime import write_text
from nas.scoring import contract
from nas.study import Study
from search_spaces.core import of_file, read_bytes

CONTROLS, METHOD = "controls.csv", "method"
COSTS = ("macs", "params")


def write_controls(folder: str | Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Leave in a run folder what other methods made of the same model, for its plot and page.

    Args:
        folder: of the run.
        rows: each with `method` and figures by the names of the run's objectives, in their stored units.

    Raises:
        ValueError: a row has no method.
    """
    for row in rows:
        if not row.get(METHOD):
            raise ValueError(f"a control must have a `{METHOD}`, the name of what made it, got {dict(row)}")
    path = Path(folder) / CONTROLS
    write_text(path, pd.DataFrame(rows).to_csv(index=False, lineterminator="\n"))
    return path


def controls(study: Study) -> pd.DataFrame:
    """What other methods made, by `method` and figures; without rows where nothing was left.

    Raises:
        ValueError: the file is no such table; the message names it.
    """
    path = study.folder / CONTROLS
    if not path.exists():
        return pd.DataFrame(columns=[METHOD])
    with of_file(path, "remove it, or write it by `nas.report.write_controls`"):
        found = pd.read_csv(io.BytesIO(read_bytes(path)))
        if METHOD not in found:
            raise ValueError(f"controls need a column `{METHOD}`, got {', '.join(map(str, found))}")
        numbers = found.drop(columns=METHOD).apply(pd.to_numeric)
        return found[[METHOD]].astype(str).join(numbers)


def parent(study: Study, ranked: pd.DataFrame) -> pd.DataFrame:
    """The trial that is the trained model itself; no rows where there is none."""
    whole = contract(study.space).parent
    return ranked[ranked["architecture"] == whole.key] if whole is not None and len(ranked) else ranked.iloc[:0]


def against(study: Study, front: pd.DataFrame, ranked: pd.DataFrame) -> str:
    """The front's members against the trained model, and the controls, as HTML; empty where there is neither."""
    objectives = {objective.name: objective for objective in (*study.metrics, *study.objectives)}
    own, others = parent(study, ranked), controls(study)
    parts = []
    if len(own):
        parts.append(
            f"<h2>Against the trained model</h2>\n{_against(front, own.iloc[0], list(objectives.values()))}\n"
            '<p class="quiet">How many times less each costs, and what its metrics lost or gained, both as the search saw them.</p>'
        )
    known = [name for name in (*objectives, *COSTS) if name in others and others[name].notna().any()]
    if len(others) and known:
        known = list(dict.fromkeys(known))
        rows = [
            [row[METHOD], *(_figure(objectives.get(name), row.get(name)) for name in known)]
            for row in others.sort_values([METHOD, *known[-1:]]).to_dict("records")
        ]
        titles = ["method", *(name.removesuffix("_ms").replace("_", " ") for name in known)]
        parts.append(f"<h2>What other methods made of it</h2>\n{table(titles, rows)}")
    return "\n".join(parts)


def _against(front: pd.DataFrame, own: pd.Series, objectives: Sequence[Objective]) -> str:
    names = list(dict.fromkeys([*(one.name for one in objectives), *(cost for cost in COSTS if cost in front)]))
    known = {one.name: one for one in objectives}
    shown = [name for name in names if name in front and pd.notna(own.get(name)) and own[name]]
    titles = ["architecture", *(name.removesuffix("_ms").replace("_", " ") for name in shown)]
    rows = []
    for member in front.to_dict("records"):
        cells = [str(member["label"])]
        for name in shown:
            value, whole, objective = member[name], own[name], known.get(name)
            if pd.isna(value):
                cells.append(UNKNOWN)
            elif objective is not None and (objective.higher_is_better or objective.unit == "%"):
                scale, unit = (100, " points") if objective.unit == "%" else (1, "")
                cells.append(f"{scale * (value - whole):+.3g}{unit}")
            else:
                cells.append(f"{whole / value:.2f} times less" if value else UNKNOWN)
        rows.append(cells)
    return table(titles, rows)


def _figure(objective: Objective | None, value: Any) -> str:
    if value is None or pd.isna(value):
        return UNKNOWN
    return si(float(value)) if objective is None or objective.unit == "" else measured(objective)(float(value))
