"""Figures of a search: its front, the training of its supernets, and how well they ranked; and of a pruning: what was cut where.

Every function takes tables of a `Study`, or what a summary holds, and gives a `matplotlib.figure.Figure`; nothing global changes.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import matplotlib
import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nas.objectives import OBJECTIVES, Objective, both_figures, kendall, losses, non_dominated, same_order
from nas.report.axes import LONGEST_LABEL, Axis, axis_of, drawable, front_axes, measured_axis
from nas.report.point_labels import spread, write_labels

BLUE, GREY, DARK, INK = "#1368aa", "#b4bac2", "#6b7480", "#252b33"
COLOURS = ("#1368aa", "#d95f02", "#1b9e77", "#b03a8c", "#8a6d00", "#5b4fb5", "#c0392b", "#4d6572")
STYLE = {
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.edgecolor": DARK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e9ed",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": DARK,
    "ytick.color": DARK,
}
SIZE = (7.0, 4.5)
DPI = 150
MARKS = "s^vP>X<"
"""Of methods beside a front."""
NAMED = 45  # groups that a figure of cuts writes the names of
LONGEST = 44  # characters of a name
MEMBERS = 30  # of a front, whose names fit under a figure
Points = np.ndarray  # rows of x, y


def front(
    ranked: pd.DataFrame,
    objectives: Sequence[Objective],
    worth: Objective = OBJECTIVES["accuracy"],
    *,
    searched: str = "supernet",
    title: str = "",
    parent: pd.DataFrame | None = None,
    controls: pd.DataFrame | None = None,
) -> Figure:
    """Every trial, and the front as the best that can be had at each cost.

    Args:
        ranked: `Study.ranked`, with at least one row.
        objectives: the study's. The metric stands on the y axis against macs, or else against the first other objective; without
            it the first stands against the second.
        worth: the metric that networks trained alone have.
        searched: where the figure that the search saw comes from.
        title: of the figure.
        parent: the row of the trained model that was searched, if one was.
        controls: what other methods made of it, by `method` and figures.
    """
    with matplotlib.style.context(STYLE, after_reset=True):
        figure, (axes,) = _panels(1)
        table = ranked.assign(trial=np.arange(1, len(ranked) + 1), name=_names(ranked))
        table = table.dropna(subset=[objective.name for objective in objectives])
        x, y = front_axes(table, objectives, worth)
        members = table[table["on_front"]].sort_values([x.column, y.column], ascending=[True, not y.higher_is_better])
        where = {True: f" ({searched})", False: ""}[y.column == worth.name]
        own = f"{worth.name}_alone"
        others = table[~table["on_front"]]
        if len(others):
            size = 5 if len(others) < 300 else 3
            axes.plot(*_xy(others, x, y).T, "o", color=GREY, ms=size, mec="none", label=f"dominated{where}")
        line = _staircase(_xy(members, x, y), x, y)
        axes.plot(*line.T, color=BLUE, lw=1.4)
        axes.plot(*_xy(members, x, y).T, "o", color=BLUE, mfc="white", mew=1.5, ms=6.5, label=f"front{where}")
        shown = members.iloc[spread(len(members))]
        anchors, points, lines = _xy(shown, x, y), [_xy(table, x, y)], [line]
        if y.column == worth.name and own in table:
            alone = y._replace(column=own)
            lines += _mark_alone(axes, table.assign(stays=_stays(table, objectives)), x, y, alone)
            points.append(_xy(table[table[own].notna()], x, alone))
            if others[own].isna().all():  # there is room around the diamonds
                anchors = np.where(shown[[own]].notna(), _xy(shown, x, alone), anchors)
        points += _mark_beside(axes, parent, controls, x, y)
        axes.set(xlabel=x.label, ylabel=y.label, title=title)
        axes.margins(x=0.1, y=0.09)
        entries = len(axes.get_legend_handles_labels()[1])
        figure.legend(loc="outside lower center", ncols=2 if entries == 4 else 3, handletextpad=0.4, columnspacing=1.6)
        sides = {"left": not x.higher_is_better, "up": y.higher_is_better}
        write_labels(axes, anchors, list(shown["name"]), np.concatenate(points), lines, **sides)
        return figure


def curves(history: pd.DataFrame, *, title: str = "") -> Figure:
    """Loss, validation accuracy where there is one, and share of the steps of each supernet, against the epoch.

    Args:
        history: rows of epoch (from 0), supernet, steps, loss and accuracy; long curves are smoothed, with the raw ones behind.
        title: of the figure.
    """
    with matplotlib.style.context(STYLE, after_reset=True):
        columns = [name for name in ("loss", "accuracy") if name in history and history[name].notna().any()]
        members = sorted(history["supernet"].unique())
        figure, panels = _panels(len(columns), strip=len(members) > 1)
        share = history.groupby("supernet")["steps"].sum() / history["steps"].sum()
        for axes, name in zip(panels, columns, strict=False):
            for number, colour in zip(members, _colours(len(members)), strict=True):
                own = history[history["supernet"] == number].sort_values("epoch")
                values = own[name] * (100 if name == "accuracy" else 1)
                label = f"{number:.0f}: {100 * share[number]:.0f} %" if len(members) > 1 else None
                _curve(axes, own["epoch"] + 1, values, colour, label if axes is panels[0] else None)
            axes.set(xlabel="epoch", title={"loss": "training loss", "accuracy": "validation accuracy (%)"}[name])
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
        if len(members) > 1:
            _draw_shares(panels[-1], history, members)
            head = "supernet: share of all steps"
            figure.legend(loc="outside lower center", ncols=min(len(members), 6), columnspacing=1.6, title=head)
        figure.suptitle(title, fontsize=10)
        return figure


def rank(ranked: pd.DataFrame, worth: Objective = OBJECTIVES["accuracy"], *, title: str = "") -> Figure:
    """A metric alone against that from the supernet, and against macs: a supernet is worth training if it orders better.

    Args:
        ranked: `Study.ranked`; rows without either figure are left out.
        worth: the metric.
        title: of the figure.
    """
    with matplotlib.style.context(STYLE, after_reset=True):
        table = both_figures(ranked.assign(name=_names(ranked)), worth)
        figure, panels = _panels(2, sharey=True)
        x = measured_axis(worth, "from the supernet")
        y = measured_axis(worth, "alone")._replace(column=f"{worth.name}_alone")
        _draw_ranking(panels[0], table, x, y, "supernet")
        _draw_ranking(panels[1], table, axis_of("macs", table), y, "macs alone", "by_macs")
        panels[0].set_ylabel(y.label)
        if same_order(table, worth.name):
            note = "the supernet and macs order these architectures alike, so the two τ agree; train all of them alone to tell"
            figure.supxlabel(note, fontsize=8, color=DARK)
        figure.suptitle(title, fontsize=10)
        return figure


def cuts(groups: Mapping[str, Sequence[int]], *, title: str = "") -> Figure:
    """What stays of each group of indices, in order: of its width, and in numbers where there is room for names.

    Args:
        groups: name to indices before and after; at least one.
        title: of the figure.
    """
    with matplotlib.style.context(STYLE, after_reset=True):
        named = len(groups) <= NAMED
        figure = Figure(figsize=(SIZE[0], 1.2 + 0.21 * len(groups) if named else SIZE[1]), layout="constrained")
        axes = figure.add_subplot()
        places = np.arange(len(groups))
        shares = 100 * np.array([after / before for before, after in groups.values()])
        if named:
            axes.barh(places, 100 - shares, left=shares, color=GREY, height=0.75, alpha=0.55)
            axes.barh(places, shares, color=BLUE, height=0.75)
            for place, (before, after) in enumerate(groups.values()):
                axes.text(101.5, place, f"{after} of {before}", va="center", fontsize=8)
            axes.set_yticks(places, [shortened(name) for name in groups], fontsize=8)
            axes.set(xlim=(0, 100), ylim=(len(groups) - 0.4, -0.6), xlabel="indices that stay (%)", title=title)
            axes.grid(visible=False, axis="y")
        else:
            axes.bar(places + 1, 100 - shares, bottom=shares, color=GREY, width=1, alpha=0.55)
            axes.bar(places + 1, shares, color=BLUE, width=1)
            axes.set(xlim=(0.5, len(groups) + 0.5), ylim=(0, 100), xlabel="group, in order of the model")
            axes.set(ylabel="indices that stay (%)", title=title)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(visible=False, axis="x")
        return figure


def choices(places: np.ndarray, names: Sequence[str], members: Sequence[str], *, title: str = "") -> Figure:
    """What each member of a front chose where.

    Args:
        places: of the value of each choice among its values, from 0 for the first to 1 for the last, NaN where a choice does not exist;
            (choices, members), at least one of each.
        names: of the choices.
        members: names of the members, in order.
        title: of the figure.
    """
    with matplotlib.style.context(STYLE, after_reset=True):
        named = len(names) <= NAMED
        height = 1.6 + 0.21 * len(names) if named else SIZE[1] + 1
        figure = Figure(figsize=(SIZE[0], height), layout="constrained")
        axes = figure.add_subplot()
        colours = matplotlib.colormaps["Blues"].with_extremes(bad="white")
        shown = axes.imshow(places, cmap=colours, vmin=-0.15, vmax=1, aspect="auto", interpolation="nearest")
        for row, column in np.argwhere(np.isnan(places)) if named else ():
            axes.text(column, row, "–", ha="center", va="center", color=GREY, fontsize=8)
        if named:
            axes.set_yticks(range(len(names)), [shortened(name) for name in names], fontsize=8)
        else:
            axes.set_ylabel("choice, in order of the space")
        fits = len(members) <= MEMBERS and max(map(len, members)) <= LONGEST_LABEL
        axes.set_xticks(
            range(len(members)), members if fits else [str(place + 1) for place in range(len(members))], fontsize=8
        )
        axes.tick_params(axis="x", rotation=90 if fits else 0)
        axes.set(xlabel="member of the front" + ("" if fits else ", in the order of its table"), title=title)
        axes.grid(visible=False)
        bar = figure.colorbar(
            shown, ax=axes, boundaries=np.linspace(0, 1, 101), ticks=[0, 1], shrink=min(1, 3 / height)
        )
        bar.ax.set_yticklabels(["first value", "last value"], fontsize=8)
        return figure


def shortened(name: str) -> str:
    """A name with its middle left out where it is longer than there is room for."""
    half = LONGEST // 2
    return name if len(name) <= LONGEST else f"{name[: half - 1]}…{name[-half:]}"


def png(figure: Figure) -> bytes:
    """The figure as a PNG file; equal figures give equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


