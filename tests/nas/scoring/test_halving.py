"""Trials that end early: which, the same whoever scores them, and what is made of them."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nas
from nas.objectives import OBJECTIVES
from nas.objectives.pareto import non_dominated_rank
from nas.scoring.halving import BLOCK, Halving
from nas.scoring.outcome import losses_of
from nas.scoring.rungs import rungs
from nas.study import Study, Trial, configure
from search_spaces import make_space

SPACE = "examples.own_space:own_space"
SETTINGS: dict[str, Any] = {
    "strategy": "random", "supernets": 0, "limit": 120, "test_limit": 20, "batch_size": 16, "retrain": "none", "epochs": 4,
    "early_stopping": "asha", "reduction": 2,
}  # fmt: skip


def halving(way: str = "asha", objectives: tuple[str, ...] = ("accuracy", "macs"), reduction: int = 3) -> Halving:
    config = configure(
        "resnet20-pooling", "digits", strategy="random", supernets=0, epochs=30, early_stopping=way, reduction=reduction,
        objectives=objectives,
    )  # fmt: skip
    known = tuple(OBJECTIVES[name] for name in objectives)
    return Halving(SimpleNamespace(config=config, objectives=known, metrics=known[:1]))  # type: ignore[arg-type]


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(2, 4), st.booleans())
@settings(deadline=None, max_examples=60)
def test_what_reaches_a_bar_is_among_the_best_and_what_does_not_is_not(
    seed: int, known: int, reduction: int, two: bool
) -> None:
    """Fewer than one in `reduction` stand on better fronts than whoever goes on; with one objective, that are the best of them."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 12, (known, 2 if two else 1)).astype(float)
    mine = rng.integers(0, 12, 1).astype(float).tolist() if two else []
    made = halving(reduction=reduction)
    bar = made._bar(rows.tolist(), mine)
    if known < reduction:
        assert bar is None
        return
    assert bar is not None

    def better(loss: float) -> int:
        rank = non_dominated_rank([*rows.tolist(), [loss, *mine]])
        return int((rank[:-1] < rank[-1]).sum())

    for loss in {*rows[:, 0].tolist(), -1.0}:
        if not two:
            assert (loss <= bar) == (better(loss) * reduction < known + 1)
    assert better(bar) * reduction < known + 1


def test_a_small_network_is_not_stopped_for_being_small() -> None:
    made = halving()
    rows = [[-0.9, 100.0], [-0.8, 90.0], [-0.7, 80.0], [-0.6, 70.0]]
    assert made._bar(rows, [10.0]) == -0.6 and made._bar(rows, [100.0]) == -0.9


def test_rungs() -> None:
    assert rungs(1, 3, 30) == [1, 3, 9, 27] and rungs(2, 2, 8) == [2, 4]


def test_brackets_take_turns() -> None:
    made, space = halving("hyperband"), make_space("resnet20-pooling", image_size=8)
    archs = list(space.enumerate())[:BLOCK]
    trials = [Trial([0.5, 1.0], {"accuracy_epoch1": 0.5, "accuracy_epoch3": 0.6}) for _ in range(3 * BLOCK)]
    for at in range(3):
        some = list(space.enumerate())[at * BLOCK : (at + 1) * BLOCK]
        made.ask(some)
        made.tell(some, trials[:BLOCK])
    last = list(space.enumerate())[-10:-5]
    made.ask(last)
    stops = [[epochs for epochs, bar in made.bars(arch, {"macs": 1.0}).items() if bar is not None] for arch in last]
    assert stops[-1] in ([], [1, 3], [3]) and sorted(map(len, stops)) == [0, 0, 0, 1, 2]
    assert made.ahead == BLOCK - 5 and archs


def test_what_a_strategy_is_told_of_a_stopped_trial_is_what_it_had_reached() -> None:
    known = (OBJECTIVES["accuracy"], OBJECTIVES["macs"])
    stopped = Trial([-math.inf, 7.0], {"stopped_early": 3, "accuracy_epoch1": 0.1, "accuracy_epoch3": 0.4})
    assert losses_of([stopped, Trial([0.3, 7.0], {})], known).tolist() == [[-0.4, 7.0], [-0.3, 7.0]]


@pytest.fixture(scope="module")
def halved(tmp_path_factory: pytest.TempPathFactory) -> Study:
    out = tmp_path_factory.mktemp("halved") / "run"
    return nas.search(SPACE, "digits", trials=BLOCK + 6, out=out, **SETTINGS)


def test_bad_trials_end_early_and_stay_off_the_front(halved: Study) -> None:
    table = halved.trials
    stopped = table["stopped_early"].notna()
    assert 0 < stopped.sum() < BLOCK and not stopped[:BLOCK].any()
    assert table["accuracy"].isna().equals(stopped) and not set(halved.front["label"]) & set(table["label"][stopped])
    assert table["accuracy_epoch1"].notna().all() and table.loc[~stopped, "accuracy_epoch2"].notna().all()
    assert set(table.loc[stopped, "stopped_early"]) <= {1, 2}
    assert "stopped_early" in (halved.folder / "report.html").read_text()


def test_whoever_scores_them_trials_are_the_same_and_those_that_go_on_are_as_without(
    halved: Study, tmp_path: Path
) -> None:
    some = nas.search(SPACE, "digits", trials=4, out=tmp_path / "run", **SETTINGS)
    assert len(some.trials) == 4
    grown = nas.search(SPACE, "digits", trials=BLOCK + 6, out=tmp_path / "run", parallel=2, **SETTINGS)
    columns = ["label", "accuracy", "accuracy_epoch1", "stopped_early"]
    order = halved.trials[columns].sort_values("label", ignore_index=True)
    assert grown.trials[columns].sort_values("label", ignore_index=True).equals(order)
    whole = nas.search(SPACE, "digits", trials=2, out=tmp_path / "whole", **{**SETTINGS, "early_stopping": "none"})
    assert whole.trials["accuracy"].equals(halved.trials["accuracy"][:2])


def test_it_is_refused_where_no_trial_trains() -> None:
    with pytest.raises(ValueError, match="`early_stopping` is for trials that are trained alone, got asha"):
        configure("resnet20-pooling", "digits", strategy="random", early_stopping="asha")
    with pytest.raises(ValueError, match="`first_rung` must come before the last of 4 epochs, got 4"):
        configure("resnet20-pooling", "digits", **SETTINGS, first_rung=4)
