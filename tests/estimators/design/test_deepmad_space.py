"""DeepMAD's stages as networks and spaces."""

from __future__ import annotations

import re

import pytest

from estimators import CostModel, Stages, deepmad_space, deepmad_stages, residual_cost
from nas.cli.profile import profile
from nas.study import build_space
from search_spaces import largest

SMALL = {"widths": (8, 16, 24), "blocks": (1, 2, 3)}


@pytest.mark.parametrize(("family", "share"), [(20, 0.6), (18, 0.2)])
def test_the_whole_network_keeps_both_budgets(family: int, share: float) -> None:
    most = Stages((3,) * (3 if family == 20 else 4), (24,) * (3 if family == 20 else 4), 16)
    macs, params = (residual_cost(metric, family, stem="small") for metric in ("macs", "params"))
    for limits in ((share * macs(most), 2 * params(most)), (2 * macs(most), share * params(most))):
        found = deepmad_stages(*limits, family=family, image_size=16, **SMALL)
        assert macs(found) <= limits[0] and params(found) <= limits[1]
        assert list(found.widths) == sorted(found.widths) and found.side == 16
        assert max(macs(found) / limits[0], params(found) / limits[1]) > 0.6  # and makes use of it


def test_it_takes_all_that_is_offered_where_the_budget_allows() -> None:
    assert deepmad_stages(1e12, **SMALL) == Stages((3, 3, 3), (24, 24, 24), 32)


def test_a_command_and_a_search_reach_the_space() -> None:
    name, options = (
        "estimators:deepmad_space",
        {"max_macs": "2e6", "in_channels": 1, "image_size": 8},
    )  # as YAML reads it
    space = build_space(name, options)
    model = CostModel(space)
    top = largest(space)
    assert 1.6e6 < model.cost(top).macs <= 2e6
    assert space.fingerprint == deepmad_space(max_macs=2e6, in_channels=1, image_size=8).fingerprint
    found = profile(name, arch=space.label(top), options=options)
    assert found.totals["macs"] == model.cost(top).macs


def test_what_cannot_be_built_is_refused() -> None:
    with pytest.raises(ValueError, match=re.escape("`family` must be 20 (3 stages) or 18 (4 stages)")):
        deepmad_stages(1e6, family=50)
    with pytest.raises(ValueError, match="no network meets at most 1 macs"):
        deepmad_stages(1, **SMALL)
    with pytest.raises(ValueError, match="`max_macs` must be positive"):
        deepmad_stages(0)
