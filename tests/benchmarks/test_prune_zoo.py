"""The zoo benchmark writes a clear row for what fails and for what takes too long, and goes on where it stopped."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import prune_zoo

ROOT = Path(__file__).parents[2]
DIFFERENCES = ("difference_50", "inside_50", "difference_25", "inside_25")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "list.txt").write_text("# two models\nnowhere first 1x3x8x8\nnowhere second 1x3x8x8\n")

    def call(*options: str) -> list[dict[str, str]]:
        fixed = ["--list", str(tmp_path / "list.txt"), "--out", str(tmp_path / "out"), "--without-torch-pruning"]
        monkeypatch.setattr(sys, "argv", ["prune_zoo", *fixed, *options])
        prune_zoo.main()
        with (tmp_path / "out" / "prune_zoo.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    return call


def test_rows_say_what_went_wrong(run: Any, tmp_path: Path) -> None:
    rows = run("--limit", "0.01", "--only", "first")
    assert [(row["name"], row["passed"], row["error"]) for row in rows] == [("first", "False", "not done after 0.01 s")]
    rows = run()
    assert [row["name"] for row in rows] == ["first", "second"]
    assert rows[0]["error"].startswith("not done") and "Error" in rows[1]["error"]
    record = json.loads((tmp_path / "out" / "prune_zoo.json").read_text())
    assert record["summary"]["models"] == 2 and record["summary"]["passed"] == 0
    assert record["command"].startswith("python -m benchmarks.prune_zoo --list")


@pytest.mark.parametrize("largest", DIFFERENCES)
def test_the_summary_has_the_largest_difference_of_all(largest: str) -> None:
    row = {**dict.fromkeys(DIFFERENCES, "1e-7"), largest: "3e-5", "passed": "True", "seconds": "2.0"}
    assert prune_zoo.summary([row, {**row, largest: "2e-6"}])["largest_difference"] == 3e-5


@pytest.mark.parametrize(
    "table", sorted(ROOT.glob("results/prune_zoo*/prune_zoo.csv")), ids=lambda path: path.parent.name
)
def test_summaries_are_those_of_their_tables(table: Path) -> None:
    with table.open(newline="") as file:
        found = prune_zoo.summary(list(csv.DictReader(file)))
    assert json.loads(table.with_suffix(".json").read_text())["summary"] == found
