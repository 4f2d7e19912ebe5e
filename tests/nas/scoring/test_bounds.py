"""Limits of a search: every strategy proposes what keeps them, and all of that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from estimators import CostModel
from nas import Study, configure, search
from nas.scoring.bounds import within
from nas.scoring.costs import CostScorer
from nas.strategies import STRATEGIES, make_strategy
from pruners.progress import silent
from search_spaces import make_space
from tests.conformance import visited


def run(out: Path, space: str = "resnet-elastic", **settings: Any) -> Study:
    costs: dict[str, Any] = {"objectives": ["params"], "retrain": "none", "limit": 100, "test_limit": 20}
    return search(space, "digits", out=out, **costs, **settings)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_keeps_the_limits_is_proposed_and_nothing_else(strategy: str) -> None:
    space = make_space("resnet20-pooling", image_size=8)
    costs = {arch: CostModel(space).cost(arch) for arch in space.enumerate()}
    macs, activations = (sorted(getattr(cost, name) for cost in costs.values())[20] for name in ("macs", "activations"))
    kept = {arch for arch, cost in costs.items() if cost.macs <= macs and cost.activations <= activations}
    allowed = within(space, {"macs": macs, "activations": activations}, CostScorer(space))
    proposed = visited(make_strategy(strategy, allowed, np.random.default_rng(0)), [5] * 10)
    assert set(proposed) == kept and 0 < len(kept) < 36
    assert within(space, {}, CostScorer(space)) is space


def test_a_stopped_search_within_limits_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    def stop(step: str, done: float, total: float) -> None:
        if done >= 20:
            raise KeyboardInterrupt

    settings = {"strategy": "coarse-to-fine", "trials": 40, "limits": {"macs": 1e6}}
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", progress=stop, **settings)
    assert 20 <= len(Study.open(tmp_path / "run").trials) < 40
    stopped, whole = (run(tmp_path / name, progress=silent, **settings) for name in ("run", "whole"))
    columns = ["label", "macs", "params"]
    assert stopped.trials[columns].equals(whole.trials[columns]) and whole.trials["macs"].max() <= 1e6
    assert len(whole.trials) == 40


@pytest.mark.parametrize("space", ["resnet20-pooling", "resnet-elastic"])
def test_limits_that_nothing_keeps_are_refused_before_there_is_a_folder(tmp_path: Path, space: str) -> None:
    with pytest.raises(ValueError, match="macs of at most 5"):
        run(tmp_path / "run", space, strategy="random", limits={"macs": 5})
    assert not (tmp_path / "run").exists()


def test_unknown_limits_are_refused() -> None:
    with pytest.raises(ValueError, match="no limit of a search is named 'mac'; did you mean macs"):
        configure("s", "d", limits={"mac": 1})
    with pytest.raises(ValueError, match="a limit of a search must be positive, got macs=0"):
        configure("resnet-elastic", "digits", limits={"macs": 0})
