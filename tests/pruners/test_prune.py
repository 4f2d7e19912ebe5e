"""The verb: what it returns, what it leaves alone, what it refuses."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruners import PrunableSpace, groups
from pruners.surgery.module import SHAKEN, _shaken
from tests.pruners.networks import build
from tests.pruners.plain import prune


def test_the_result_is_smaller_and_proved(residual: Any) -> None:
    model, _, result = residual
    assert result.summary.after["macs"] <= 0.5 * result.summary.before["macs"]
    assert result.summary.after["params"] == sum(p.numel() for p in result.model.parameters())
    assert result.summary.difference < 1e-5 and result.summary.difference_inside < 1e-5
    assert result.summary.form == "module" and isinstance(result.model, type(model))
    assert result.model.inner.out_channels == len(result.model.inner.weight) < 12
    json.dumps(result.summary.to_dict())


def test_the_given_model_is_untouched() -> None:
    model, example = build("residual")
    model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    prune(model, example, {"macs": 0.5})
    assert model.training and all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_a_module_under_two_names_is_untouched() -> None:
    twice = nn.Linear(8, 8)
    model = nn.Sequential(nn.Linear(6, 8), twice, nn.ReLU(), twice, nn.Linear(8, 3))
    first = prune(model, torch.randn(2, 6), {"macs": 0.6})
    assert isinstance(twice.weight, nn.Parameter) and first.model[1] is first.model[3]
    assert first.plan == prune(model, torch.randn(2, 6), {"macs": 0.6}).plan


@pytest.mark.parametrize("name", ["residual", "fused qkv and softmax"])
def test_a_second_prune_works(name: str) -> None:
    model, example = build(name)
    first = prune(model, example, {"macs": 0.8})
    second = prune(first.model, example, {"macs": 0.8})
    assert second.summary.after["macs"] <= 0.8 * first.summary.after["macs"]


@pytest.mark.parametrize("name", ["zero padded shortcut", "recurrent"])
def test_the_result_trains(name: str) -> None:
    model, example = build(name)
    smaller = prune(model, example, {"params": 0.6}).model
    smaller.train()
    optimiser = torch.optim.SGD(smaller.parameters(), 0.05)
    losses = []
    for _ in range(8):
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(smaller(*example), torch.arange(len(example[0])))
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_a_rewritten_graph_updates_its_batch_statistics() -> None:
    model, example = build("zero padded shortcut")
    result = prune(model, example, {"macs": 0.4})
    assert result.summary.form == "graph"
    state = {key: value.clone() for key, value in result.model.state_dict().items() if "running" in key}
    result.model.train()(*example)
    assert all(not torch.equal(value, result.model.state_dict()[key]) for key, value in state.items())


def test_keyword_inputs() -> None:
    model, (x,) = build("residual")
    positional, named = prune(model, x, {"macs": 0.6}), prune(model, {"x": x}, {"macs": 0.6})
    assert positional.plan.removed == named.plan.removed


class Squeezing(nn.Module):
    """Drops every dimension of 1, the batch's too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).mean((2, 3), keepdim=True).squeeze())


def test_a_batch_of_one_may_lose_its_dimension() -> None:
    result = prune(Squeezing(), torch.randn(1, 3, 8, 8), {"macs": 0.5})
    assert result.model(torch.randn(1, 3, 8, 8)).shape == (5,)
    assert result.model(torch.randn(4, 3, 8, 8)).shape == (4, 5)


@pytest.mark.parametrize("name", ["heads beside the batch", "windows", "positions from weights"])
def test_one_sample(name: str) -> None:
    model, (x,) = build(name)
    assert prune(model, x[:1], {"macs": 0.6}).summary.difference < 1e-5


def test_same_seed_same_plan_in_another_process() -> None:
    program = (
        "import torch; from pruners import prune; from tests.pruners.networks import build; model, x = build('residual');"
        "print(prune(model, x, {'macs': 0.5}, importance='random', seed=3).plan.to_json())"
    )
    model, example = build("residual")
    here = prune(model, example, {"macs": 0.5}, importance="random", seed=3).plan.to_json()
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert json.loads(here) == json.loads(there)
    assert here != prune(model, example, {"macs": 0.5}, importance="random", seed=4).plan.to_json()


