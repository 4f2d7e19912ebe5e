"""Racing: who is dropped could not have stood on the front, and who it is does not depend on who scores."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import nas
from nas.objectives import OBJECTIVES, losses, non_dominated
from nas.scoring import Budget, Race, Races
from nas.scoring.race import DEVIATIONS, EXAMPLES, KNOWN, rung_name
from nas.study import Study, Trial
from nas.tasks import Task, classification

pytestmark = pytest.mark.usefixtures("hurried")
HERE = "tests.nas.scoring.test_race"
BOTH = (OBJECTIVES["accuracy"], OBJECTIVES["macs"])


def over(accuracy: float, macs: float, early: float | None = None, examples: int = 1000) -> Trial:
    notes: dict[str, Any] = {EXAMPLES: examples}
    return Trial([accuracy, macs], notes if early is None else {**notes, rung_name("accuracy", 250): early})


def race(trials: list[Trial]) -> Race:
    races = Races(BOTH, ["accuracy"])
    for trial in trials:
        races.add([trial])
    return races.now


@pytest.mark.parametrize("seed", range(20))
def test_who_is_dropped_is_dominated_by_more_than_few_examples_can_say(seed: int) -> None:
    rng = np.random.default_rng(seed)
    early = rng.uniform(0.3, 0.9, 30)
    drift = rng.normal(0.02, 0.01, 30)
    trials = [over(a + d, m, a) for a, d, m in zip(early, drift, rng.integers(1, 9, 30), strict=True)]
    now = race(trials)
    mean, deviation = now.drifts["accuracy"][250]
    assert mean == pytest.approx(drift.mean()) and deviation == pytest.approx(drift.std(ddof=1))
    front = np.array([trial.values for trial in trials])
    for accuracy, macs in zip(rng.uniform(0.2, 1, 50), rng.integers(1, 9, 50), strict=True):
        hoped = [accuracy + mean + DEVIATIONS * deviation, macs]
        stands = non_dominated(losses([hoped, *front], BOTH))[0]
        known = Race(now.objectives, now.front, now.drifts, {"arch": {"macs": macs}})
        assert known.stands("arch", 250, {"accuracy": accuracy}) == stands
        assert known.stands("arch", 500, {"accuracy": 0.0}), "nobody knows yet what 500 examples say"


def test_few_trials_failed_ones_and_those_on_few_examples_say_nothing_of_drifts() -> None:
    nothing = [
        Trial(None, {}),
        Trial([math.nan, 1.0], {EXAMPLES: 1000}),
        Trial([0.5, 1.0], {}),
        *[over(0.5, 3, 0.5, examples=250)] * 20,
        *[over(0.5, 3, 0.4)] * (KNOWN - 1),
    ]
    assert race(nothing).drifts == {"accuracy": {}}
    assert race([*nothing, over(0.5, 3, 0.4)]).drifts["accuracy"][250] == (pytest.approx(0.1), pytest.approx(0))


def net() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 4))
    x, target = made(600, 1)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), target).backward()
        optimizer.step()
    return model.eval()


def made(count: int, seed: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, 8, generator=torch.Generator().manual_seed(seed))
    return x, (x[:, 0] > 0).long() * 2 + (x[:, 1] * x[:, 2] > 0).long()


def sorted_classes() -> Task:
    """Validation examples sorted by class: their first ones say nothing of all."""
    x, target = made(1500, 2)
    order = target.argsort()
    return classification(made(600, 1), validation=(x[order], target[order]), test=made(200, 3), classes=4)


def searched(folder: Path, **more: Any) -> Study:
    return nas.search(
        model=f"{HERE}:net", task=f"{HERE}:sorted_classes", objectives=("accuracy", "macs"), strategy="random",
        trials=60, out=folder, device="cpu", trust=True, **more,
    )  # fmt: skip


def test_a_search_drops_what_cannot_stand_on_the_front_and_is_the_same_whoever_scores(tmp_path: Path) -> None:
    here = searched(tmp_path / "here")
    trials = here.trials
    dropped, judged = trials[trials[EXAMPLES] < 1500], trials[trials[EXAMPLES] == 1500]
    assert len(dropped) > 5 and len(judged) > KNOWN
    assert not set(dropped["architecture"]) & set(here.front["architecture"])
    assert (dropped[EXAMPLES] == 250).any()
    for trial, row in zip(here.journal.trials("search"), trials.to_dict("records"), strict=True):
        assert Budget(here).spent_by(trial) == row["macs"] * row[EXAMPLES]
    early = judged["accuracy_after_250"] - judged["accuracy"]
    assert early.abs().max() < 0.15, "as examples are drawn at random"
    again = searched(tmp_path / "processes", engine="processes", parallel=2)
    one, other = (
        {row["architecture"]: (row["accuracy"], row[EXAMPLES]) for row in study.trials.to_dict("records")}
        for study in (here, again)
    )
    assert one == other
