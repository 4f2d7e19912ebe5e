"""Draw the pictures of README and docs/results.md from results/, and write their tables.

python -m benchmarks.draw_results            # docs/pictures/*.png, and the tables
python -m benchmarks.draw_results --check    # draws nothing; fails where a table is not what results/ say
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.front_tables import FRONT_WAYS, FRONTS, front_rows
from benchmarks.result_files import ROOT, read
from benchmarks.result_tables import (
    PLACEMENTS,
    REAL,
    REAL_METRICS,
    TABLES,
    UNTRAINED,
    WAYS,
    before,
    filled,
    ranking,
    real_rows,
    shared,
    untrained,
    usual,
    without_data,
    zoo,
)
from benchmarks.search_tables import CONTROLS, SPACES, rows_of
from nas.report.plots import BLUE, COLOURS, DARK, DPI, GREY, STYLE, png

PAGES = (ROOT / "README.md", ROOT / "docs" / "results.md")
PICTURES = ROOT / "docs" / "pictures"
ORANGE, GREEN, PURPLE = COLOURS[1:4]
LABEL = {"facecolor": "white", "edgecolor": "none", "pad": 1}
MARKS = {
    "distortion": ("o-", BLUE),
    "iterative": ("s-", GREEN),
    "torch-pruning-inner": ("^--", ORANGE),
    "torch-pruning": ("v--", PURPLE),
    "uniform": ("D:", DARK),
    "random": ("X:", GREY),
}


def panels(count: int, height: float, width: float = 8.0, **shared: bool) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    return figure, list(figure.subplots(1, count, squeeze=False, **shared)[0])  # type: ignore[arg-type]


def pruning(model: str, lowest: Sequence[float], highest: Sequence[float]) -> Figure:
    """Accuracy against the macs that are left, before and after one epoch; bars from the worst seed to the best."""
    table = usual(model)
    dense = table["dense"].iloc[0]
    figure, axes = panels(2, 4.3)
    columns = {"before any training": before(table), "after one epoch of training": table["trained"]}
    for place, (axis, (title, values)) in enumerate(zip(axes, columns.items(), strict=True)):
        axis.axhline(dense, color=DARK, lw=0.9)
        axis.annotate(f"dense, {dense:.1f} %", (74, dense), (3, 3), textcoords="offset points", fontsize=8.5)
        low, below = lowest[place], pd.Series(0, index=table["speedup_asked"].unique())
        for method, (style, colour) in MARKS.items():
            rows = table.assign(value=values, left=100 / table["macs_speedup"])[table["method"] == method]
            points = rows.groupby("speedup_asked").agg(
                x=("left", "mean"), y=("value", "mean"), a=("value", "min"), b=("value", "max")
            )
            bars = (points["y"] - points["a"], points["b"] - points["y"])
            axis.errorbar(
                points["x"], points["y"], bars, fmt=style, color=colour, ms=5.5, lw=1.3, capsize=2.5, label=WAYS[method]
            )
            for asked, point in points[points["y"] < low].iterrows():
                at = low + (0.02 + 0.06 * below[asked]) * (highest[place] - low)
                axis.text(
                    point["x"],
                    at,
                    f"↓ {point['y']:.0f} %",
                    color=colour,
                    ha="center",
                    fontsize=9,
                    weight="bold",
                    bbox=LABEL,
                )
                below[asked] += 1
        axis.set(title=title, xlabel="macs left (% of the dense network)", xlim=(74, 28), ylim=(low, highest[place]))
        axis.set_xticks([100 / 1.5, 50, 100 / 3], ["67", "50", "33"])
    axes[0].set_ylabel("CIFAR-10 test accuracy (%)")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, [name.replace("`", "") for name in names], loc="outside lower center", ncols=3)
    return figure


def bars(
    axis: Axes, names: Sequence[str], values: Sequence[float], colours: Sequence[str], form: str = "{:.3g}"
) -> None:
    """Horizontal bars, the first on top, each with its value."""
    drawn = axis.barh(range(len(names)), values, color=list(colours), height=0.7)
    axis.bar_label(
        drawn,
        [form.format(value) for value in values],
        padding=4,
        fontsize=9,
        bbox=LABEL,
    )
    axis.set_yticks(range(len(names)), [name.replace("`", "") for name in names])
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    axis.margins(x=0.12)


def data_free() -> Figure:
    table = without_data()
    figure, (axis,) = panels(1, 3.0)
    sources = {"1,000 images": BLUE, "made from batch norms": GREEN, "standard normal noise": GREY}
    for place, (source, colour) in enumerate(sources.items()):
        values = pd.to_numeric(table[source])
        drawn = axis.bar(np.arange(len(table)) + 0.27 * (place - 1), values, 0.25, color=colour, label=source)
        axis.bar_label(drawn, ["" if np.isnan(value) else f"{value:.1f}" for value in values], padding=2, fontsize=9)
    axis.set_xticks(range(len(table)), [f"{row.iloc[0]}\n{row.iloc[1]} fewer macs" for _, row in table.iterrows()])
    axis.set(ylabel="test accuracy (%)", ylim=(0, 100))
    axis.legend(title="inputs of criteria and repair", loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def real_models() -> Figure:
    """What is kept of each metric at half the macs: the part of the dense model's, of a perplexity the inverse."""
    table = real_rows("macs").query("part == 0.5").drop_duplicates(["model", "method", "seed"])
    dense = read("prune_real_cpu_202611/prune_real.jsonl").query("method == 'dense'").groupby("model").first()
    known = [(model, metric) for model, metric in REAL_METRICS if model in dense.index]
    figure, (axis,) = panels(1, 4.0, width=10.0)
    shown = {method: title for method, title in REAL.items() if method in set(table["method"])}
    colours = dict(zip(REAL, (*COLOURS[:4], DARK, GREY, "#c4b59d", "#8a6d9b"), strict=True))
    width = 0.85 / max(1, len(shown))
    for place, (method, title) in enumerate(shown.items()):
        own = table[table["method"] == method]
        means = [own.loc[own["model"] == model, metric].mean() / dense[metric][model] for model, metric in known]
        kept = [
            1 / mean if metric == "perplexity_ratio" else mean for mean, (_, metric) in zip(means, known, strict=True)
        ]
        axis.bar(
            np.arange(len(known)) + width * (place - (len(shown) - 1) / 2),
            np.multiply(100, kept),
            width * 0.92,
            color=colours[method],
            label=title.replace("`", ""),
        )
    axis.set_xticks(
        range(len(known)), [REAL_METRICS[key][0].removesuffix(", %").replace(", ", ",\n", 1) for key in known]
    )
    axis.tick_params(axis="x", labelsize=6.5)
    axis.set(ylabel="kept of the dense model's (%)", ylim=(0, 104))
    axis.grid(axis="x", visible=False)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def front_lines(study: str) -> Figure:
    """What members of a front and their controls are worth against their cost, a line for each way and seed."""
    rows, (_, (cost, title, _), metrics) = front_rows(study), FRONTS[study]
    figure, axes = panels(len(metrics), 4.0)
    styles = {
        "search": ("o-", BLUE), "estimated": ("s-", GREEN), "nested": ("P-", "#1b9e9e"), "prune": ("^--", ORANGE),
        "prune-trained": ("^:", ORANGE), "layers": ("v--", PURPLE), "layers-even": ("D--", DARK), "layers-trained": ("v:", PURPLE),
        "torch-pruning": ("X--", GREY), "torch-pruning-trained": ("X:", GREY),
    }  # fmt: skip
    for axis, (metric, (name, _)) in zip(axes, metrics.items(), strict=True):
        for (way, seed), own in rows.groupby(["method", "seed"], sort=False):
            label = FRONT_WAYS[way] if seed == rows["seed"].min() else None
            axis.plot(own[cost], own[metric], styles[way][0], color=styles[way][1], ms=5.5, lw=1.3, label=label)
        axis.set(xlabel=title, ylabel=name)
        if cost == "left":
            axis.xaxis.set_major_formatter("{x:.0%}")
            axis.invert_xaxis()
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3)
    return figure


