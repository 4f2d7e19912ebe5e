"""Tables and page of a run: real run folders with made-up figures."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from nas import Study
from nas.data.dataset import ImageData
from nas.report.format import percent
from nas.report.write import HISTORY, history, write_plots, write_report, write_tables
from nas.tasks import image_task
from search_spaces import Categorical, SearchSpace
from tests.made_up_studies import Reader, complete, figures, page_of, train_alone, train_supernets, try_


def test_tables_hold_the_study(start: Callable[..., Study]) -> None:
    study = complete(start())
    paths = write_tables(study)
    assert [path.name for path in paths] == ["trials.csv", "front.csv", "alone.csv", "curves.csv"]
    trials, front, alone, curves = (pd.read_csv(path) for path in paths)
    pd.testing.assert_frame_equal(trials, study.ranked, check_dtype=False)
    pd.testing.assert_frame_equal(front, study.front, check_dtype=False)
    assert len(trials) == 36 and trials["on_front"].sum() == len(front) == len(alone)
    assert trials["macs"][3] == 4_000_000 and trials["accuracy"][3] == 0.55
    assert json.loads(front["architecture"][0]) == {"pools": [1, 2]} and front["label"][0] == "1-1-8"
    assert front["macs"].is_monotonic_increasing and set(front["latency_ms"]) == {1.312}
    assert list(curves.columns) == HISTORY and len(curves) == 12
    assert np.isnan(curves["loss"][1]) and curves["steps"][1] == 0 and curves["loss"][4] == 1.0


def test_each_trial_is_read_once_for_all_tables_and_the_page(
    start: Callable[..., Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    study, made, row = complete(start(), trials=12), list[object](), Study.row
    fresh = Study.open(study.folder)
    monkeypatch.setattr(Study, "row", lambda self, trial: made.append(trial) or row(self, trial))
    page_of(fresh)
    assert len(made) == 12
    table = fresh.trials
    table["label"] = "changed"
    assert "changed" not in set(fresh.trials["label"])
    try_(study, 12)
    assert len(fresh.trials) == 13


def test_tables_of_a_run_that_has_only_begun_have_no_rows(start: Callable[..., Study]) -> None:
    study = start()
    tables = {path.stem: pd.read_csv(path) for path in write_tables(study)}
    assert all(table.empty for table in tables.values()) and history(study).empty
    assert list(tables["trials"].columns) == ["label", "architecture", "accuracy", "macs"]
    assert list(tables["curves"].columns) == HISTORY


def test_page_tells_what_was_asked_what_came_out_and_how(start: Callable[..., Study]) -> None:
    study = complete(start(seed=7))
    reader = Reader(page_of(study))
    record = study.record
    for fact in (
        "resnet20-pooling on digits",
        "36 architectures",
        "150 train, 150 validation, 100 test",
        "strategy mixture with 4 supernets, seed 7",
        f"{len(study.front)}on the front, of 36 architectures tried",
        percent(study.ranked["accuracy_alone"].max()),
        "the knee of the front",
        'model = nas.load("exports/',
        "exports/1-1-8",
        "nas search --space resnet20-pooling --out run",
        f"torch {torch.__version__}",
        record["sessions"][0]["hardware"]["system"],
        record["sessions"][0]["commit"] or "not from a checkout",
        record["data"]["fingerprint"],
    ):
        assert fact in reader.text, fact
    assert reader.rows[0] == ["architecture", "accuracy alone", "accuracy supernet", "macs", "params", "latency"]
    assert reader.rows[1] == ["1-1-8", "90.00 %", "52.00 %", "1.00 M", "270 k", "1.31 ms (1.28–1.40)"]
    assert reader.rows[len(study.front) + 1][0] == "worker"
    assert "not finished" not in reader.text


def test_page_of_a_limited_search_is_finished_with_what_the_limits_leave(start: Callable[..., Study]) -> None:
    reader = Reader(page_of(complete(start(strategy="one-shot", limits={"macs": 22e6}), trials=22)))
    assert "not finished" not in reader.text
    assert "at most 36 architectures with macs of at most 22.0 M for" in reader.text


def test_page_needs_nothing_outside_it(start: Callable[..., Study]) -> None:
    page = page_of(complete(start()))
    sources = [value or "" for _, name, value in Reader(page).attributes if name in ("src", "href")]
    assert len(sources) == 4 and all(source.startswith("data:image/png;base64,") for source in sources)
    assert "http:" not in page and "https:" not in page and "url(" not in page and page.count("<script") == 2
    assert "default-src 'none'; script-src 'sha256-" in page and "unsafe" not in page
    assert 'name="viewport"' in page and "prefers-color-scheme: dark" in page


def test_code_on_the_page_is_python(start: Callable[..., Study]) -> None:
    page = Reader(page_of(complete(start())))
    code = page.text[page.text.index("import nas, torch") : page.text.index("logits = model(images)") + 22]
    compile(code, "page", "exec")
    assert len(code.splitlines()) == 5 and "torch.zeros(8, 1, 8, 8)" in code


def test_page_escapes_everything(start: Callable[..., Study], digits: ImageData) -> None:
    nasty = "<script>alert('\"&')</script>"
    space = SearchSpace(nasty, (Categorical("<i>", (nasty, "<b>bold</b>", "x" * 40)),))
    study = start(space, image_task(replace(digits, name=f"<u>{nasty}")), retrain="none")
    with study.session(f"nas search --out '{nasty}'"):
        for number in range(3):
            try_(study, number)
    page = page_of(study)
    assert not re.search(r"<(i|b>bold|u)\b", page.replace("<b>", ""))
    assert page.count("<script") == 2 and page.count("</script") == 2
    reader = Reader(page)
    assert nasty in reader.text and f"--out '{nasty}'" in reader.text
    assert reader.rows[0][0] == "#" and reader.rows[1][:2] == ["1", json.dumps({"<i>": nasty}, separators=(",", ":"))]


def test_page_of_a_run_that_has_only_begun(start: Callable[..., Study]) -> None:
    page = page_of(start())
    assert "0 of 3 epochs" in page and "no architecture has been scored yet" in page
    assert "<img" not in page and "<table" not in page


def test_page_of_a_run_that_was_stopped(start: Callable[..., Study]) -> None:
    study = start(seeds=2)
    train_supernets(study, epochs=2)
    train_alone(study, try_(study, 0), 0.9)
    text = Reader(page_of(study)).text
    assert (
        "2 of 3 epochs" in text
        and "1 of 36 architectures" in text
        and "1 of 2 networks have been trained alone" in text
        and "all of the front" in text
    )
    assert [path.stem for path in sorted((study.folder / "plots").iterdir())] == ["curves", "front", "rank"]


MORE = "; train more of them alone (retrain all) to tell."


@pytest.mark.parametrize(
    ("tried", "alone", "truth", "verdict"),
    [
        (36, range(36), "supernet", "the supernet orders them better than macs do."),
        (36, range(36), "macs", "the supernet orders them no better than macs do."),
        (36, range(8), "neither", f"these are too few to tell whether the supernet orders better than macs do{MORE}"),
        (8, range(8), "neither", "these are too few to tell whether the supernet orders better than macs do."),
        (36, range(4), "macs", f"These are too few to tell whether the supernet orders better than macs do{MORE}"),
        (36, range(1, 36, 3), "macs", f"because both order these architectures alike{MORE}"),
    ],
)
def test_page_judges_the_ranking_where_there_is_enough_to_tell(
    start: Callable[..., Study], tried: int, alone: range, truth: str, verdict: str
) -> None:
    study = start()
    archs = [try_(study, number) for number in range(tried)]
    for number in alone:
        known = {"supernet": figures(number)["accuracy"], "macs": 0.01 * number, "neither": 0.01 * (number * 5 % 8)}
        train_alone(study, archs[number], known[truth])
    text = Reader(page_of(study)).text
    assert f"Over {len(alone)} architectures trained alone" in text and verdict in text
    assert text.count("than macs do") + text.count("cannot do otherwise") == 1


def test_page_without_supernets(start: Callable[..., Study]) -> None:
    study = start(strategy="random", supernets=0)
    for number in range(5):
        train_alone(study, try_(study, number), 0.9)
    reader = Reader(page_of(study))
    assert "accuracy validation" in reader.rows[0] and "supernet," not in reader.text and "ranked" not in reader.text
    assert [path.stem for path in write_plots(study)] == ["front", "choices"]


def test_a_report_that_fails_leaves_the_one_before(
    start: Callable[..., Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = complete(start())
    page, image = page_of(study), (study.folder / "plots" / "front.png").read_bytes()
    monkeypatch.setattr(
        Path, "write_bytes", lambda self, data: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(OSError, match=r"could not write .*front.png: No space left"):
        write_report(study)
    assert (study.folder / "report.html").read_text() == page and (
        study.folder / "plots" / "front.png"
    ).read_bytes() == image
    assert not list(study.folder.rglob(".*.tmp"))


def test_a_damaged_checkpoint_is_named(start: Callable[..., Study]) -> None:
    study = start()
    train_supernets(study, epochs=1)
    (study.folder / "supernets" / "checkpoint.safetensors").write_bytes(b"short")
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(ValueError, match="no readable checkpoint"):
        write_tables(study)


def test_networks_that_others_beat_once_trained_alone_stand_beside_the_front(start: Callable[..., Study]) -> None:
    study = start()
    archs = [try_(study, number) for number in range(12)]
    asked = list(study.searched_front["architecture"])
    assert len(asked) > 3 and list(study.front["architecture"]) == asked
    trained = [arch for arch in archs if arch.key in asked]
    for place, arch in enumerate(trained):
        train_alone(study, arch, 0.9 - 0.1 * (place == 1) + 0.001 * place)
    front = list(study.front["architecture"])
    assert front == [arch.key for place, arch in enumerate(trained) if place != 1]
    page = page_of(study)
    assert "behind once trained alone" in page
    searched = pd.read_csv(study.folder / "searched.csv")
    assert list(searched["architecture"]) == asked
    assert list(pd.read_csv(study.folder / "front.csv")["architecture"]) == front
