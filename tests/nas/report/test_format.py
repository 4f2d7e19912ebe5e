"""Figures as people read them."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from nas.report.format import front_table, milliseconds, percent, si


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (17, "17"),
        (999, "999"),
        (1000, "1.00 k"),
        (270_123, "270 k"),
        (999_999, "1.00 M"),
        (40_812_345, "40.8 M"),
        (-40_812_345, "-40.8 M"),
        (1.234e10, "12.3 G"),
        (1.5, "1.50"),
        (3e18, "3.00e+18"),
        (None, "–"),
        (math.nan, "–"),
    ],
)
def test_si(value: float | None, text: str) -> None:
    assert si(value) == text


def test_si_keeps_the_value_to_its_digits() -> None:
    for value in np.random.default_rng(0).uniform(0, 17, 200):
        number, _, prefix = si(10.0**value, digits=4).partition(" ")
        assert float(number) * 1000.0 ** " kMGTP".index(prefix or " ") == pytest.approx(10.0**value, rel=6e-4)


def test_percent_and_milliseconds() -> None:
    assert percent(0.93251) == "93.25 %" and percent(0.93251, 0.0031) == "93.25 ± 0.31 %"
    assert percent(math.nan) == "–" and percent(1, math.nan) == "100.00 %"
    assert milliseconds(1.312, 1.28, 1.404) == "1.31 ms (1.28–1.40)"
    assert milliseconds(123.4) == "123 ms" and milliseconds(0.01234) == "0.0123 ms" and milliseconds(None) == "–"


def test_front_table_leaves_out_what_nobody_knows() -> None:
    front = pd.DataFrame(
        {"label": ["a", "b"], "accuracy": [0.5, 0.75], "macs": [1e6, 2e6], "accuracy_alone": [0.9, math.nan]}
    )
    assert front_table(front) == (
        ["architecture", "accuracy alone", "accuracy supernet", "macs"],
        [["a", "90.00 %", "50.00 %", "1.00 M"], ["b", "–", "75.00 %", "2.00 M"]],
    )
    assert (
        front_table(front.drop(columns="accuracy_alone").assign(accuracy_alone=math.nan)).columns[1]
        == "accuracy supernet"
    )
    assert front_table(front.assign(activations=5), "validation", ["accuracy", "macs", "activations"]).columns[2:] == [
        "accuracy validation",
        "macs",
        "activations",
    ]
    assert front_table(pd.DataFrame()) == (["architecture"], [])