def best_so_far() -> Figure:
    """The best accuracy found after so many trials, mean over seeds with two standard errors, on tables as published and relabelled."""
    figure = Figure(figsize=(10.0, 6.2), dpi=DPI, layout="constrained", facecolor="white")
    grid = figure.subplots(2, len(SPACES), sharex=True)
    shown = {"bayesian": BLUE, "linas": "#1b9e9e", "coarse-to-fine": GREEN, "evolution": ORANGE, "local-search": PURPLE,
             "gaussian-process": DARK, "random": GREY}  # fmt: skip
    trials = range(10, 101, 10)
    for row, part in zip(grid, ("published", "relabelled"), strict=True):
        rows = rows_of(part)
        for axis, (space, title) in zip(row, SPACES.items(), strict=True):
            for method, colour in shown.items():
                own = rows[(rows["table"] == space) & (rows["method"] == method)][[f"after_{n}" for n in trials]]
                if own.empty:
                    continue
                mean, error = own.mean().to_numpy(), own.sem().fillna(0.0).to_numpy()
                line = "--" if method in CONTROLS else "-"
                axis.plot(trials, mean, line, color=colour, lw=1.5, label=method.replace("-", " "))
                axis.fill_between(trials, mean - 2 * error, mean + 2 * error, color=colour, alpha=0.15, lw=0)
            best = rows.loc[rows["table"] == space, "after_100"].max()
            low = rows.loc[(rows["table"] == space) & (rows["method"] == "random"), "after_20"].mean()
            axis.set(title=f"{title}, {part}", ylim=(low - 0.1 * (best - low), best + 0.05 * (best - low)))
    for axis in grid[-1]:
        axis.set_xlabel("trials")
    for row in grid:
        row[0].set_ylabel("best accuracy so far (%)")
    figure.legend(*grid[1][0].get_legend_handles_labels(), loc="outside lower center", ncols=7)
    return figure