# --- panels and axes ---


def _panels(count: int, *, strip: bool = False, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    """A figure with panels side by side, and below them a low one over the whole width if asked."""
    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained", facecolor="white")
    grid = figure.add_gridspec(2 if strip else 1, count, height_ratios=[3, 1.1] if strip else [1])
    panels: list[Axes] = []
    for column in range(count):
        panels.append(figure.add_subplot(grid[0, column], sharey=panels[0] if panels and sharey else None))
    if strip:
        panels.append(figure.add_subplot(grid[1, :]))
    return figure, panels


def _names(ranked: pd.DataFrame) -> pd.Series:
    """What the points are called: their labels, or their rows in `Study.searched_front` where labels are too long to draw."""
    if drawable(ranked["label"]):
        return ranked["label"]
    ordered = ranked[ranked["on_front"]].sort_values(["macs", "params"]).index
    return pd.Series(range(1, len(ordered) + 1), index=ordered).astype(str).reindex(ranked.index, fill_value="")


def _xy(table: pd.DataFrame, x: Axis, y: Axis) -> Points:
    return np.column_stack([table[axis.column].to_numpy(float) * axis.factor for axis in (x, y)])


def _colours(count: int) -> list[str]:
    if count <= len(COLOURS):
        return list(COLOURS[:count])
    return [to_hex(colour) for colour in matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, count))]


