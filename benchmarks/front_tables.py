"""The tables of fronts inside trained models and of their controls."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from benchmarks.result_files import read

FRONT_WAYS = {
    "search": "front of a search",
    "estimated": "front that a search starts from",
    "prune": "pruned once per budget",
    "prune-trained": "pruned once, then trained, per budget",
    "nested": "the same after one training that all share",
    "layers": "layers left out",
    "layers-even": "every so many layers",
    "layers-trained": "layers left out, then trained, each",
    "torch-pruning": "Torch-Pruning, once per budget",
    "torch-pruning-trained": "Torch-Pruning, then trained, per budget",
}
"""Methods of studies of fronts; all but the first two and `nested` are controls."""
OURS = ("search", "estimated")
TRAINED = ("nested", "layers-trained", "prune-trained", "torch-pruning-trained")
"""Those with training; the first is ours."""


class FrontStudy(NamedTuple):
    """A study of a front against its controls.

    Attributes:
        model: what it is of, as people call it.
        cost: the column that it is drawn and ordered by, what that is called, and how it is written.
        metrics: column -> what it is called, how it is written.
    """

    model: str
    cost: tuple[str, str, str]
    metrics: dict[str, tuple[str, str]]


FRONTS = {
    "pretrained_front": FrontStudy(
        "ResNet-56", ("times", "times fewer macs", ".2f"), {"accuracy": ("test accuracy, %", ".1f")}
    ),
    "encoder_front": FrontStudy(
        "MiniLM",
        ("left", "macs left", ".0%"),
        {"cosine": ("cosine to full embeddings", ".3f"), "overlap": ("overlap of 10 nearest", ".3f")},
    ),
}
"""Studies of fronts by the name of their script."""


def front_rows(study: str) -> pd.DataFrame:
    """Rows of a study of a front, the methods in the order of `FRONT_WAYS`, the costliest models first."""
    table = read(f"{study}_cpu_202612/{study}.jsonl")
    cost = FRONTS[study].cost[0]
    order = table["method"].map(list(FRONT_WAYS).index)
    return table.assign(order=order).sort_values(["order", "seed", cost], ascending=[True, True, cost == "times"])


def front(study: str) -> pd.DataFrame:
    """A row per model: the way to it, the seed, its cost, what it is worth, and what the front has there; see `there`."""
    rows, (_, (cost, title, form), metrics) = front_rows(study), FRONTS[study]
    columns = {
        "way": rows["method"].map(FRONT_WAYS),
        "seed": rows["seed"],
        title: rows[cost].map(f"{{:{form}}}".format),
    }
    for name, (called, written) in metrics.items():
        columns[called] = rows[name].map(f"{{:{written}}}".format)
        columns[f"{called}: the front there"] = [
            "" if np.isnan(x) else f"{x:{written}}" for x in there(rows, cost, name)
        ]
    return pd.DataFrame(columns)


def there(rows: pd.DataFrame, cost: str, metric: str) -> pd.Series:
    """For each control what the front of its seed is worth at its cost, between the members beside it by the logarithm of cost.

    The front is that of a search, or what one starts from where none is measured, and for controls that were trained the one after
    the training; NaN for its own rows, and beyond its members.
    """
    found = pd.Series(np.nan, index=rows.index)
    trained = rows["method"].isin(TRAINED)
    for (_, after), own in rows.groupby(["seed", trained]):
        ways = TRAINED[:1] if after else OURS
        ours = next((part for way in ways if len(part := own[own["method"] == way])), None)
        if ours is None:
            continue
        ours, controls = ours.sort_values(cost), own[~own["method"].isin(ways)]
        found[controls.index] = np.interp(
            np.log(controls[cost]), np.log(ours[cost]), ours[metric], left=np.nan, right=np.nan
        )
    return found
