"""Steps of repair: how they are named, at which learning rate they start, and what is told of them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nas.pruning import RecoveryConfig, Repair, parse_recovery, repair_unlabelled
from nas.pruning.recovery import RATES, Recovery
from nas.tasks import Task
from nas.training import Alone, TrainingConfig, fit
from pruners import PruneResult
from search_spaces.core import parse
from tests.nas.test_prune import small
from tests.pruners.plain import prune

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(task: Task) -> nn.Module:
    torch.manual_seed(0)
    config = TrainingConfig(epochs=8, batch_size=32)
    learner = Alone(small(), task, config, CPU)
    fit(learner, task.training, config, seed=0, device=CPU)
    return learner.module.eval()


def halved(model: nn.Module) -> PruneResult:
    return prune(model, torch.randn(1, 1, 8, 8), {"macs": 0.5})


def weights(model: nn.Module) -> list[Tensor]:
    return [x.clone() for x in model.state_dict().values()]


def repaired(trained: nn.Module, task: Task, step: str, **settings: Any) -> tuple[nn.Module, dict[str, Any]]:
    result = halved(trained)
    repair = Repair(trained, task, task.training, RecoveryConfig(**settings), seed=0, device=CPU)
    note = repair(parse_recovery([step])[0], result)
    return result.model, note


def test_steps_last_for_epochs_or_seconds() -> None:
    found = parse_recovery(["least-squares", "match:480s", "match:2", "finetune:1"])
    assert found == [
        Recovery("least-squares"),
        Recovery("match", seconds=480),
        Recovery("match", 2),
        Recovery("finetune", 1),
    ]
    assert [str(step) for step in found] == ["least-squares", "match:480s", "match:2", "finetune:1"]


@pytest.mark.parametrize("given", [0, -1, "high", "nan", None])
def test_a_learning_rate_is_a_number_or_auto(given: Any) -> None:
    assert parse(RecoveryConfig, {"learning_rate": "0.02"}).learning_rate == 0.02
    assert parse(RecoveryConfig, {"learning_rate": "auto"}) == RecoveryConfig()
    with pytest.raises(ValueError, match=f"`learning_rate` must be a number above 0, or auto, got {given!r}"):
        parse(RecoveryConfig, {"learning_rate": given})


@pytest.mark.parametrize("step", ["finetune:1", "distill:1"])
def test_the_rate_is_found_by_a_range_test_which_changes_nothing_else(
    step: str, trained: nn.Module, task: Task
) -> None:
    model, note = repaired(trained, task, step)
    assert note["learning_rate"] in RATES and note["learning_rate"] in note["tried"] and note["before"] > 0
    same, told = repaired(trained, task, step, learning_rate=note["learning_rate"])
    assert told == {"learning_rate": note["learning_rate"]}
    assert all(torch.equal(x, y) for x, y in zip(weights(model), weights(same), strict=True))


def test_a_rate_that_undoes_what_a_network_knows_is_not_taken(
    trained: nn.Module, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.pruning.recovery.RATES", (0.01, 20.0))
    assert repaired(trained, task, "finetune:1")[1]["learning_rate"] == 0.01


def test_matching_takes_images_without_labels(trained: nn.Module, task: Task) -> None:
    before = weights(trained)
    _, note = repaired(trained, task, "match:1")
    assert note["after"] < note["before"] and note["learning_rate"] in note["tried"]
    assert all(torch.equal(x, y) for x, y in zip(before, weights(trained), strict=True))


def test_matching_takes_any_batches(trained: nn.Module) -> None:
    result = halved(trained)
    start = copy.deepcopy(result.model)
    batches = [torch.rand(60, 1, 8, 8), torch.rand(40, 1, 8, 8)]
    note = repair_unlabelled(Recovery("match", 4), result, trained, batches, seed=1)
    assert note["after"] < note["before"]
    assert not all(torch.equal(x, y) for x, y in zip(weights(start), weights(result.model), strict=True))


def test_no_repair_is_asked_for_by_its_name_alone() -> None:
    assert RecoveryConfig(steps=("none",)).steps == ()
    with pytest.raises(ValueError, match="`recover` must be none alone or among"):
        RecoveryConfig(steps=("calibrate", "none"))
