"""How well the search ordered architectures: its accuracies against those of the networks trained alone."""

from __future__ import annotations

import math

import pandas as pd
from scipy.stats import kendalltau


def both_accuracies(ranked: pd.DataFrame) -> pd.DataFrame:
    """The rows of `Study.ranked` that have an accuracy from the search and one alone."""
    if not {"accuracy", "accuracy_alone"} <= set(ranked.columns):
        return ranked.iloc[:0]
    return ranked[ranked["accuracy"].notna() & ranked["accuracy_alone"].notna()].reset_index(drop=True)


def kendall(a: pd.Series, b: pd.Series) -> float | None:
    """Kendall's tau-b of two columns: 1 where they order all pairs alike, 0 where they are unrelated, -1 where they are opposite.

    None where it means nothing: fewer than 3 rows, or a column whose values are all equal.

    Reference: Kendall, "The Treatment of Ties in Ranking Problems", Biometrika 33, 1945.
    """
    if len(a) < 3:
        return None
    tau = float(kendalltau(a, b).statistic)
    return None if math.isnan(tau) else tau


def same_order(table: pd.DataFrame) -> bool:
    """Whether the search and macs order the rows of `both_accuracies` alike, as on any front of accuracy and macs.

    There the search cannot do better than macs, however good it is.
    """
    return (kendall(table["accuracy"], table["macs"]) or 0) > 1 - 1e-9
