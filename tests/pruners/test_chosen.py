"""What `auto` stands for: every branch, in words, and the same by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pruners
from pruners import chosen
from pruners.config import CutConfig
from pruners.importance import Bounds, Importance
from tests.pruners.hugging_face import tokens
from tests.pruners.networks import build


def plain() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 5)
    ).eval(), torch.randn(100, 8)


def normed() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(3, 12, 3),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 8, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    return nn.Sequential(*layers, nn.Linear(8, 5)).eval(), torch.randn(100, 3, 6, 6)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few steps of synthetic inputs."""
    made = chosen.synthetic
    monkeypatch.setattr(chosen, "synthetic", lambda *given, **settings: made(*given, steps=2, **settings))
    monkeypatch.setattr(chosen, "SAMPLES", 40)


def choose(model: nn.Module, example: Any, batches: Any = None, **settings: Any) -> chosen.Chosen:
    config = CutConfig(**settings)
    args, kwargs = ((), example) if isinstance(example, dict) else ((example,), {})
    return chosen.choose(config, model, args, kwargs, batches, lambda *given: None)


def test_unlabelled_examples_are_enough_for_the_strong_path() -> None:
    model, x = plain()
    found = choose(model, x[:2], [x])
    assert (found.config.importance.criterion, found.config.allocation) == ("curvature", "optimal")
    assert found.why["importance"].startswith("curvature: ") and found.why["allocation"].startswith("optimal: ")
    assert found.batches is not None and found.batches[0] is x


def test_batch_norms_make_inputs_where_there_are_none(few: None) -> None:
    model, x = normed()
    found = choose(model, x[:2])
    assert (found.config.importance.criterion, found.config.allocation) == ("curvature", "optimal")
    assert found.batches is not None and sum(map(len, found.batches)) == 40
    assert found.why["batches"].startswith("40 synthetic inputs")


def test_without_data_and_batch_norms_weights_are_left_and_what_that_costs_is_said() -> None:
    model, x = plain()
    found = choose(model, x[:2])
    assert (found.config.importance.criterion, found.config.allocation) == ("l2", "global")
    assert found.batches is None and "a few hundred unlabelled examples" in found.why["importance"]


def test_inputs_are_made_only_for_one_tensor_of_real_numbers_and_in_time(few: None) -> None:
    model, x = normed()
    assert choose(model, {"input": x[:2]}).batches is None
    assert choose(nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 2)), tokens(2, 3)).batches is None
    assert choose(model, x[:2], bounds=Bounds(max_seconds=1e-6)).batches is None, "too few to be of use"


def test_what_is_named_stays() -> None:
    model, x = plain()
    found = choose(model, x[:2], [x], importance=Importance(criterion="l1"))
    assert (found.config.importance.criterion, found.config.allocation) == ("l1", "global")
    assert "importance" not in found.why
    found = choose(model, x[:2], [x], allocation="uniform")
    assert (found.config.importance.criterion, found.config.allocation) == ("curvature", "uniform")
    assert list(found.why) == ["importance"]


def named(said: dict[str, str]) -> dict[str, str]:
    return {name: said[name].split(":")[0] for name in ("importance", "allocation", "recover")}


def test_naming_what_was_chosen_gives_the_same_model() -> None:
    model, x = plain()
    result = pruners.prune(model, x[:2], {"macs": 0.75}, batches=[x])
    said = named(dict(result.summary.chosen))
    assert said == {"importance": "curvature", "allocation": "optimal", "recover": "least-squares"}
    again = pruners.prune(model, x[:2], {"macs": 0.75}, batches=[x], **said)
    assert again.plan.removed == result.plan.removed and "importance" not in again.summary.chosen
    state = again.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in result.model.state_dict().items())


def test_without_data_nothing_is_repaired_and_the_plan_is_that_of_weights() -> None:
    model, x = plain()
    result = pruners.prune(model, x[:2], {"macs": 0.75})
    said = named(dict(result.summary.chosen))
    assert said == {"importance": "l2", "allocation": "global", "recover": "none"}
    assert pruners.prune(model, x[:2], {"macs": 0.75}, **said).plan.removed == result.plan.removed


@pytest.mark.parametrize("name", ["residual", "fused qkv", "recurrent"])
def test_defaults_keep_more_than_weights_alone(name: str) -> None:
    model, example = build(name)
    torch.manual_seed(1)
    x = torch.randn(80, *example[0].shape[1:])

    def error(**settings: Any) -> float:
        smaller = pruners.prune(model, example, {"macs": 0.75}, **settings).model
        with torch.no_grad():
            return float((smaller(x) - model(x)).square().mean())

    assert error(batches=[x]) < error(importance="l2", allocation="global", recover="none")
