"""Integers of a module change where its forward needs them smaller, and nowhere else, whatever else they equal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from pruners import load
from pruners.result import PLAN
from tests.pruners.plain import prune


class Latest(nn.Module):
    """Looks at the latest 64 steps, and has 64 features."""

    def __init__(self) -> None:
        super().__init__()
        self.steps, self.classes = 64, 3
        self.embed, self.inner, self.head = nn.Linear(4, 64), nn.Linear(64, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.embed(x[:, -self.steps :]).relu()
        return self.head(self.inner(y).relu()).mean(1)


class Positions(nn.Module):
    """Adds positions that are neither a parameter nor a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = torch.randn(6, 64)
        self.embed, self.head = nn.Linear(4, 64), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.embed(x) + self.positions).relu())


class Split(NamedTuple):
    """How features are seen."""

    heads: int
    width: int


class Attending(nn.Module):
    """Attention over the latest steps, as many as there are dimensions in a head."""

    def __init__(self) -> None:
        super().__init__()
        self.split, self.steps = Split(6, 8), 8
        self.qkv, self.out = nn.Linear(10, 3 * 48), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, -self.steps :]
        q, k, v = self.qkv(x).unflatten(2, (3, *self.split)).permute(2, 0, 3, 1, 4)
        return self.out(((q @ k.mT / 3).softmax(-1) @ v).transpose(1, 2).flatten(2))


class Halved(nn.Module):
    """Divides by the root of its width, which a graph keeps as a number."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 64
        self.first, self.last = nn.Linear(4, 64), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).relu() / self.width**0.5)


def alone(smaller: Latest, x: Tensor) -> Tensor:
    """What the smaller model is to compute of up to 64 steps."""
    return smaller.head(smaller.inner(smaller.embed(x).relu()).relu()).mean(1)


def test_what_equals_a_width_by_chance_stays(tmp_path: Path) -> None:
    torch.manual_seed(0)
    result = prune(Latest(), torch.randn(2, 10, 4), {"macs": 0.5})
    assert result.summary.form == "module" and result.plan.mended == ()
    assert result.model.steps == 64 > len(result.model.embed.weight) and result.model.classes == 3
    x = torch.randn(2, 60, 4)
    torch.testing.assert_close(result.model(x), alone(result.model, x))
    result.save(tmp_path)
    again = load(tmp_path, Latest())
    assert again.steps == 64 and torch.equal(again(x), result.model(x))


@pytest.mark.parametrize("length", [5, 20])
def test_what_the_forward_needs_is_mended_alone(length: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    result = prune(Attending(), torch.randn(2, length, 10), {"macs": 0.5})
    assert result.summary.form == "module" and result.plan.mended == ("split",)
    assert isinstance(result.model.split, Split) and result.model.split != Split(6, 8) and result.model.steps == 8
    result.save(tmp_path)
    x = torch.randn(2, 30, 10)
    assert torch.equal(load(tmp_path, Attending())(x), result.model(x))


def test_a_number_in_a_formula_stays() -> None:
    result = prune(Halved(), torch.randn(2, 4), {"macs": 0.5})
    assert result.summary.form == "module" and result.model.width == 64


def test_a_plan_of_before_mends_all(tmp_path: Path) -> None:
    torch.manual_seed(0)
    result = prune(Attending(), torch.randn(2, 5, 10), {"macs": 0.5})
    result.save(tmp_path)
    (tmp_path / PLAN).write_text(replace(result.plan, mended=None).to_json())
    assert load(tmp_path, Attending()).steps == result.model.split.width < 8


def test_tensors_that_are_neither_parameters_nor_buffers() -> None:
    result = prune(Positions(), torch.randn(2, 6, 4), {"macs": 0.5})
    assert result.summary.difference < 1e-5 and result.model.positions.shape[1] < 64
