"""What a strategy knows before the first trial."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import nas
from estimators.counting import CostModel
from nas.scoring import known
from nas.scoring.costs import CostScorer
from search_spaces import Architecture, make_space

POOLING = make_space("resnet20-pooling")
OBJECTIVES = {"score": "max", "macs": "min"}


def _score(arch: Architecture) -> float:
    return float(sum(map(ord, arch.key)) % 17)


def test_exact_costs_are_signals_and_those_among_the_objectives_are_known(tmp_path: Path) -> None:
    with nas.Loop("resnet20-pooling", OBJECTIVES, out=tmp_path / "run") as loop:
        knowledge = known(loop.study, [CostScorer(loop.study.space)])
        loop.tell(loop.ask(1)[0], 1.0)
    archs = list(POOLING.enumerate())
    signals = np.asarray(knowledge.signals(archs))
    costs = CostModel(POOLING).batch(POOLING.encode(archs))
    assert signals.shape == (36, 3) and list(knowledge.exact) == [1]
    np.testing.assert_array_equal(signals[:, knowledge.exact[1]], costs["macs"])


def test_an_architecture_whose_costs_fail_has_no_signals(tmp_path: Path) -> None:
    scorer, archs = CostScorer(POOLING), list(POOLING.enumerate())

    def costs(some: list[Architecture], progress: object) -> list[dict[str, int]]:
        if archs[3] in some:
            raise RuntimeError("no")
        return scorer(some, progress)  # type: ignore[arg-type]

    with nas.Loop("resnet20-pooling", OBJECTIVES, out=tmp_path / "run") as loop:
        found = np.asarray(known(loop.study, [costs]).signals(archs[:6]))  # type: ignore[list-item]
        loop.tell(loop.ask(1)[0], 1.0)
    assert np.flatnonzero(np.isnan(found).all(axis=1)).tolist() == [3] and not np.isnan(np.delete(found, 3, 0)).any()


@pytest.mark.parametrize("strategy", ["bayesian", "linas"])
def test_a_search_that_goes_on_comes_to_what_one_left_alone_does(tmp_path: Path, strategy: str) -> None:
    def search(folder: str, trials: int) -> list[str]:
        study = nas.search(
            "nas-bench-macro",
            evaluate=_score,
            objectives=OBJECTIVES,
            strategy=strategy,
            trials=trials,
            out=tmp_path / folder,
        )
        return list(study.trials["architecture"])

    search("stopped", 14)
    assert search("stopped", 18) == search("whole", 18)
