"""Models that hold a tensor computed from their weights, with its history."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune as masks

from pruners import load
from tests.pruners.plain import prune


def normalised() -> nn.Module:
    """A weight normalised by a hook, which is how it was done before parametrizations."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        first = nn.utils.weight_norm(nn.Linear(6, 16))
    return nn.Sequential(first, nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))


def masked() -> nn.Module:
    """A weight of which a mask removes single entries."""
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
    masks.l1_unstructured(model[2], "weight", amount=0.3)
    return model


class Remembering(nn.Module):
    """Keeps its features for whoever asks."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 3)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).relu()
        self.seen[:] = [y]
        return self.last(y)


@pytest.mark.parametrize("make", [normalised, masked, Remembering])
def test_saved_and_loaded_after_training(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = make(), torch.randn(2, 6)
    model(x).sum().backward()
    result = prune(model, x, {"macs": 0.5}, check_dtype=torch.float64)
    assert result.summary.form == "module" and result.summary.difference < 1e-12
    result.save(tmp_path)
    fresh = make()
    fresh(x)
    again = load(tmp_path, fresh)
    with torch.no_grad():
        assert torch.equal(again(x), result.model(x))
