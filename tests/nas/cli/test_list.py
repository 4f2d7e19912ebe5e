"""What can be chosen by name: each kind is one table, which `nas list`, the documents, the checks and the makers all read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from nas.cli.kinds import BLOCK, KINDS, filled
from nas.cli.list import list_names
from nas.strategies import STRATEGIES, make_strategy
from nas.study import FORMATS, configure
from nas.supernets import SAMPLERS, SupernetConfig, make_sampler
from pruners.importance import CRITERIA
from search_spaces import SPACES, make_space
from search_spaces.pooling import POOLINGS, make_pooling

DOCS = Path(__file__).parents[3] / "docs"
PAGES = sorted(DOCS.glob("*.md"))
SPACE = make_space("resnet20-pooling")


@pytest.mark.parametrize("kind", KINDS)
def test_every_name_has_one_line_and_is_listed(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    list_names(kind, json=True)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["name"] for row in rows] == list(KINDS[kind].table)
    for row in rows:
        assert len(row) == 2 + len(KINDS[kind].columns)
        assert row["help"] and not re.search(r"[|\n]|\.$", row["help"]), row
    list_names(kind)
    shown = capsys.readouterr().out
    assert all(name in shown for name in KINDS[kind].table)


def test_without_a_kind_the_kinds_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    list_names(json=True)
    assert [json.loads(line)["name"] for line in capsys.readouterr().out.splitlines()] == list(KINDS)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="no kind to list is named 'sampler'; did you mean samplers"):
        list_names("sampler")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_tables_of_the_documents_are_those_listed(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert filled(text) == text, "run python docs/tables.py"


def test_no_table_of_names_is_written_by_hand() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    shown = [block[2] for block in BLOCK.finditer(text)]
    assert len(set(shown)) == len(shown) == text.count("<!-- table: nas list")
    assert {"spaces", "samplers", "strategies", "objectives", "scores", "pooling", "criteria", "allocations"} <= set(
        shown
    )
    rest = BLOCK.sub(
        "", text.replace((Path(__file__).parents[3] / "docs" / "results.md").read_text(encoding="utf-8"), "")
    )
    for kind in shown:
        first = [f"| `{name}` |" for name in KINDS[kind].table]
        assert sum(row in rest for row in first) < len(first), kind


def test_a_sampler_that_is_added_can_be_trained_with_and_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SAMPLERS, "mine", SAMPLERS["sandwich"]._replace(help="my own", subnets=3))
    assert SupernetConfig(sampler="mine", teacher="largest").sampler == "mine"
    assert len(make_sampler("mine", SPACE, epochs=1, seed=0).draw(0, np.random.default_rng(0))) == 2 + 3
    with pytest.raises(ValueError, match="sandwich or delayed or mine; got uniform"):
        SupernetConfig(sampler="uniform", teacher="largest")
    with pytest.raises(ValueError, match="no sampler is named 'min'; did you mean mine"):
        SupernetConfig(sampler="min")
    assert "| `mine` | my own |" in filled((DOCS / "training.md").read_text())


def test_a_strategy_that_is_added_can_be_searched_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STRATEGIES, "mine", STRATEGIES["mixture"]._replace(supernets=3, fewest=2))
    assert configure("s", "d", strategy="mine").supernets.count == 3
    with pytest.raises(ValueError, match="strategy mine needs `supernets` of at least 2, got 1"):
        configure("s", "d", strategy="mine", supernets=1)
    assert len(make_strategy("mine", SPACE, np.random.default_rng(0)).ask(100)) == 36
    assert "| `mine` |" in filled((DOCS / "search.md").read_text())


def test_a_criterion_a_space_a_pooling_and_a_format_that_are_added_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CRITERIA, "mine", CRITERIA["l1"])
    monkeypatch.setitem(SPACES, "mine", SPACES["nas-bench-macro"])
    monkeypatch.setitem(POOLINGS, "mine", POOLINGS["max"])
    monkeypatch.setitem(FORMATS, "mine", FORMATS["pt2"])
    assert make_space("mine").size == 3969
    assert type(make_pooling("mine", 4)) is type(make_pooling("max", 4))
    assert configure("mine", "d", export=("mine",)).export == ("mine",)
    pages = [filled((DOCS / name).read_text()) for name in ("pruning.md", "search.md")]
    assert ["| `mine` |" in page for page in pages] == [True, True]
