"""Choosing from a front: under limits, at the knee, the most accurate, or by name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import pandas as pd
from pandas.api.types import is_numeric_dtype

from nas.objectives import OBJECTIVES, Objective, losses, pareto
from nas.runtime import amount
from nas.study.study import Study

OF_SUPERNET = re.compile(r"_supernet\d+$")
"""What stands behind the name of a metric in the column of one supernet's figures."""


def choose(study: Study, pick: str | None = None, limits: Mapping[str, float | str] | None = None) -> pd.DataFrame:
    """Rows of `study.front`, or of all trials where `pick` names an architecture.

    Args:
        study: a run with at least one trial.
        pick: `knee`, the point furthest below the line between the front's ends; `best`, the best by the first objective; a label
            or JSON object of any architecture that was tried, or where the run has supernets, of any other of the space; None for
            all of the front.
        limits: bounds by column, such as `{"macs": 60e6, "latency_ms": "0.5ms"}`, in the column's unit: the least for accuracies
            (fractions) and other objectives that rise, the most for everything else.

    Metrics of networks trained alone are what counts where the whole front has them; else what the search saw.

    Raises:
        ValueError: nothing was tried yet, nothing keeps the limits, or the architecture was not tried.
    """
    front = study.front
    if front.empty:
        raise ValueError(f"{study.folder} has no trial yet; run or resume its search first")
    if pick not in (None, "knee", "best"):
        return _named(study, pick)
    amounts = {name: amount(name, value, "limits") for name, value in (limits or {}).items()}
    front = under(front, amounts, (*study.objectives, *study.metrics))
    if pick is None:
        return front
    values = front[[objective.name for objective in study.objectives]].copy()
    for metric in study.config.measured:
        if front[f"{metric.name}_alone"].notna().all():
            values[metric.name] = front[f"{metric.name}_alone"]
    cost = losses(values.to_numpy(float), study.objectives)
    at = pareto.knee(cost) if pick == "knee" else int(cost[:, 0].argmin())
    return front.iloc[[at]]


def under(front: pd.DataFrame, limits: Mapping[str, float], objectives: Sequence[Objective] = ()) -> pd.DataFrame:
    """The rows that keep every limit; see `choose`. The objectives of the run are known beside those of `OBJECTIVES`.

    Raises:
        ValueError: no such column, or no row is left; the message says what can be reached.
    """
    kept, known_by_name = front, OBJECTIVES | {objective.name: objective for objective in objectives}
    for name, limit in limits.items():
        if name not in front.columns or not is_numeric_dtype(front[name]):
            known = ", ".join(column for column in front.columns if is_numeric_dtype(front[column]))
            raise ValueError(f"no limit can be set on {name!r}; the columns are {known}")
        of = known_by_name.get(OF_SUPERNET.sub("", name).removesuffix("_alone"))
        rises = of is not None and of.higher_is_better
        keeps = front[name] >= limit if rises else front[name] <= limit
        if not keeps.any():
            bound, most, reach = ("least", "most", front[name].max()) if rises else ("most", "least", front[name].min())
            raise ValueError(f"nothing on the front has {name} of at {bound} {limit:g}; the {most} is {reach:g}")
        kept = kept[keeps.loc[kept.index]]
    if kept.empty:
        raise ValueError(f"nothing on the front keeps all limits {dict(limits)} at once; loosen one")
    return kept


def _named(study: Study, label: str) -> pd.DataFrame:
    arch = study.find(label)
    table = study.ranked
    found = table[table["architecture"] == arch.key]
    if found.empty:
        label = study.space.label(arch)
        if not study.config.supernets.count:
            raise ValueError(f"{label} was not tried in {study.folder}; pick one of its trials")
        return pd.DataFrame([{"label": label, "architecture": arch.key}])
    return found
