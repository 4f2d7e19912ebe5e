"""An event: when, what kind, who tells, and its figures, as one plain dict."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

Event = dict[str, Any]
"""`time` (UTC, ISO 8601), `seconds` since the session started, `kind`, `worker`, what the kind says in words, and `figures` by name."""
MAIN = "main"
"""The worker that is the run's own process."""
MOST = 1e300
"""No number that is read from a file is larger."""
STEPS = {"epoch": "epoch", "trial": "number", "front": "trials", "alone": "number", "measured": "number"}
"""Kinds whose figures are curves, and the figure that they are drawn over."""


def make_event(kind: str, seconds: float, worker: str, about: Mapping[str, Any], figures: Mapping[str, Any]) -> Event:
    """An event of now. Figures that are no finite numbers are None."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return {
        "time": now,
        "seconds": round(seconds, 3),
        "kind": kind,
        "worker": worker,
        **about,
        "figures": {name: _number(value) for name, value in figures.items()},
    }


def curves(event: Event) -> Iterator[tuple[str, float, int]]:
    """The points of an event: name of the curve, value, and place on its axis. Each supernet has curves of its own."""
    kind, figures = event["kind"], dict(event["figures"])
    if kind not in STEPS:
        return
    at, supernet = figures.pop(STEPS[kind]), figures.pop("supernet", None)
    group = kind if supernet is None else f"supernet{supernet:g}"
    for name, value in figures.items():
        if value is not None:
            yield f"{group}/{name}", value, int(at)


def is_number(value: object) -> bool:
    """Whether something read from a file is a number that can be reckoned with."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -MOST < value < MOST


def _number(value: Any) -> int | float | None:
    if isinstance(value, int):
        return value
    value = float(value)
    return value if math.isfinite(value) else None
