"""Tables, plots and page of a run: real run folders with made-up figures."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from nas import Study, checkpoint, configure, plots
from nas.data import ImageData
from nas.files import write_json
from nas.format import front_table, milliseconds, percent, si
from nas.labels import drawable, write_labels
from nas.objectives import Objective
from nas.rank import both_accuracies, kendall, same_order
from nas.report import HISTORY, history, write_plots, write_report, write_tables
from nas.study import ALONE, SEARCH
from search_spaces import Architecture, Categorical, SearchSpace, make_space

OPTIONS = {"in_channels": 1, "num_classes": 10, "image_size": 8}


@pytest.fixture
def start(tmp_path: Path, digits: ImageData) -> Callable[..., Study]:
    """Makes an empty run folder of a pooling search on digits."""

    def make(space: SearchSpace | None = None, data: ImageData | None = None, **settings: object) -> Study:
        space = space or make_space("resnet20-pooling", **OPTIONS)
        config = configure(space.name, "digits", **{"epochs": 3, **settings})  # type: ignore[arg-type]
        return Study.create(tmp_path / "run", config, space, data or digits, OPTIONS)

    return make


def figures(number: int) -> dict[str, float]:
    """Made-up but lifelike: costs rise with the number, accuracies rise with ups and downs and a tie."""
    return {
        "accuracy": 0.5 + 0.01 * number + 0.02 * (number % 3 == 0) - 0.01 * (number == 5),
        "macs": 1_000_000 * (number + 1),
        "params": 270_000 + number,
        "activations": 90_000 + number,
        "latency_ms": 1 + 0.1 * number,
    }


def try_(study: Study, number: int) -> Architecture:
    """Add a trial."""
    arch = list(study.space.enumerate())[number]
    known = figures(number)
    notes = {
        name: value
        for name, value in known.items()
        if name in ("macs", "params") and name not in study.config.objectives
    }
    values = [known[name] for name in study.config.objectives]
    study.add(SEARCH, arch, values, {**notes, "seconds": 0.5})
    return arch


def train_alone(study: Study, arch: Architecture, accuracy: float, seed: int = 0) -> None:
    notes = {"seed": seed, "seconds": 2.0, "loss": [1.0, 0.5]}
    study.add(ALONE, arch, [accuracy], notes)


def train_supernets(study: Study, epochs: int, supernets: int = 4) -> None:
    """Write a checkpoint with a history; supernet 1 was not drawn in epoch 0."""
    rows = []
    for epoch in range(epochs):
        for number in range(supernets):
            row = {"epoch": epoch, "learning_rate": 0.1, "seconds": 1.5, "supernet": number, "steps": 10 + number}
            rows.append({**row, "loss": 2.0 / (epoch + 1), "accuracy": 0.1 * epoch})
        if supernets > 1 and epoch == 0:
            rows[1] = {"epoch": 0, "learning_rate": 0.1, "seconds": 1.5, "supernet": 1, "steps": 0}
    path = study.folder / "supernets" / "checkpoint.safetensors"
    checkpoint.save(path, {"weights": torch.zeros(2)}, {"epochs": epochs, "history": rows})


def complete(study: Study, trials: int = 36) -> Study:
    """A run with everything: trials, networks alone, supernets, latency, exports and a session."""
    with study.session("nas search --space resnet20-pooling --out run"):
        archs = [try_(study, number) for number in range(trials)]
        train_supernets(study, epochs=3)
        front = list(study.front["architecture"])
        for arch in archs:
            if arch.key in front:
                train_alone(study, arch, 0.9 + 0.001 * archs.index(arch))
                write_json(study.place("exports", arch) / "architecture.json", {})
        measured = {"latency_ms": 1.312, "latency_p25_ms": 1.28, "latency_p75_ms": 1.404}
        write_json(study.folder / "latency.json", {key: measured for key in front})
    return study


def page_of(study: Study) -> str:
    write_tables(study)
    return write_report(study).read_text(encoding="utf-8")


class Reader(HTMLParser):
    """The text of a page, its attributes, and whether every tag is closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.attributes, self.open, self.rows = "", [], [], []  # type: ignore[var-annotated]
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


# --- numbers for people ---


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


# --- Kendall's tau ---


def brute_force_tau(a: Sequence[float], b: Sequence[float]) -> float:
    """Tau-b by looking at every pair."""
    signs = [(np.sign(a[i] - a[j]), np.sign(b[i] - b[j])) for i, j in combinations(range(len(a)), 2)]
    untied = math.sqrt(sum(x != 0 for x, _ in signs) * sum(y != 0 for _, y in signs))
    return sum(x * y for x, y in signs) / untied