def whole_zoo() -> Figure:
    table = zoo()
    figure, (axis,) = panels(1, 2.6)
    columns = {"models": ("in the list", GREY), "proved here": ("pruned and proved here", BLUE),
               "finished by Torch-Pruning": ("finished by Torch-Pruning 1.6.1", ORANGE)}  # fmt: skip
    for place, (column, (name, colour)) in enumerate(columns.items()):
        drawn = axis.bar(np.arange(len(table)) + 0.27 * (place - 1), table[column], 0.25, color=colour, label=name)
        axis.bar_label(drawn, padding=2, fontsize=9)
    axis.set_xticks(range(len(table)), table["library"])
    axis.set(ylabel="model definitions")
    axis.margins(y=0.12)
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def latency() -> Figure:
    """Latency before and after, with quartiles, for channels in multiples of 8."""
    table = read("prune_latency_cpu_202611/prune_latency.csv")
    table = table[table["round_to"] == 8].sort_values(["model", "runtime"])
    figure, (axis,) = panels(1, 3.0)
    for place, (when, name, colour) in enumerate((("before", "as it was", GREY), ("after", "half of it asked", BLUE))):
        value, low, high = (
            np.array([row[f"{row['runtime']}_{when}_{part}"] for row in table.to_dict("records")])
            for part in ("ms", "p25", "p75")
        )
        at = np.arange(len(table)) + 0.36 * (place - 0.5)
        axis.bar(at, value, 0.34, color=colour, label=name, yerr=(value - low, high - value), capsize=3, ecolor=DARK)
        for x, y, top in zip(at, value, high, strict=True):
            axis.text(x, top + 2, f"{y:.0f}", ha="center", fontsize=9)
    names = {
        "resnet50": "ResNet-50",
        "vit_small_patch16_224": "ViT-S/16",
        "eager": "PyTorch",
        "onnxruntime": "ONNX Runtime",
    }
    axis.set_xticks(range(len(table)), [f"{names[m]}\n{names[r]}" for m, r in table[["model", "runtime"]].to_numpy()])
    axis.set(ylabel="latency of one image (ms)", ylim=(0, 115))
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def knapsack() -> Figure:
    table = read("latency_lever_cpu_202611/latency_lever.csv")
    figure, (axis,) = panels(1, 3.0, 6.0)
    for key, name, style, colour in (("latency", "milliseconds", "o-", BLUE), ("macs", "macs", "s--", ORANGE)):
        rows = table[table["lever"] == key].sort_values("latency_part")
        axis.plot(100 * rows["latency_part"], rows["least_squares"], style, color=colour, ms=7, label=name)
        for x, y in zip(100 * rows["latency_part"], rows["least_squares"], strict=True):
            shift = 8 if key == "latency" else -18
            axis.annotate(f"{y:.1f}", (x, y), (0, shift), textcoords="offset points", ha="center", color=colour)
    axis.set(xlabel="measured latency left (%)", ylabel="test accuracy (%)", xlim=(30, 50), ylim=(20, 70))
    axis.legend(title="in the knapsack", loc="upper left")
    return figure