# --- parts of the figures ---


def _staircase(points: Points, x: Axis, y: Axis) -> Points:
    """Corners of the staircase through the non-dominated `points`, which are ordered by x."""
    ordered = points if not x.higher_is_better else points[::-1]
    sign = 1 if y.higher_is_better else -1
    corners: list[tuple[float, float]] = []
    for across, up in ordered:
        if not corners or sign * up > sign * corners[-1][1]:
            if corners:
                corners.append((across, corners[-1][1]))
            corners.append((across, up))
    return np.array(corners)


def _stays(table: pd.DataFrame, objectives: Sequence[Objective]) -> pd.Series:
    """Which rows no other dominates by the figures of networks trained alone, among those that have them."""
    columns = {
        objective.name: next(c for c in (f"{objective.name}_alone", objective.name) if c in table)
        for objective in objectives
    }
    values = table[list(columns.values())]
    known = values.notna().all(axis=1)
    stays = pd.Series(False, index=table.index)
    stays[known] = non_dominated(losses(values[known].to_numpy(float), objectives))
    return stays


def _mark_beside(
    axes: Axes, parent: pd.DataFrame | None, controls: pd.DataFrame | None, x: Axis, y: Axis
) -> list[Points]:
    """A star at the trained model, and a kind of mark for each method beside; returns where they are."""
    marked = []
    known = {x.column, y.column}
    if controls is not None and known <= set(controls):
        for number, (method, rows) in enumerate(controls.dropna(subset=sorted(known)).groupby("method")):
            marked.append(_xy(rows, x, y))
            colour = COLOURS[1 + number % (len(COLOURS) - 1)]
            axes.plot(*marked[-1].T, MARKS[number % len(MARKS)], color=colour, ms=6, mec="white", mew=0.5, label=method)
    if parent is not None and len(parent) and known <= set(parent) and parent[sorted(known)].notna().all(axis=None):
        marked.append(_xy(parent, x, y))
        axes.plot(*marked[-1].T, "*", color=INK, ms=11, mec="white", mew=0.6, label="the trained model")
    return marked


