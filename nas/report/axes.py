"""What stands along the axes of a figure, and what is short enough to stand in it; nothing here draws."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import pandas as pd

from nas.objectives import Objective
from nas.report.format import PREFIXES

LONGEST_LABEL = 16


class Axis(NamedTuple):
    """What stands along an axis: a column, what its values are multiplied by, the axis label, and its direction."""

    column: str
    factor: float
    label: str
    higher_is_better: bool = False


def front_axes(table: pd.DataFrame, objectives: Sequence[Objective], worth: Objective) -> tuple[Axis, Axis]:
    """What stands along the axes of `front`."""
    by_name = {objective.name: objective for objective in objectives}
    rest = [objective for objective in objectives if objective.name != worth.name]
    y = by_name.get(worth.name, objectives[0])
    x = by_name.get("macs") if y.name == worth.name else None
    x = x or next((objective for objective in rest if objective != y), None)
    if x is not None:
        across = axis_of(x.name, table, unit=x.unit, higher_is_better=x.higher_is_better)
    elif y.name == worth.name and "macs" in table:
        across = axis_of("macs", table)
    else:
        across = Axis("trial", 1, "trial")
    up = measured_axis(worth) if y.name == worth.name else None
    return across, up or axis_of(y.name, table, unit=y.unit, higher_is_better=y.higher_is_better)


def measured_axis(worth: Objective, of: str = "") -> Axis:
    """The axis of a metric: in percent, or in its unit."""
    name = " ".join(part for part in (worth.name.replace("_", " "), of) if part)
    factor = 100 if worth.unit == "%" else 1
    return Axis(worth.name, factor, f"{name} ({worth.unit})" if worth.unit else name, worth.higher_is_better)


def axis_of(column: str, table: pd.DataFrame, unit: str = "", higher_is_better: bool = False) -> Axis:
    """The axis of a column: in percent, or in the largest multiple of its unit that its values reach."""
    if unit == "%":
        return Axis(column, 100, f"{column.replace('_', ' ')} (%)", higher_is_better)
    largest = float(table[column].abs().max())
    exponent = max(power for power in PREFIXES if power == 0 or largest >= 10**power)
    shown = PREFIXES[exponent] + {"bytes": "B"}.get(unit, unit)
    name = column.removesuffix("_ms").removesuffix("_mj").replace("_", " ")
    return Axis(column, 10.0**-exponent, f"{name} ({shown})" if shown else name, higher_is_better)


def drawable(labels: Iterable[str]) -> bool:
    """Whether the labels are short enough to stand in a plot."""
    return max(map(len, labels), default=0) <= LONGEST_LABEL
