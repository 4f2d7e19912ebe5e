"""Where to write the names of a plot's points so that they can be read.

Shapes: points are arrays of rows (x, y); a line is an array of its corners. Data coordinates, unless the name says pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.textpath import TextPath

FONT_SIZE = 8.5
MOST_LABELS, LONGEST_LABEL = 12, 16
NEXT_TO, FURTHER = 5.0, (14.0, 24.0, 36.0)  # typographic points between a marker and its text


def drawable(labels: Iterable[str]) -> bool:
    """Whether the labels are short enough to stand in a plot."""
    return max(map(len, labels), default=0) <= LONGEST_LABEL


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
    """Write texts next to points: never over another text, and over as little else as possible.

    A text that fits nowhere is left out. One that does not stand right next to its point gets a line to it.

    Args:
        axes: with everything else already drawn.
        anchors: the points to name.
        texts: one for each; nothing is written for an empty one.
        points: markers to keep free.
        lines: lines to keep free.
        left: try the left side of a point first, else the right.
        up: try above a point first, else below.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    to_pixels = axes.transData.transform
    scale = figure.dpi / 72
    page = _Page(
        scale=scale,
        frame=axes.get_window_extent().get_points(),
        anchors=to_pixels(anchors),
        points=to_pixels(points),
        lines=[_dense(to_pixels(line)) for line in lines],
    )
    for anchor, text in zip(anchors, texts, strict=True):
        if not text:
            continue
        at = to_pixels(anchor)
        width = TextPath((0, 0), text, size=FONT_SIZE).get_extents().width
        half = scale * np.array([width / 2 + 2, FONT_SIZE * 0.6])
        places = [place for place in _places(at, half, scale, left, up) if page.allows(place)]
        if not places:
            continue
        best = min(places, key=page.cost)
        page.taken.append(best)
        note = axes.annotate(
            text,
            (float(anchor[0]), float(anchor[1])),
            tuple((best.centre - at) / scale),
            textcoords="offset points",
            ha="center",
            va="center_baseline",
            fontsize=FONT_SIZE,
            arrowprops={"arrowstyle": "-", "color": "#6b7480", "lw": 0.6, "shrinkA": 0, "shrinkB": 4}
            if best.away
            else None,
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )
        note.set_in_layout(False)


@dataclass(frozen=True)
class _Place:
    """A candidate in pixels: the point, the middle of the text, half its size, and how many typographic points lie between."""

    at: np.ndarray
    centre: np.ndarray
    half: np.ndarray
    distance: float

    @property
    def away(self) -> bool:
        return self.distance > NEXT_TO

    def holds(self, pixels: np.ndarray) -> np.ndarray:
        """Which of the points lie under the text."""
        return (np.abs(pixels - self.centre) < self.half).all(axis=-1)

    def gaps(self, pixels: np.ndarray) -> np.ndarray:
        """How far the points are from the text's edge."""
        return np.linalg.norm(np.maximum(np.abs(pixels - self.centre) - self.half, 0), axis=-1)


@dataclass
class _Page:
    """What is drawn already, in pixels, `scale` of them to a typographic point.

    The corners of the axes, the points to name, all markers, points along each line, and the texts.
    """

    scale: float
    frame: np.ndarray
    anchors: np.ndarray
    points: np.ndarray
    lines: list[np.ndarray]
    taken: list[_Place] = field(default_factory=list)

    def allows(self, place: _Place) -> bool:
        if (place.centre - place.half < self.frame[0]).any() or (place.centre + place.half > self.frame[1]).any():
            return False
        return not any(_clash(place, other) for other in self.taken)

    def cost(self, place: _Place) -> float:
        crossed = sum(bool(place.holds(line).any()) for line in self.lines)
        others = self.anchors[(self.anchors != place.at).any(axis=1)]
        clear = 10 * self.scale if place.away else 2.5 * place.gaps(place.at)
        mistaken = bool((place.gaps(others) < clear).any())
        return float(place.holds(self.points).sum()) + 0.5 * crossed + 1.5 * mistaken + place.distance / 12


def _clash(a: _Place, b: _Place) -> bool:
    if (np.abs(a.centre - b.centre) < a.half + b.half).all():
        return True
    if (a.away and b.holds(_leader(a)).any()) or (b.away and a.holds(_leader(b)).any()):
        return True
    return a.away and b.away and _cross(a.at, a.centre, b.at, b.centre)


def _leader(place: _Place) -> np.ndarray:
    return np.linspace(place.at, place.centre, 20)


def _cross(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> bool:
    """Whether the segments from a to b and from c to d meet."""

    def side(p: np.ndarray, q: np.ndarray, r: np.ndarray) -> float:
        return float((q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0]))

    return side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0


def _places(at: np.ndarray, half: np.ndarray, scale: float, left: bool, up: bool) -> Iterator[_Place]:
    """Around a point, nearest and favourite corner first."""
    side = np.array([-1 if left else 1, 1 if up else -1])
    for distance in (NEXT_TO, *FURTHER):
        for turn in (0, 1, -1, 2, -2, 3, -3, 4):
            angle = math.pi / 4 * (1 + turn)
            direction = side * np.round([math.cos(angle), math.sin(angle)], 6)
            yield _Place(at, at + distance * scale * direction + half * np.sign(direction), half, distance)


def _dense(line: np.ndarray) -> np.ndarray:
    """Points along a line, at most 4 pixels apart."""
    parts = [line[:1]]
    for a, b in zip(line, line[1:], strict=False):
        parts.append(np.linspace(a, b, 2 + int(np.hypot(*(b - a)) / 4)))
    return np.concatenate(parts)
