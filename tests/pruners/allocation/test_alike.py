"""`form="module"`: what one number of the forward governs loses alike, and the summary says what that costs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pruners
from pruners import load
from tests.pruners.plain import prune


class Halves(nn.Module):
    """Two halves of one layer, the second with weights that nobody would keep."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.one, self.two, self.last = (
            nn.Linear(5, 32), nn.Linear(16, 10), nn.Linear(16, 10), nn.Linear(10, 3),
        )  # fmt: skip
        nn.init.uniform_(self.first.weight[16:], -1e-3, 1e-3)

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.first(x).relu().chunk(2, -1)
        return self.last(self.one(one).relu() + self.two(two).tanh())


class Settings(SimpleNamespace):
    """Widths of all layers."""


class Gated(nn.Module):
    """A feed-forward part that reads its width from the settings."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.up, self.down = nn.Linear(settings.hidden, 2 * settings.inner), nn.Linear(settings.inner, settings.hidden)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(x)
        return x + self.down(y[..., : self.settings.inner] * y[..., self.settings.inner :].sigmoid())


class Stack(nn.Module):
    """Several parts with one width in their settings."""

    def __init__(self) -> None:
        super().__init__()
        settings = Settings(hidden=12, inner=20)
        self.first, self.last = nn.Linear(5, 12), nn.Linear(12, 3)
        self.parts = nn.Sequential(Gated(settings), Gated(settings))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.parts(self.first(x)))


class Attending(nn.Module):
    """Attention of torch, whose inputs are as wide as its heads together."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 16), nn.Linear(16, 3)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(x + self.attention(x, x, x)[0])


class WrittenOut(nn.Module):
    """Has its sizes in its code."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(5, 32), nn.Linear(8, 6), nn.Linear(24, 3)
        self.aside, self.out = nn.Linear(5, 40), nn.Linear(40, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(self.first(x).view(x.shape[0], 4, 8)).relu()
        return self.last(y.view(x.shape[0], 24)) + self.out(self.aside(x).relu())


MODELS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "chunks": (Halves, "equal pieces in the model"),
    "one width of all layers": (Stack, "settings.inner"),
    "attention": (Attending, "attention.embed_dim"),
}


@pytest.mark.parametrize("name", MODELS)
def test_what_one_number_governs_loses_alike(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, what = MODELS[name]
    importance = "l2" if name == "chunks" else "random"
    model, x = make().eval(), torch.randn(2, 6, 5)
    summary = prune(model, x, {"params": 0.5}, form="auto", importance=importance, check=False).summary
    assert summary.form == "graph" and 'form="module"' in summary.lacks[-1]
    result = prune(model, x, {"params": 0.5}, form="module", importance=importance)
    assert result.summary.form == "module" and result.summary.difference < 1e-4
    assert result.summary.after["params"] <= 0.5 * result.summary.before["params"]
    alike: Any = result.summary.alike
    assert any(governed.endswith(what) for governed in alike["governed"]) and alike["groups"] > 1
    assert not alike["whole"] and 0 < alike["lost_freely"] < 1 and 0 < alike["lost"] < 1
    result.save(tmp_path)
    longer = torch.randn(3, 8, 5)
    torch.testing.assert_close(load(tmp_path, make())(longer), result.model(longer))


def test_blocks_go_from_a_module(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Stack().eval(), torch.randn(64, 6, 5)
    for layer in (model.parts[1].up, model.parts[1].down):
        nn.init.uniform_(layer.weight, -1e-2, 1e-2)
    deep = {"importance": "curvature", "allocation": "optimal", "depth": True, "batches": [x], "recover": "none"}
    result = pruners.prune(model, x[:2], {"params": 0.3}, form="module", **deep)
    assert result.summary.form == "module" and result.summary.blocks == ("parts.0", "parts.1")
    assert result.summary.after["params"] <= 0.3 * result.summary.before["params"]
    result.save(tmp_path)
    torch.testing.assert_close(load(tmp_path, Stack())(x), result.model(x))


def test_all_blocks_stay_where_a_width_is_of_all_layers() -> None:
    torch.manual_seed(0)
    model, x = Stack().eval(), torch.randn(64, 6, 5)
    deep = {"importance": "curvature", "allocation": "optimal", "depth": True, "batches": [x], "recover": "none"}
    result = pruners.prune(model, x[:2], {"params": 0.45}, form="module", **deep)
    assert result.summary.form == "module" and result.summary.after["params"] <= 0.45 * result.summary.before["params"]


def test_what_is_written_out_stays_whole() -> None:
    torch.manual_seed(0)
    model, x = WrittenOut().eval(), torch.randn(4, 5)
    result = prune(model, x, {"params": 0.8}, form="module", importance="random")
    assert result.summary.form == "module" and set(result.summary.groups) == {"aside.weight:0"}
    assert result.summary.alike is not None and "first.weight:0[0]" in result.summary.alike["whole"]


def test_a_target_beyond_what_a_module_reaches() -> None:
    with pytest.raises(ValueError, match="`form='module'` keeps groups whole .*`targets` must be reachable"):
        prune(WrittenOut().eval(), torch.randn(4, 5), {"params": 0.3}, form="module")


def test_a_forward_that_nothing_helps() -> None:
    class Counted(nn.Module):
        """Refuses any size but its first."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(5, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            if self.first.weight.shape[0] != 8:
                raise RuntimeError("eight, and nothing else")
            return self.last(self.first(x).relu())

    with pytest.raises(ValueError, match="`form='module'` .*eight, and nothing else"):
        prune(Counted().eval(), torch.randn(4, 5), {"params": 0.7}, form="module")