def test_groups_say_what_is_protected_and_why(residual: Any) -> None:
    model, example, _ = residual
    found = {group.name: group for group in groups(model, example)}
    assert found["stem.weight:0"].protected is None and found["inner.weight:0"].protected is None
    assert found["stem.weight:1"].protected == "model input" and found["head.weight:0"].protected == "model output"
    assert {member.tensor for member in found["inner.weight:0"].members} >= {
        "inner.weight",
        "inner_norm.weight",
        "outer.weight",
    }


def test_what_is_ignored_stays(residual: Any) -> None:
    model, example, _ = residual
    for name in ("inner.weight:0", "inner_norm", "inner_norm.bias"):
        result = prune(model, example, {"macs": 0.8}, ignore=[name])
        assert list(result.plan.removed) == ["stem.weight:0"]
    with pytest.raises(ValueError, match="nothing can be removed"):  # its columns are the stem's channels
        prune(model, example, {"macs": 0.8}, ignore=["inner"])


class Unknown(nn.Module):
    """A running sum of exponentials over channels, which no rule knows."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner = nn.Linear(4, 8), nn.Linear(8, 6)
        self.outer, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.logcumsumexp(self.first(x), -1)
        return self.last(x + self.outer(self.inner(x).relu()))


def test_an_unknown_operator_freezes_what_it_touches_and_is_named() -> None:
    result = prune(Unknown(), torch.randn(2, 4), {"macs": 0.8})
    assert list(result.summary.groups) == ["inner.weight:0"]
    assert any("logcumsumexp" in name for name in result.summary.unknown)
    found = {group.name: group for group in groups(Unknown(), torch.randn(2, 4))}
    assert "unknown operator aten.logcumsumexp" in (found["first.weight:0"].protected or "")


class WithAuxiliary(nn.Module):
    """A second head that only training uses."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.auxiliary = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.last(self.inner(self.first(x).relu()).relu())
        return y + self.auxiliary(x) if self.training else y


def test_what_the_trace_does_not_use_stays() -> None:
    result = prune(WithAuxiliary(), torch.randn(2, 4), {"macs": 0.5})
    assert all(name.startswith(("first", "inner")) for name in result.plan.removed)
    result.model.train()(torch.randn(2, 4))


# --- bad input -------------------------------------------------------------------------------------------------------


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if x.sum() > 0 else x


class Highest(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).topk(8, -1).values


def test_an_untraceable_model_is_refused_with_the_place(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"(?s)cannot be traced.*test_prune.py.*Ways out: "):
        prune(Branching(), torch.ones(2, 4), {"macs": 0.5})
    assert capfd.readouterr() == ("", "")


