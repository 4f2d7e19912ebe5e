"""Every definition of the zoo list, at random: removing equals masking. The full measurement is in benchmarks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests import zoo
from tests.pruners.plain import prune

LIST = Path(os.environ.get("NAS_DATA", "../shared/data")) / "zoo.txt"


@pytest.mark.slow
@pytest.mark.parametrize("definition", zoo.definitions(LIST) if LIST.exists() else [], ids=lambda d: d.name)
def test_half_of_the_macs(definition: zoo.Definition) -> None:
    zoo.declare_missing_operators()
    pytest.importorskip(definition.source)
    model, example = zoo.build(definition)
    summary = prune(model, example, {"macs": 0.5}).summary
    assert summary.after["macs"] <= 0.5 * summary.before["macs"]
    assert max(summary.difference, summary.difference_inside) < 1e-4
