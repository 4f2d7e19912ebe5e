"""Growth of the hypervolume, against computing it anew from all points."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.objectives import Growth, hypervolume
from nas.objectives.growth import FIRST, LEAST


@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(0, 60))
@settings(deadline=None, max_examples=40)
def test_it_counts_what_came_since_the_volume_of_all_points_grew(seed: int, objectives: int, more: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.integers(0, 8, (FIRST + more, objectives)).astype(float)
    missing = rng.random(len(points)) < 0.1
    growth, kept, volume, since = Growth(), [], 0.0, 0
    for point, left_out in zip(points, missing, strict=True):
        growth.take(None if left_out else point.tolist())
        if not left_out:
            kept.append(point)
        if len(kept) >= FIRST:
            now = hypervolume(np.array(kept), np.max(kept[:FIRST], axis=0))
            known, first = since, len(kept) == FIRST and not left_out
            since = 0 if now > (1 + LEAST) * volume or first else known + 1
            volume = max(volume, now) if since == 0 else volume
        assert growth.since == since


def test_less_than_a_thousandth_at_a_time_adds_up() -> None:
    growth = Growth()
    for value in (*range(FIRST), -1):
        growth.take([float(value)])
    for step in range(1, 15):
        growth.take([-1 - step * 3e-3])
    assert growth.since == 2  # of a volume of 10, the fourth, eighth and twelfth step make a thousandth each