class Between(nn.Module):
    """An operation between layers, given a linear layer to use."""

    def __init__(self, operation: Callable[[Tensor, nn.Module], Tensor]) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 8))
        self.inner, self.last = nn.Linear(8, 8), nn.Linear(8, 3)
        self.operation = operation

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.operation(self.first(x), self.inner))


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (
            lambda x, _: torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,)),
            r"must not depend on values, .* torch.where",
        ),
        (lambda x, inner: torch.vmap(inner)(x), r"must not call torch.vmap in its forward"),
    ],
)
def test_what_depends_on_values_is_refused_with_the_place(operation: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prune(Between(operation), torch.randn(4, 6), {"params": 0.7})


def test_a_matrix_may_be_inverted() -> None:
    model = Between(lambda x, inner: torch.linalg.solve(inner.weight, x.t()).t())
    summary = prune(model, torch.randn(4, 6), {"params": 0.8}).summary
    assert set(summary.groups) == {"first.0.weight:0"}
    assert summary.difference < 1e-4


def test_example_inputs_that_do_not_fit_are_refused(residual: Any, capfd: pytest.CaptureFixture[str]) -> None:
    model, _, _ = residual
    with pytest.raises(ValueError, match=r"`example_inputs` must fit the model, got \[\(2, 4, 8, 8\)\]"):
        prune(model, torch.randn(2, 4, 8, 8), {"macs": 0.5})
    with pytest.raises(ValueError, match=r"must be a tensor, a sequence .* got str"):
        prune(model, "1x3x8x8", {"macs": 0.5})
    assert capfd.readouterr() == ("", "")


def test_what_the_exporter_logs_of_inputs_that_do_not_fit_stays_out_of_sight(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    logger.addHandler(caplog.handler)  # torch's loggers need not propagate
    try:
        with pytest.raises(ValueError, match="must fit the model"):
            prune(Highest(), torch.ones(2, 4), {"macs": 0.5})
    finally:
        logger.removeHandler(caplog.handler)
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]


def test_an_unreachable_target_is_refused(residual: Any) -> None:
    model, example, _ = residual
    with pytest.raises(ValueError, match="this model reaches macs from"):
        prune(model, example, {"macs": 0.0001})


def test_an_unknown_group_is_refused(residual: Any) -> None:
    model, example, _ = residual
    with pytest.raises(ValueError, match=r"got 'iner.weight:0'; did you mean: inner.weight:0"):
        prune(model, example, {"macs": 0.5}, ignore=["iner.weight:0"])


def test_half_precision_is_refused_by_a_space() -> None:
    model, example = build("residual")
    with pytest.raises(ValueError, match=r"float32 or float64 here, got torch.bfloat16"):
        PrunableSpace(model.bfloat16(), example[0].bfloat16())


def test_nan_weights_are_refused() -> None:
    model, example = build("residual")
    with torch.no_grad():
        model.get_parameter("inner.weight")[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"no NaN, got some in 'inner.weight'"):
        prune(model, example, {"macs": 0.5})


@pytest.mark.parametrize("name", ["inner.weight", "norm.running_mean"])
def test_a_model_on_several_devices_is_refused(name: str) -> None:
    model, example = build("residual")
    part, _, tensor = name.rpartition(".")
    moved = getattr(model.get_submodule(part), tensor).to("meta")
    setattr(model.get_submodule(part), tensor, torch.nn.Parameter(moved) if tensor == "weight" else moved)
    with pytest.raises(ValueError, match=rf"on one device that holds values, got cpu .*, meta \('{name}'\)"):
        prune(model, example, {"macs": 0.5})


def test_inputs_on_another_device_are_refused(residual: Any) -> None:
    model, example, _ = residual
    with pytest.raises(ValueError, match="on the model's device, got meta for a model on cpu"):
        prune(model, example[0].to("meta"), {"macs": 0.5})


class Tied(nn.Module):
    """One weight that maps channels to channels: its two dimensions belong to two groups unless they are tied."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)
        self.there, self.back = nn.Linear(6, 10, bias=False), nn.Linear(10, 10, bias=False)
        self.square = nn.Linear(10, 6, bias=False)
        self.shared = nn.Parameter(torch.randn(10, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(nn.functional.linear(nn.functional.linear(x, self.shared).relu(), self.shared.t()) + x)


def test_a_parameter_shared_between_two_groups() -> None:
    result = prune(Tied(), torch.randn(2, 4), {"macs": 0.5})
    assert result.summary.difference < 1e-5
    rows, columns = result.model.shared.shape
    assert (rows, columns) != (10, 6)


def test_a_model_in_channels_last_is_cut_as_it_is() -> None:
    model = build("residual")[0].to(memory_format=torch.channels_last)
    assert prune(model, torch.randn(2, 3, 8, 8), {"macs": 0.6}).summary.form == "module"


def test_noise_reaches_every_row_and_column_and_goes_again() -> None:
    model = nn.Linear(768, 513)
    before = model.weight.detach().clone()
    with _shaken(model):
        changed = model.weight != before
        assert changed.any(0).all() and changed.any(1).all() and changed.sum() <= SHAKEN
    assert torch.equal(model.weight, before)