def ranks() -> Figure:
    """Kendall's tau of every method at one budget, one mark per seed, beside how well one more training agrees."""
    table, agreement = ranking(), read("pooling_ranking_cifar10_cpu_202611/agreement.csv")["kendall_tau"]
    figure, (axis,) = panels(1, 3.8)
    order = list(dict.fromkeys(table["method"]))
    axis.axvspan(
        agreement.min(),
        agreement.max(),
        color=GREEN,
        alpha=0.25,
        label="one more training alone of all 36 (thirteen times the images)",
    )
    axis.axvline(0, color=DARK, lw=0.8)
    for at, method in enumerate(order):
        tau = table.loc[table["method"] == method, "kendall_tau"]
        colour = DARK if method in ("macs", "even", "halving") else BLUE
        axis.plot(tau, np.full(len(tau), at), "-o", color=colour, ms=8)
        axis.text(0.78, at, ", ".join(f"{value:.2f}" for value in tau), va="center", fontsize=9)
    axis.set_yticks(range(len(order)), [PLACEMENTS[method].replace("`", "") for method in order])
    axis.set(xlabel="Kendall's tau with the mean of three trainings alone (grey: controls)", xlim=(-0.1, 0.9))
    figure.legend(loc="outside lower center")
    return figure


def sampled() -> Figure:
    figure, axes = panels(2, 3.9, sharey=True)
    offsets = {"short": {"delayed": (6, -9), "progressive": (6, -10), "performance": (6, -9)},
               "long": {"sorted": (6, -9), "progressive": (-46, -14)}}  # fmt: skip
    parts = (("short", "", "128,000"), ("long", "_long", "512,000"))
    for axis, (key, part, passes) in zip(axes, parts, strict=True):
        table = read(f"samplers{part}_cifar10_cpu_202611/summary.csv").set_index("sampler")
        macs = table.loc["macs", "tau"]
        axis.axhline(macs, color=DARK, lw=1.0)
        axis.annotate(f"macs as the score, {macs:.2f}", (0.98, macs), (0, 3), xycoords=("axes fraction", "data"),
                      textcoords="offset points", ha="right", fontsize=8.5)  # fmt: skip
        for name, row in table.drop(index="macs").iterrows():
            axis.plot(100 * row["mean"], row["tau"], "o", color=BLUE if name == "groups" else GREY, ms=7)
            shift = offsets[key].get(str(name), (6, 4))
            axis.annotate(str(name), (100 * row["mean"], row["tau"]), shift, textcoords="offset points", fontsize=9)
        axis.set(title=f"{passes} passes", xlabel="mean accuracy of 24 subnets (%)")
        axis.margins(x=0.22)
    axes[0].set(ylabel="Kendall's tau with training alone", ylim=(-0.1, 0.65))
    return figure


def scores() -> Figure:
    table = untrained()
    figure, (axis,) = panels(1, 3.0)
    colours = [DARK if name == "macs" else BLUE if " " in name else GREY for name in UNTRAINED]
    bars(axis, table["score"], pd.to_numeric(table["Spearman"]), colours, "{:.3f}")
    axis.axvline(float(table.loc[table["score"] == UNTRAINED["macs"], "Spearman"].iloc[0]), color=DARK, lw=1)
    axis.set(xlabel="Spearman's rho with accuracy after 200 epochs", xlim=(0, 1.05))
    return figure


def predicted() -> Figure:
    table = read("latency_table_cpu_202611/latency_table.csv")
    figure, axes = panels(2, 3.6, sharex=True, sharey=True)
    names = (("table_ms", "sum of measured blocks", BLUE), ("macs_line_ms", "a line through macs", ORANGE))
    for axis, (column, title, colour) in zip(axes, names, strict=True):
        axis.axline((1, 1), slope=1, color=DARK, lw=0.9)
        spread = (table["measured_ms"] - table["p25_ms"], table["p75_ms"] - table["measured_ms"])
        axis.errorbar(table["measured_ms"], table[column], xerr=spread, fmt="o", color=colour, ms=4.5, lw=0.9)
        axis.set(title=title, xlabel="measured (ms)", xlim=(0.8, 4.8), ylim=(0.8, 4.8))
    axes[0].set_ylabel("predicted (ms)")
    return figure


def devices() -> Figure:
    found = read("latency_transfer_nasbench201_202611/latency_transfer.json")
    means, noise = pd.DataFrame(found["means"]), found["bounds"]["noise"]["mean"]
    figure, axes = panels(2, 3.6, sharey=True)
    names = {"transfer": ("with other devices' tables", "o-", BLUE), "ridge": ("ridge regression", "s--", ORANGE),
             "from scratch": ("from scratch", "^:", DARK)}  # fmt: skip
    for axis, design in zip(axes, ("random", "designed"), strict=True):
        for method, (name, style, colour) in names.items():
            rows = means[(means["design"] == design) & (means["method"] == method)]
            axis.plot(rows["samples"], rows["mean"], style, color=colour, ms=6, label=name)
        axis.axhline(noise, color=GREEN, lw=1, label="what the tables' noise allows (estimated)")
        axis.set(title=f"{design} cells measured", xlabel="measurements on the new device", xscale="log")
        axis.set_xticks([10, 20, 50, 100], ["10", "20", "50", "100"])
        axis.set_xticks([], minor=True)
    axes[0].set_ylabel("mean Spearman of five devices")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure


