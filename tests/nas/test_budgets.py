"""When a search ends: trials, macs, growth, callbacks, a space that is used up; and what it starts with."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nas
from nas.scoring import Budget
from nas.strategies import STRATEGIES, make_strategy
from nas.study import Study
from search_spaces import Architecture, Categorical, SearchSpace, make_space
from tests.commands import run

GIVEN: dict[str, Any] = {"objectives": {"score": "max", "macs": "min"}, "strategy": "random"}


@pytest.fixture(autouse=True)
def without_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages and plots take most of a short search."""
    module = importlib.import_module("nas.search")
    monkeypatch.setattr(module, "write_report", lambda study: None)
    monkeypatch.setattr(module, "_measure_front", lambda study, device: None)


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return make_space("resnet20-pooling", image_size=8)


def score(arch: Architecture) -> float:
    return float(sum(arch.key.encode()) % 17)


def flat(arch: Architecture) -> float:
    return 1.0


def search(space: SearchSpace, out: Path, evaluate: Any = score, **settings: Any) -> Study:
    return nas.search(space, evaluate=evaluate, out=out, **GIVEN | settings)


@pytest.mark.parametrize("strategy", ["random", "nsga2"])
def test_a_budget_larger_than_the_space_ends_once_every_architecture_was_tried(
    space: SearchSpace, tmp_path: Path, strategy: str
) -> None:
    study = search(space, tmp_path, strategy=strategy, trials=500)
    assert sorted(study.trials["architecture"]) == sorted(arch.key for arch in space.enumerate())
    assert study.ended == "every architecture was tried, 36 in all, fewer than 500 trials"
    assert '"search ended"' in (tmp_path / "events.jsonl").read_text()


def test_a_command_says_why_it_ended(tmp_path: Path) -> None:
    command = (
        "search",
        "--space",
        "resnet20-pooling",
        "--option",
        "image_size=8",
        "--evaluate",
        "tests.nas.test_budgets:score",
    )
    done = run(*command, "--objectives", "score:max", "--trials", "3", "--out", tmp_path / "run")
    assert "The search ended: 3 trials were made." in done.stderr + done.stdout


def test_macs_are_a_budget(space: SearchSpace, tmp_path: Path) -> None:
    """Of a function that says nothing of it, those of the network for one example."""
    whole = search(space, tmp_path / "whole", trials=20)
    spent = whole.trials["macs"].cumsum()
    some = search(space, tmp_path / "some", macs_spent=float(spent[6]))
    assert list(some.trials["label"]) == list(whole.trials["label"][:7]) and "macs were spent" in some.ended
    told = search(space, tmp_path / "told", lambda arch: {"score": score(arch), "macs_spent": 1e6}, macs_spent=5e6)
    assert len(told.trials) == 5


def test_macs_of_training_count_three_times_for_every_example_and_epoch(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "strategy": "random", "supernets": 0, "epochs": 2, "limit": 60, "test_limit": 20, "retrain": "none", "trials": 1,
    }  # fmt: skip
    study = nas.search("examples.own_space:own_space", "digits", out=tmp_path / "run", batch_size=16, **settings)
    (trial,) = study.journal.trials("search")
    parts = study.record["data"]
    assert Budget(study).spent_by(trial) == study.trials["macs"][0] * (parts["validation"] + 3 * 2 * parts["train"])


@pytest.mark.parametrize("parallel", [1, 2])
def test_a_search_ends_where_nothing_grows_the_same_whoever_scores(
    space: SearchSpace, tmp_path: Path, parallel: int
) -> None:
    """The reference point is made of ten trials, and the first of the rest cannot grow what is flat."""
    study = search(space, tmp_path, flat, objectives=["score:max"], patience=4, parallel=parallel)
    assert len(study.trials) == 14 and study.ended == "the hypervolume has not grown in 4 trials"
    longer = search(space, tmp_path, flat, objectives=["score:max"], patience=6, parallel=parallel)
    assert len(longer.trials) == 16


