"""The zoo benchmark writes a clear row for what fails and for what takes too long, and goes on where it stopped."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import prune_zoo


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