@pytest.mark.parametrize("values", [5, 1000])
def test_tau_is_that_of_a_count_over_all_pairs(values: int) -> None:
    rng = np.random.default_rng(values)
    for size in (3, 10, 40):
        a, b = (pd.Series(rng.integers(values, size=size)) for _ in range(2))
        assert kendall(a, b) == pytest.approx(brute_force_tau(a.tolist(), b.tolist()))


def test_tau_says_nothing_about_few_or_equal_values() -> None:
    assert kendall(pd.Series([1, 2]), pd.Series([1, 2])) is None
    assert kendall(pd.Series([1, 1, 1]), pd.Series([1, 2, 3])) is None


def test_same_order() -> None:
    front = pd.DataFrame({"accuracy": [0.1, 0.2, 0.3, 0.35, 0.36, 0.4], "macs": [1, 2, 3, 4, 5, 6]})
    assert same_order(front) and not same_order(front.assign(macs=[1, 2, 3, 4, 6, 5])) and not same_order(front[:2])


# --- tables ---


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


def test_tables_of_a_run_that_has_only_begun_have_no_rows(start: Callable[..., Study]) -> None:
    study = start()
    tables = {path.stem: pd.read_csv(path) for path in write_tables(study)}
    assert all(table.empty for table in tables.values()) and history(study).empty
    assert list(tables["trials"].columns) == ["label", "architecture", "accuracy", "macs"]
    assert list(tables["curves"].columns) == HISTORY


# --- plots ---


def test_plots_are_pngs_of_readme_size(start: Callable[..., Study]) -> None:
    study = complete(start())
    paths = write_plots(study)
    assert [path.relative_to(study.folder).as_posix() for path in paths] == [
        f"plots/{n}.png" for n in ("front", "curves", "rank")
    ]
    before = [path.read_bytes() for path in paths]
    for path in paths:
        with Image.open(path) as image:
            image.verify()
            assert image.format == "PNG" and image.size == (1050, 675)
    assert [path.read_bytes() for path in write_plots(study)] == before
    assert not list(study.folder.rglob(".*.tmp"))


def texts(figure: Figure) -> str:
    axes = figure.axes
    parts = [text.get_text() for ax in axes for text in [*ax.texts, ax.title, ax.xaxis.label, ax.yaxis.label]]
    legends = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return "\n".join([*parts, *legends, figure.get_suptitle(), figure.get_supxlabel()])


def test_front_plot_names_its_points_and_axes(start: Callable[..., Study]) -> None:
    study = complete(start(), trials=12)
    figure = plots.front(study.ranked, study.objectives, title="a title with $ and $")
    shown = texts(figure)
    for text in (
        "accuracy (%)",
        "macs (M)",
        "dominated (supernet)",
        "front (trained alone, test)",
        "a title with $ and $",
    ):
        assert text in shown
    assert set(study.front["label"]) <= set(shown.splitlines())
    assert "1-9" not in shown and "front (validation)" in texts(
        plots.front(study.ranked, study.objectives, searched="validation")
    )


@pytest.mark.parametrize("x_up", [True, False])
@pytest.mark.parametrize("y_up", [True, False])
def test_front_line_is_the_best_that_can_be_had(x_up: bool, y_up: bool) -> None:
    rng = np.random.default_rng(4)
    points = rng.uniform(10, 20, (30, 2))
    signs = np.array([-1 if y_up else 1, -1 if x_up else 1])
    front = [
        not any((other * signs <= point * signs).all() and (other != point).any() for other in points)
        for point in points
    ]
    table = pd.DataFrame(points, columns=["y", "x"]).assign(label="p", on_front=front, macs=1, params=1)
    figure = plots.front(table, [Objective("y", "", y_up), Objective("x", "", x_up)])
    (line,) = (line for line in figure.axes[0].lines if line.get_linestyle() == "-")
    corners = np.asarray(line.get_xydata())
    best = max if y_up else min
    for (x0, y0), (x1, y1) in zip(corners, corners[1:], strict=False):
        assert x0 == x1 or y0 == y1
        if x0 != x1:
            x = (x0 + x1) / 2
            assert y0 == best(y for y, at in points if (at >= x if x_up else at <= x))