@pytest.mark.filterwarnings("ignore:.* trials failed")
def test_callbacks_see_each_trial_and_may_end_the_search(space: SearchSpace, tmp_path: Path) -> None:
    seen: list[Mapping[str, Any]] = []

    def failing(arch: Architecture) -> float:
        if score(arch) < 3:
            raise RuntimeError("low")
        return score(arch)

    def stop(study: Study, row: Mapping[str, Any]) -> bool:
        assert study.folder == tmp_path
        seen.append(row)
        return len(seen) >= 8

    study = search(space, tmp_path, failing, trials=20, callbacks=[stop, lambda study, row: 1])
    assert len(seen) == 8 == len(study.trials) + len(study.failed) and study.ended == "a callback stopped it"
    assert [row["label"] for row in seen if "reason" not in row] == list(study.trials["label"])
    assert [row["score"] for row in seen if "reason" not in row] == list(study.trials["score"])
    search(space, tmp_path, failing, trials=20, callbacks=[lambda study, row: seen.append(row)])
    assert len(seen) == 20 and len({row["label"] for row in seen}) == 20


@pytest.mark.parametrize("strategy", ["random", "coarse-to-fine"])
def test_trials_that_a_run_starts_with_are_no_part_of_its_budget(
    space: SearchSpace, tmp_path: Path, strategy: str
) -> None:
    """Neither are they tried again."""
    first = search(space, tmp_path / "first", trials=20)
    more = search(space, tmp_path / "more", strategy=strategy, trials=6, start_from=tmp_path / "first")
    assert len(more.trials) == 26 and more.trials["architecture"].is_unique
    assert list(more.trials["label"][:20]) == list(first.trials["label"])


LEARNERS = [
    name
    for name, entry in STRATEGIES.items()
    if not entry.everything and name not in ("random", "slimming") and ":" not in name
]


@pytest.mark.parametrize("name", [*LEARNERS, "optuna:tpe", "optuna:gp"])
def test_every_strategy_that_learns_goes_on_from_what_it_is_told_at_the_start(name: str) -> None:
    """After a hundred trials of another search, what it proposes first is better than what is drawn, by two standard errors.

    Slimming walks from the largest whatever it is told, and most optimisers of other libraries make little of trials not their own.
    """
    large = SearchSpace("large", tuple(Categorical(f"c{at}", (0, 1, 2, 3)) for at in range(20)))
    rng = np.random.default_rng(0)
    told = [large.sample(rng) for _ in range(100)]
    losses = large.encode(told).sum(axis=1).astype(float)
    strategy = make_strategy(name, large, np.random.default_rng(1))
    strategy.tell(told, losses[:, None])
    proposed = large.encode(strategy.ask(10)).sum(axis=1)
    assert proposed.mean() < losses.mean() - 2 * losses.std() / len(proposed) ** 0.5


@pytest.mark.parametrize("strategy", ["exhaustive", "evolution", "nsga2"])
def test_what_has_no_number_is_recorded_once_and_not_proposed_again(
    space: SearchSpace, tmp_path: Path, strategy: str
) -> None:
    asked: list[str] = []

    def evaluate(arch: Architecture) -> dict[str, float]:
        asked.append(arch.key)
        number = score(arch)
        return {"score": math.nan} if number < 4 else {} if number < 8 else {"score": number}

    with pytest.warns(UserWarning, match="architectures have no score; they are left out of the front"):
        study = search(space, tmp_path, evaluate, strategy=strategy, trials=100)
    assert len(asked) == len(set(asked)) == len(study.trials) == 36
    assert study.front["score"].notna().all() and 0 < study.trials["score"].isna().sum() < 36


def test_an_objective_that_nothing_estimates_is_refused() -> None:
    with pytest.raises(ValueError, match="must come from a `task` or from `evaluate`, got none"):
        nas.configure("resnet20-pooling", "digits", objectives=["latencyms:min"])
