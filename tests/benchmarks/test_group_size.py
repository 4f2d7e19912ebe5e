"""The networks that `benchmarks/group_size.py` compares."""

import pytest

from benchmarks.group_size import GROUPINGS, KINDS, SHAPE, TOLERANCE, macs, network, widths_for
from estimators import count
from search_spaces.layers.grouping import Grouping


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", GROUPINGS)
def test_macs_without_weights_are_those_counted(kind: str, name: str) -> None:
    widths = (16, 48, 64)
    assert macs(kind, widths, GROUPINGS[name]) == count(network(kind, widths, GROUPINGS[name]), SHAPE).total.macs


@pytest.mark.parametrize("kind", KINDS)
def test_widths_meet_the_budget_and_the_groups(kind: str) -> None:
    budget = macs(kind, (24, 48, 96), Grouping(4))
    widths = widths_for(kind, Grouping(size=4), budget)
    assert abs(macs(kind, widths, Grouping(size=4)) / budget - 1) <= TOLERANCE
    assert all(width % 4 == 0 for width in widths)


def test_a_budget_below_every_width_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"no widths take 1000 macs within 2%, got grouping Grouping\(number=1, size=8\)"
    ):
        widths_for("mobilenet", Grouping(size=8), 1000)
