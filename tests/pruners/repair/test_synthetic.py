"""Inputs that excite batch norms as the training data did, made without them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from pruners import least_squares_, noise, recalibrate_, synthetic
from pruners.repair.synthetic import mismatch
from tests.pruners.plain import prune


def network() -> tuple[nn.Sequential, list[torch.Tensor]]:
    """A network whose batch norms have seen data, and those data: smooth images, one channel of which follows another."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 24, 3, padding=1, stride=2), nn.BatchNorm2d(24), nn.ReLU(),
        nn.Conv2d(24, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 5),
    ).eval()  # fmt: skip
    base = nn.functional.interpolate(torch.randn(200, 3, 3, 3), size=(12, 12), mode="bilinear")
    base[:, 1] = 0.5 * base[:, 0] + 1
    data = list(base.split(50))
    recalibrate_(model, data)
    return model, data


def test_they_excite_the_batch_norms_as_the_data_did() -> None:
    model, data = network()
    made = synthetic(model, data[0], samples=100, batch=50, steps=60)
    assert [x.shape for x in made] == [torch.Size([50, 3, 12, 12])] * 2
    with torch.no_grad():
        far, near = (float(sum(mismatch(model, x) for x in batches)) for batches in (noise(data[0], 100, 50), made))
    assert near < 0.1 * far


def test_least_squares_on_them_keep_more_than_on_noise() -> None:
    model, data = network()
    x = torch.cat(data)

    def error(batches: list[torch.Tensor]) -> float:
        result = prune(model, data[0][:2], {"macs": 0.5})
        least_squares_(result.model, model, result.plan, batches)
        with torch.no_grad():
            return float((result.model(x) - model(x)).square().mean())

    assert error(synthetic(model, data[0], samples=100, batch=50, steps=60)) < 0.7 * error(noise(data[0], 100, 50))


def test_the_model_stays_as_it_was_and_a_seed_decides() -> None:
    model, data = network()
    model.train()
    before = copy.deepcopy(model.state_dict())
    first, again, other = (synthetic(model, data[0], samples=20, batch=20, steps=3, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first[0], again[0]) and not torch.equal(first[0], other[0])
    assert model.training and all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(layer._forward_pre_hooks for layer in model.modules())


def test_progress_is_told() -> None:
    model, data = network()
    told: list[tuple[str, float, float]] = []
    synthetic(model, data[0], samples=15, batch=10, steps=2, progress=lambda *what: told.append(what))
    assert told == [("synthetic inputs", done, 4) for done in (1, 2, 3, 4)]


class Unused(nn.Linear):
    """A batch norm that does not run."""

    def __init__(self) -> None:
        super().__init__(3, 3)
        self.norm = nn.BatchNorm1d(3)


class Behind(nn.Module):
    """A batch norm behind what lets no gradient through."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(2 * x)


def broken() -> nn.Module:
    model = nn.BatchNorm1d(3)
    assert model.running_mean is not None
    model.running_mean[1] = torch.nan
    return model


def test_inputs_are_made_where_gradients_are_off() -> None:
    with torch.no_grad():
        assert len(synthetic(nn.BatchNorm1d(3), torch.randn(2, 3), samples=4, batch=2, steps=1)) == 2


@pytest.mark.parametrize(
    ("model", "example", "message"),
    [
        (nn.Linear(3, 3), torch.randn(2, 3), "must run batch norms with running statistics"),
        (
            nn.BatchNorm1d(3, track_running_stats=False),
            torch.randn(2, 3),
            "must run batch norms with running statistics",
        ),
        (Unused(), torch.randn(2, 3), "let gradients through to its input, got none that does"),
        (Behind(), torch.randn(2, 3), "let gradients through to its input, got none that does"),
        (broken(), torch.randn(2, 3), "must have finite statistics and variances above 0, got a distance of nan"),
        (nn.BatchNorm1d(3), [torch.randn(2, 3)], "must be the one tensor that the model takes, got list"),
        (nn.BatchNorm1d(3), torch.ones(2, 3, dtype=torch.long), "must hold real numbers, got torch.int64"),
        (nn.BatchNorm1d(3), torch.randn(2, 4), "`example` must fit the model"),
    ],
)
def test_what_cannot_be_done_is_refused(model: nn.Module, example: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        synthetic(model, example, samples=4, batch=4, steps=1)