@pytest.mark.parametrize(
    ("objectives", "axes"),
    [
        (["accuracy"], ("macs (M)", "accuracy (%)")),
        (["params", "accuracy", "macs"], ("macs (M)", "accuracy (%)")),
        (["accuracy", "params"], ("params (k)", "accuracy (%)")),
        (["params", "macs"], ("macs (M)", "params (k)")),
        (["macs"], ("trial", "macs (M)")),
        (["activations", "latency_ms"], ("latency (ms)", "activations (k)")),
    ],
)
def test_every_kind_of_objectives_has_a_report(
    start: Callable[..., Study], objectives: list[str], axes: tuple[str, str]
) -> None:
    study = start(objectives=objectives, supernets=1, strategy="one-shot", retrain="none")
    for number in range(5):
        try_(study, number)
    (drawn,) = plots.front(study.ranked, study.objectives).axes
    assert (drawn.get_xlabel(), drawn.get_ylabel()) == axes
    page = page_of(study)
    assert ("best accuracy" in page) == ("accuracy" in objectives)
    assert [path.name for path in write_plots(study)] == ["front.png"]
    if "activations" in objectives:
        assert "activations" in Reader(page).rows[0]


def test_curves_show_each_supernet_and_its_share(start: Callable[..., Study]) -> None:
    study = start()
    train_supernets(study, epochs=100)
    figure = plots.curves(history(study))
    steps = 100 * (10 + 11 + 12 + 13) - 11
    for number, own in enumerate((1000, 1089, 1200, 1300)):
        assert f"{number}: {100 * own / steps:.0f} %" in texts(figure)
    loss, accuracy, share = figure.axes
    assert [ax.get_title() for ax in (loss, accuracy, share)] == [
        "training loss",
        "validation accuracy (%)",
        "share of the steps (%)",
    ]
    assert len(loss.lines) == 8  # raw and smoothed
    assert loss.lines[0].get_xdata()[-1] == 100 and accuracy.lines[0].get_ydata()[-1] == pytest.approx(990)  # type: ignore[index]


@pytest.mark.parametrize("epochs", [1, 2])
def test_curves_of_one_supernet_without_accuracy(epochs: int) -> None:
    rows = [{"epoch": epoch, "supernet": 0, "steps": 5, "loss": 1.0} for epoch in range(epochs)]
    figure = plots.curves(pd.DataFrame(rows).reindex(columns=HISTORY))
    assert [ax.get_title() for ax in figure.axes] == ["training loss"] and not figure.legends
    assert plots.png(figure).startswith(b"\x89PNG")


def test_rank_plot_compares_the_supernet_with_macs(start: Callable[..., Study]) -> None:
    study = start(retrain="all", seeds=2)
    rng = np.random.default_rng(1)
    alone = []
    for number in range(10):
        accuracy = 0.8 + 0.1 * rng.random()
        alone.append(accuracy)
        arch = try_(study, number)
        for seed, off in enumerate((-0.01, 0.01)):
            train_alone(study, arch, accuracy + off, seed)
    ranked = study.ranked
    np.testing.assert_allclose(ranked["accuracy_alone"], alone)
    ours = brute_force_tau(ranked["accuracy"].tolist(), alone)
    macs = brute_force_tau(ranked["macs"].tolist(), alone)
    figure = plots.rank(ranked)
    assert [ax.get_title() for ax in figure.axes] == [
        f"supernet: τ = {ours:.2f} (n = 10)",
        f"macs alone: τ = {macs:.2f} (n = 10)",
    ]
    assert study.space.label(study.find(ranked["architecture"][int(np.argmax(alone))])) in texts(figure)
    (bars,) = figure.axes[0].collections
    heights = [np.ptp(path.vertices[:, 1]) for path in bars.get_paths()]  # type: ignore[attr-defined]
    np.testing.assert_allclose(heights, 2 * 100 * np.std([-0.01, 0.01], ddof=1))
    assert f"{ours:.2f} for the supernet and {macs:.2f} for macs" in page_of(study)


def test_rank_says_when_there_is_nothing_to_say(start: Callable[..., Study]) -> None:
    study = start()
    for number in range(6):
        arch = try_(study, number)
        if number < 2:
            train_alone(study, arch, 0.9 + number / 100)
    assert "supernet: n = 2, too few for τ" in texts(plots.rank(study.ranked))
    assert "tau says nothing here" in page_of(study)
    for number in (2, 3):
        train_alone(study, list(study.space.enumerate())[number], 0.9)
    front = study.ranked.iloc[[1, 2, 3]]
    assert "order these architectures alike" in texts(plots.rank(front))
    assert len(both_accuracies(study.ranked)) == 4


