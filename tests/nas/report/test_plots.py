"""Plots of a run: real run folders with made-up figures."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from itertools import combinations

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from nas import Study
from nas.objectives.correlation import both_figures
from nas.objectives.objective import Objective, parse_objectives
from nas.report import plots
from nas.report.axes import drawable
from nas.report.point_labels import write_labels
from nas.report.write import HISTORY, history, write_plots
from tests.made_up_studies import Reader, complete, page_of, train_alone, train_supernets, try_
from tests.nas.objectives.test_correlation import brute_force_tau


def test_plots_are_pngs_of_readme_size(start: Callable[..., Study]) -> None:
    study = complete(start())
    paths = write_plots(study)
    assert [path.relative_to(study.folder).as_posix() for path in paths] == [
        f"plots/{n}.png" for n in ("front", "choices", "curves", "rank")
    ]
    before = [path.read_bytes() for path in paths]
    for path in paths:
        with Image.open(path) as image:
            image.verify()
            assert image.format == "PNG" and image.size == (1050, image.size[1] if path.stem == "choices" else 675)
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
    assert next(path.name for path in write_plots(study)) == "front.png"
    if "activations" in objectives:
        assert "activations" in Reader(page).rows[0]


def test_choices_of_a_front_are_a_cell_each() -> None:
    places = np.array([[0.0, 1.0, 0.5], [np.nan, 1.0, 0.0]])
    (axes, _) = plots.choices(places, ["block.conv1.weight:0", "block"], ["1-", "44", "31"]).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["block.conv1.weight:0", "block"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1-", "44", "31"]
    (image,) = axes.images
    assert image.get_array().filled(-1).tolist() == [[0.0, 1.0, 0.5], [-1.0, 1.0, 0.0]]
    assert [text.get_text() for text in axes.texts] == ["–"]
    (many, _) = plots.choices(np.zeros((60, 2)), ["c"] * 60, ["m" * 40, "n"]).axes
    assert [label.get_text() for label in many.get_xticklabels()] == [
        "1",
        "2",
    ] and "order of its table" in many.get_xlabel()


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
    assert len(both_figures(study.ranked)) == 4


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
        "import sys, matplotlib; before = matplotlib.rcParams.copy(); import pandas as pd; from nas.report import plots\n"
        "rows = [{'epoch': 0, 'supernet': n, 'steps': 5, 'loss': 1.0, 'accuracy': .5} for n in range(12)]\n"
        "plots.png(plots.curves(pd.DataFrame(rows)))\n"
        "assert 'matplotlib.pyplot' not in sys.modules and matplotlib.rcParams.copy() == before"
    )
    subprocess.run([sys.executable, "-W", "error::UserWarning:matplotlib", "-c", code], check=True)


def test_networks_that_turn_out_behind_are_told_from_the_front() -> None:
    objectives = parse_objectives(("accuracy", "macs"))
    table = pd.DataFrame(
        {"label": ["a", "b", "c"], "accuracy": [0.5, 0.6, 0.7], "macs": [1e6, 2e6, 3e6], "params": 1, "on_front": True}
    ).assign(accuracy_alone=[0.9, 0.8, 0.95])
    axes = plots.front(table, objectives).axes[0]
    drawn = {line.get_label(): line.get_xydata() for line in axes.lines if not str(line.get_label()).startswith("_")}
    assert drawn["behind once trained alone"].tolist() == [[2, 80]]
    assert drawn["front (trained alone, test)"].tolist() == [[1, 90], [3, 95]]
