"""The tables of search strategies on published tables, from the rows that `benchmarks.search_tabular` wrote."""

from __future__ import annotations

import pandas as pd

from benchmarks.result_files import read

ROWS = "search_tabular_cpu_202612/search_tabular.csv"
SPACES = {
    "nas-bench-macro": "NAS-Bench-Macro",
    "channel-bench-macro-resnet": "Channel-Bench-Macro, ResNet",
    "nas-bench-201": "NAS-Bench-201",
}
AFTER = (30, 50, 100)
CONTROLS = {"random": "`random` (control)", "gaussian-process": "plain Gaussian process (control)"}


def strategies(part: str) -> pd.DataFrame:
    """A row per strategy, the best last; a column per published table: means over seeds after 30, 50 and 100 trials."""
    rows = rows_of(part)
    columns = [f"after_{n}" for n in AFTER]
    means = rows.groupby(["method", "table"])[columns].mean()
    form = ".1f" if part == "front" else ".2f"
    cells = means.apply(lambda row: " / ".join(f"{value:{form}}" for value in row), axis=1).unstack().fillna("")
    seeds = rows.groupby(["method", "table"])["seed"].nunique().unstack()
    counts = [
        str(int(of.min())) if of.min() == of.max() else f"{int(of.min())} to {int(of.max())}"
        for _, of in seeds.iterrows()
    ]
    cells = cells[list(SPACES)].rename(columns=SPACES).assign(seeds=counts)
    order = means["after_50"].groupby("method").mean().sort_values().index
    called = {name: CONTROLS.get(name, f"`{name}`") for name in order}
    what = "hypervolume after 30 / 50 / 100, %" if part == "front" else "best accuracy after 30 / 50 / 100, %"
    return cells.loc[order].rename(index=called).rename_axis(what).reset_index()


def rows_of(part: str) -> pd.DataFrame:
    """The rows of a part of the study: `published`, `relabelled` or `front`."""
    table: pd.DataFrame = read(ROWS)
    return table[table["part"] == part]