def test_long_labels_become_the_numbers_of_the_front() -> None:
    labels = [f"a very long architecture {number}" for number in range(4)]
    table = pd.DataFrame({"label": labels, "accuracy": [0.9, 0.5, 0.7, 0.6], "macs": [4e6, 1e6, 2e6, 3e6], "params": 1})
    table = table.assign(on_front=[True, True, True, False], accuracy_alone=[0.9, 0.8, 0.7, 0.95])
    assert not drawable(labels)
    assert {text.get_text() for text in plots.rank(table).axes[1].texts} == {"1", "3"}
    figure = plots.front(
        table.drop(columns="accuracy_alone"), [Objective("accuracy", "%", True), Objective("macs", "", False)]
    )
    assert [text.get_text() for text in figure.axes[0].texts] == ["1", "2", "3"]


def test_labels_do_not_overlap_and_stay_inside() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(60, 2)) ** 3
    figure = Figure(figsize=(5, 4), dpi=100)
    axes = figure.add_subplot()
    axes.plot(*points.T, "o")
    names = [f"name {number}" for number in range(60)]
    write_labels(axes, points, names, points)
    boxes = [text.get_bbox_patch() or text for text in axes.texts]
    figure.draw_without_rendering()
    extents = [matplotlib.text.Text.get_window_extent(box) for box in boxes]  # type: ignore[arg-type]
    frame = axes.get_window_extent()
    assert 10 < len(extents) < 60
    assert not any(a.shrunk(0.95, 0.7).overlaps(b.shrunk(0.95, 0.7)) for a, b in combinations(extents, 2))
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in extents)


def test_plots_leave_matplotlib_as_it_was() -> None:
    code = (
        "import sys, matplotlib; before = matplotlib.rcParams.copy(); import pandas as pd; from nas import plots\n"
        "rows = [{'epoch': 0, 'supernet': n, 'steps': 5, 'loss': 1.0, 'accuracy': .5} for n in range(12)]\n"
        "plots.png(plots.curves(pd.DataFrame(rows)))\n"
        "assert 'matplotlib.pyplot' not in sys.modules and matplotlib.rcParams.copy() == before"
    )
    subprocess.run([sys.executable, "-W", "error::UserWarning:matplotlib", "-c", code], check=True)


# --- the page ---


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
    assert len(reader.rows) == 1 + len(study.front)
    assert "not finished" not in reader.text


def test_page_of_a_limited_search_is_finished_with_what_the_limits_leave(start: Callable[..., Study]) -> None:
    reader = Reader(page_of(complete(start(strategy="one-shot", limits={"macs": 22e6}), trials=22)))
    assert "not finished" not in reader.text
    assert "at most 36 architectures with macs of at most 22.0 M for" in reader.text


def test_page_needs_nothing_outside_it(start: Callable[..., Study]) -> None:
    page = page_of(complete(start()))
    sources = [value or "" for _, name, value in Reader(page).attributes if name in ("src", "href")]
    assert len(sources) == 3 and all(source.startswith("data:image/png;base64,") for source in sources)
    assert "http" not in page and "url(" not in page and "<script" not in page
    assert 'name="viewport"' in page and "prefers-color-scheme: dark" in page


def test_code_on_the_page_is_python(start: Callable[..., Study]) -> None:
    page = Reader(page_of(complete(start())))
    code = page.text[page.text.index("import nas, torch") : page.text.index("logits = model(images)") + 22]
    compile(code, "page", "exec")
    assert len(code.splitlines()) == 5 and "torch.zeros(8, 1, 8, 8)" in code


def test_page_escapes_everything(start: Callable[..., Study], digits: ImageData) -> None:
    nasty = "<script>alert('\"&')</script>"
    space = SearchSpace(nasty, (Categorical("<i>", (nasty, "<b>bold</b>", "x" * 40)),))
    study = start(space, replace(digits, name=f"<u>{nasty}"), retrain="none")
    with study.session(f"nas search --out '{nasty}'"):
        for number in range(3):
            try_(study, number)
    page = page_of(study)
    assert not re.search(r"<(script|i|b>bold|u)\b", page.replace("<b>", ""))
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


def test_page_without_supernets(start: Callable[..., Study]) -> None:
    study = start(strategy="random", supernets=0)
    for number in range(5):
        train_alone(study, try_(study, number), 0.9)
    reader = Reader(page_of(study))
    assert "accuracy validation" in reader.rows[0] and "supernet," not in reader.text and "ranked" not in reader.text
    assert [path.stem for path in write_plots(study)] == ["front"]


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
