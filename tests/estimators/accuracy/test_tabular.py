"""Published tables: their figures, their simulated clock, and searches over them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from estimators.accuracy.tabular import Metric, Table, published_table, read_table
from nas.strategies import STRATEGIES, make_strategy
from search_spaces import Categorical, Labels, SearchSpace

METRICS = {"accuracy": Metric("acc", "%", True, seconds=10.0), "ms": Metric("lat", "ms", False, seconds="took")}


def _digits(positions: int, digits: str, **options: object) -> SearchSpace:
    names = [f"p{at}" for at in range(positions)]
    labels = Labels(
        lambda values: "".join(str(values[n]) for n in names), lambda text: dict(zip(names, text, strict=True))
    )
    return SearchSpace("digits", tuple(Categorical(n, tuple(digits)) for n in names), labels=labels, **options)  # type: ignore[arg-type]


def _rows() -> pd.DataFrame:
    keys = [a + b + c for a in "012" for b in "012" for c in "012"]
    numbers = np.arange(27.0)
    return pd.DataFrame({"arch": keys, "acc": (numbers * 7) % 27, "lat": numbers, "took": 0.5})


def test_figures_are_those_of_the_table() -> None:
    space, rows = _digits(3, "012"), _rows()
    table = Table(space, rows, key="arch", metrics=METRICS)
    archs = [space.parse("210"), space.parse("001")]
    assert {name: v.tolist() for name, v in table.query(archs).items()} == {"accuracy": [12.0, 7.0], "ms": [21.0, 1.0]}
    assert table.losses(archs).tolist() == [[-12.0, 21.0], [-7.0, 1.0]]
    assert len(table) == 27 and table.missing == 0 and table.space is space and archs[0] in table
    assert space.label(table.best("ms")) == "000" and table.query([table.best("accuracy")])["accuracy"] == [26]


def test_the_clock_runs_for_what_is_new() -> None:
    space = _digits(3, "012")
    table = Table(space, _rows(), key="arch", metrics=METRICS)
    a, b = space.parse("000"), space.parse("111")
    table.query([a, b], ["accuracy"])
    assert table.seconds == 20
    table.query([a, a], ["accuracy", "ms"])
    assert table.seconds == 20.5
    table.query([a, b])
    assert table.seconds == 21


def test_figures_of_one_training_take_its_time_once() -> None:
    space = _digits(3, "012")
    metrics = {
        "val": Metric("acc", "%", True, 10.0, training="full"),
        "test": Metric("lat", "%", True, 10.0, training="full"),
    }
    table = Table(space, _rows(), key="arch", metrics=metrics)
    table.query([space.parse("000")])
    assert table.seconds == 10


def test_rows_of_one_architecture_are_averaged() -> None:
    space = _digits(2, "01", canonical=lambda values: dict(zip(values, sorted(map(str, values.values())), strict=True)))
    rows = pd.DataFrame({"arch": ["00", "01", "10", "11"], "acc": [1.0, 2.0, 4.0, 8.0]})
    table = Table(space, rows, key="arch", metrics={"accuracy": Metric("acc", "%", True)})
    assert len(table) == 3 and table.query([space.parse("10")])["accuracy"] == [3.0]


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("missing", [0, 9])
def test_every_strategy_runs_against_a_table(name: str, missing: int) -> None:
    table = Table(_digits(3, "012"), _rows()[missing:], key="arch", metrics=METRICS, allow_missing=missing > 0)
    strategy = make_strategy(name, table.space, np.random.default_rng(0))
    found: dict = {}
    while archs := strategy.ask(4):
        losses = table.losses(archs)
        strategy.tell(archs, losses)
        found |= dict(zip(archs, losses.tolist(), strict=True))
    assert set(found) == set(table.archs) and len(found) == 27 - missing == len(table)
    assert min(found, key=lambda arch: found[arch][0]) == table.best("accuracy")
    assert table.seconds == pytest.approx(10.5 * len(table))


def test_a_table_with_missing_architectures_is_refused_or_says_so() -> None:
    space, rows = _digits(3, "012"), _rows()
    with pytest.raises(ValueError) as caught:
        Table(space, rows.drop(index=[4, 9]), key="arch", metrics=METRICS)
    assert "must have a row for each of its 27 architectures; 2 are missing, the first is 011" in str(caught.value)
    table = Table(space, rows.drop(index=[4, 9]), key="arch", metrics=METRICS, allow_missing=True)
    assert table.missing == 2 and table.space.size == 25
    with pytest.raises(ValueError, match="the table has no row for .*; propose from the table's own `space`"):
        table.query([space.parse("000"), space.parse("011")])
    assert table.seconds == 0
    with pytest.raises(ValueError, match="the table has a row for it"):
        table.space.parse("011")


def test_a_users_own_table(tmp_path: Path) -> None:
    rows = _rows().rename(columns={"arch": "network"})
    rows.to_csv(tmp_path / "mine.csv", index=False)
    space = _digits(3, "012")
    table = read_table(tmp_path / "mine.csv", space, key="network", metrics=METRICS)
    assert table.query([space.parse("002")])["ms"] == [2.0]


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"key": "arhc"}, "no column of the table is named 'arhc'; did you mean arch"),
        ({}, {"metrics": {"x": Metric("acc", "", True, seconds="hours")}}, "no column of the table is named 'hours'"),
        ({}, {"metrics": {}}, "a table needs rows and metrics, got 27 rows and 0 metrics"),
        ({"acc": "?"}, {}, "column 'acc' must hold finite numbers, got '?' in row 0; leave that row out"),
        ({"acc": float("nan")}, {}, "column 'acc' must hold finite numbers, got 'nan' in row 0"),
        (
            {"arch": "009"},
            {},
            "column 'arch' must name architectures of 'digits', got '009' in row 0: choice 'p2' must be one of '0', '1', '2'; got '9'",
        ),
    ],
)
def test_bad_tables_are_refused(change: dict, options: dict, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        Table(_digits(3, "012"), _rows().assign(**change), **{"key": "arch", "metrics": METRICS, **options})
    assert message in str(caught.value)


def test_unknown_names_are_refused() -> None:
    space = _digits(3, "012")
    table = Table(space, _rows(), key="arch", metrics=METRICS)
    with pytest.raises(ValueError, match="no metric of the table is named 'acuracy'; did you mean accuracy"):
        table.query([space.parse("000")], ["acuracy"])
    with pytest.raises(ValueError, match="no metric of the table is named 'size'"):
        table.best("size")
    with pytest.raises(ValueError, match="no published table is named 'nas-bench-301'; did you mean nas-bench-"):
        published_table("nas-bench-301", ".", space)
    with pytest.raises(ValueError, match="`epoch_seconds` must be 0 or more, got -1"):
        published_table("nas-bench-201", ".", space, epoch_seconds=-1)