def throughput() -> Figure:
    rows = read("cost_throughput_cpu_202611/cost_throughput.json")["results"]
    rows = sorted(rows, key=lambda row: -row["batch_per_second_median"])
    figure, (axis,) = panels(1, 3.0)
    bars(
        axis,
        [row["space"] for row in rows],
        [row["batch_per_second_median"] / 1e6 for row in rows],
        [BLUE] * len(rows),
        "{:.1f}",
    )
    axis.set(xlabel="million architectures a second, exact macs and params, one thread")
    return figure


def prefixes() -> Figure:
    table = shared()
    figure, (axis,) = panels(1, 3.3)
    columns = (("times faster", "time", BLUE), ("times fewer macs", "macs, which is what sharing saves", GREY))
    for place, (column, name, colour) in enumerate(columns):
        values = pd.to_numeric(table[column])
        drawn = axis.barh(np.arange(len(table)) + 0.36 * (place - 0.5), values, 0.34, color=colour, label=name)
        axis.bar_label(drawn, [f"{value:.1f}" for value in values], padding=3, fontsize=9)
    axis.set_yticks(range(len(table)), table["subnets"])
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    axis.margins(x=0.1)
    axis.set(xlabel="one by one, divided by shared prefixes")
    axis.legend(loc="upper right")
    return figure


def grouped() -> Figure:
    folder = "group_size_cifar10_cpu_202611"
    accuracy, networks = read(f"{folder}/accuracy.csv"), read(f"{folder}/networks.csv")
    figure, axes = panels(2, 3.8, sharey=True)
    for axis, (kind, title) in zip(axes, (("resnet", "ResNet blocks"), ("mobilenet", "MobileNet blocks")), strict=True):
        for word, style, colour, name in (
            ("size", "o", BLUE, "channels a group"),
            ("number", "s", ORANGE, "groups a layer"),
        ):
            for row in networks[(networks["kind"] == kind) & networks["grouping"].str.startswith(word)].to_dict(
                "records"
            ):
                values = (
                    100
                    * accuracy.loc[(accuracy["kind"] == kind) & (accuracy["grouping"] == row["grouping"]), "accuracy"]
                )
                count = row["grouping"].split()[1]
                label = f"constant number of {name}" if count == "1" else None
                axis.plot(
                    [row["latency_ms"]] * len(values), values, "-" + style, color=colour, ms=5.5, lw=1, label=label
                )
                axis.annotate(count, (row["latency_ms"], values.max()), (0, 5), textcoords="offset points",
                              ha="center", color=colour, fontsize=9)  # fmt: skip
        axis.set(title=title, xlabel="latency of one image (ms)")
        axis.margins(y=0.12)
    axes[0].set_ylabel("test accuracy (%), two seeds")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure


DRAWN: dict[str, Callable[[], Figure]] = {
    "prune-resnet56": lambda: pruning("resnet56", (60, 79), (90, 90)),
    "prune-resnet20": lambda: pruning("resnet20", (40, 72), (86, 88)),
    "without-data": data_free,
    "real": real_models,
    "pretrained-front": lambda: front_lines("pretrained_front"),
    "encoder-front": lambda: front_lines("encoder_front"),
    "strategies": best_so_far,
    "zoo": whole_zoo,
    "half-latency": latency,
    "lever": knapsack,
    "placements": ranks,
    "samplers": sampled,
    "untrained": scores,
    "block-table": predicted,
    "transfer": devices,
    "costs": throughput,
    "shared": prefixes,
    "group-size": grouped,
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--check", action="store_true", help="fail where a table is not what results/ say")
    if options.parse_args().check:
        if wrong := [page.name for page in PAGES if filled(page.read_text()) != page.read_text()]:
            raise SystemExit(
                f"tables of {', '.join(wrong)} are not what results/ say: run python -m benchmarks.draw_results"
            )
        return
    for page in PAGES:
        page.write_text(filled(page.read_text()))
    PICTURES.mkdir(exist_ok=True)
    with matplotlib.style.context(STYLE):
        for name, draw in DRAWN.items():
            (PICTURES / f"{name}.png").write_bytes(png(draw()))
    print(f"{len(DRAWN)} pictures and {len(TABLES)} tables")


if __name__ == "__main__":
    main()