def _mark_alone(axes: Axes, table: pd.DataFrame, x: Axis, y: Axis, alone: Axis) -> list[Points]:
    """Diamonds at the figures alone, those of the front tied to what the search saw, and open where others turned out better; returns
    the ties.
    """
    known = table[table[alone.column].notna()]
    own = known[known["on_front"]]
    ties = list(np.stack([_xy(own, x, y), _xy(own, x, alone)], axis=1))
    for tie in ties:
        axes.plot(*tie.T, color=BLUE, lw=0.8, ls=(0, (1, 2)))
    size = 4.5 if len(known) < 300 else 3
    for part, style, label in (
        (
            known[~known["on_front"] & ~known["stays"]],
            {"color": DARK, "mec": "white", "ms": size, "mew": 0.4},
            "dominated (trained alone, test)",
        ),
        (own[~own["stays"]], {"color": BLUE, "mfc": "white", "ms": 5.5, "mew": 1.2}, "behind once trained alone"),
        (known[known["stays"]], {"color": BLUE, "mec": "white", "ms": 6.5, "mew": 0.6}, "front (trained alone, test)"),
    ):
        if len(part):
            axes.plot(*_xy(part, x, alone).T, "D", label=label, **style)
    return ties


def _curve(axes: Axes, epochs: pd.Series, values: pd.Series, colour: str, label: str | None) -> None:
    marker = "o" if len(values) <= 20 else ""
    if len(values) > 60:
        axes.plot(epochs, values, color=colour, lw=0.6, alpha=0.3)
        values = values.rolling(len(values) // 20, center=True, min_periods=1).mean()
    axes.plot(epochs, values, color=colour, lw=1.5, marker=marker, ms=3, label=label)


def _draw_shares(axes: Axes, history: pd.DataFrame, members: Sequence[int]) -> None:
    width = 1 + int(history["epoch"].max()) // 50  # epochs to a bar
    bars = history.assign(bar=history["epoch"] // width)
    steps = bars.pivot_table(index="bar", columns="supernet", values="steps", aggfunc="sum", fill_value=0)
    shares = 100 * steps.div(steps.sum(axis=1), axis=0)
    edges = width * np.arange(len(shares) + 1) + 0.5
    below = np.zeros(len(shares))
    for number, colour in zip(members, _colours(len(members)), strict=True):
        above = below + shares[number].to_numpy()
        axes.stairs(above, edges, baseline=below, fill=True, color=colour, alpha=0.75, lw=0)
        below = above
    axes.set(
        xlim=(edges[0], edges[-1]), ylim=(0, 100), yticks=[0, 50, 100], xlabel="epoch", title="share of the steps (%)"
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(visible=False)


def _draw_ranking(axes: Axes, table: pd.DataFrame, x: Axis, y: Axis, name: str, order: str = "") -> None:
    """`order` is the column that tau is of, if it is not what is drawn."""
    points, alone, deviation = _xy(table, x, y), table[y.column].to_numpy(), f"{y.column}_std"
    spread = table[deviation].fillna(0).to_numpy() if deviation in table else 0 * alone
    ends = np.stack([alone - spread, alone + spread], axis=1) * y.factor
    bars = np.stack([np.repeat(points[:, :1], 2, axis=1), ends], axis=2)
    axes.add_collection(LineCollection(list(bars), color=DARK, lw=0.9))
    axes.plot(*points.T, "o", color=BLUE, ms=5 if len(points) < 300 else 3, mec="white", mew=0.4)
    axes.set(xlabel=x.label, title=f"{name}: {_tau_text(table[order or x.column], table[y.column])}")
    axes.margins(0.09)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    axes.label_outer()
    sign = -1 if y.higher_is_better else 1
    searched = sign * table[y.column.removesuffix("_alone")].to_numpy()
    best = list(dict.fromkeys([*np.argsort(sign * alone, kind="stable")[:3], searched.argmin()]))
    write_labels(axes, points[best], [table["name"][at] for at in best], points, list(bars))


def _tau_text(a: pd.Series, b: pd.Series) -> str:
    tau = kendall(a, b)
    if tau is not None:
        return f"τ = {tau:.2f} (n = {len(a)})"
    return f"n = {len(a)}, too few for τ" if len(a) < 3 else f"no τ, all equal (n = {len(a)})"
