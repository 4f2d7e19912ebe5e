"""Where to write the names of a plot's points so that they can be read.

Shapes: points are arrays of rows (x, y); a line is an array of its corners. Data coordinates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

FONT_SIZE = 8.5
MOST_LABELS = 12
NEXT_TO, FURTHEST = 0.012, 0.1  # from a point to its text, in parts of the plot's width


def spread(count: int) -> list[int]:
    """At most `MOST_LABELS` of so many rows, evenly, the ends included."""
    return sorted({round(at) for at in np.linspace(0, count - 1, min(count, MOST_LABELS))})


def write_labels(
    axes: Axes,
    anchors: np.ndarray,
    texts: Sequence[str],
    points: np.ndarray,
    lines: Sequence[np.ndarray] = (),
    *,
    left: bool = True,
    up: bool = True,
) -> None:
    """Write texts next to points, over no other text, marker or line. One that fits nowhere is left out.

    A text that does not stand right next to its point gets a line to it.

    Args:
        axes: with everything else already drawn.
        anchors: the points to name.
        texts: one for each; nothing is written for an empty one.
        points: markers to keep free.
        lines: lines to keep free.
        left: try the left side of a point first, else the right.
        up: try above a point first, else below.
    """
    named = [at for at, text in enumerate(texts) if text]
    if not named:
        return
    near, far = ("west", "east") if left else ("east", "west")
    above, below = ("north", "south") if up else ("south", "north")
    xlim, ylim = axes.set_xlim(axes.get_xlim()), axes.set_ylim(axes.get_ylim())  # what is written moves nothing
    busy: Any = {"x_lines": [line[:, 0] for line in lines], "y_lines": [line[:, 1] for line in lines]} if lines else {}
    import textalloc  # and scipy.stats with it, half a second

    found: Any = textalloc.allocate(
        axes,
        anchors[named][:, 0],
        anchors[named][:, 1],
        [texts[at] for at in named],
        x_scatter=points[:, 0],
        y_scatter=points[:, 1],
        **busy,
        textsize=FONT_SIZE,
        margin=0.002,
        min_distance=NEXT_TO,
        max_distance=FURTHEST,
        direction=[near, above + near, above, below + near, above + far, far, below, below + far],
        draw_all=False,
        avoid_label_lines_overlap=True,
        avoid_crossing_label_lines=True,
        linewidth=0.6,
        linecolor="#6b7480",
        path_effects=[withStroke(linewidth=2, foreground="white")],
        textcolor=rcParams["text.color"],
        xlims=xlim,
        ylims=ylim,
    )
    _, _, written, ties = found
    for text in filter(None, written):
        text.set_in_layout(False)
    reach = 2 * NEXT_TO * axes.get_window_extent().width
    for tie in filter(None, ties):
        if np.hypot(*np.diff(axes.transData.transform(tie.get_xydata()), axis=0)[0]) < reach:
            tie.remove()
