"""The tables of README and docs/results.md are what the files in results/ say."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from benchmarks import draw_results, result_tables
from benchmarks.draw_results import DRAWN, PAGES, PICTURES
from benchmarks.result_files import ROOT
from benchmarks.result_tables import BLOCK, TABLES, filled


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_are_what_results_say(page: object) -> None:
    text = page.read_text()  # type: ignore[attr-defined]
    assert filled(text) == text, "run python -m benchmarks.draw_results"


def test_a_table_with_a_wrong_figure_is_written_anew() -> None:
    text = (ROOT / "docs" / "results.md").read_text()
    wrong = text.replace("| 81.3 (81.1 to 81.5) |", "| 91.3 (81.1 to 81.5) |")
    assert wrong != text and filled(wrong) == text


def test_every_table_and_picture_is_shown_and_nothing_else() -> None:
    text = "".join(page.read_text() for page in PAGES)
    assert sorted(found[2] for found in BLOCK.finditer(text)) == sorted(TABLES)
    assert text.count("<!-- table:") == text.count("<!-- end -->") == len(TABLES)
    shown = set(re.findall(r"pictures/([\w-]+)\.png", text))
    assert shown == set(DRAWN) == {path.stem for path in PICTURES.glob("*.png")}


def test_every_section_names_its_script_folder_and_control() -> None:
    sections = re.split(r"^## ", (ROOT / "docs" / "results.md").read_text(), flags=re.MULTILINE)[1:]
    for section in sections:
        title = section.partition("\n")[0]
        assert re.search(r"`(benchmarks/\w+\.py|nas search)`", section), title
        assert "../results/" in section and "control" in section and "seed" in section, title
        for script in re.findall(r"`(benchmarks/\w+\.py)`", section):
            assert (ROOT / script).exists(), script


def test_figures_are_those_of_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = pd.read_csv(ROOT / "results" / "prune_resnet56_cpu_202611" / "prune_resnet56.csv")
    at = (rows["model"] == "resnet56") & (rows["method"] == "torch-pruning-inner") & (rows["speedup_asked"] == 2)
    rows.loc[at, "trained"] = [10.0, 20.0, 60.0]
    monkeypatch.setattr(result_tables, "read", lambda path: rows)
    table = result_tables.pruned("resnet56", "trained").set_index("test accuracy, %")
    assert table.loc["Torch-Pruning, same channels", "2 times fewer macs"] == "30.0 (10.0 to 60.0)"


def test_pictures_are_the_same_every_time() -> None:
    assert draw_results.png(DRAWN["shared"]()) == draw_results.png(DRAWN["shared"]())
