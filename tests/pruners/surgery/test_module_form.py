"""A smaller model is a module wherever its layers' tensors, its operators or a few integers of its own can say the new sizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruners import PruningPlan, least_squares_, load
from pruners.groups import dependency_groups
from pruners.surgery import Surgery, follow, removable_blocks, replay
from tests.pruners.plain import prune

WIDTH = 16


class Recurrent(nn.Module):
    """A recurrent layer with as many inputs as units."""

    def __init__(self, make: Callable[..., Any], width: int = WIDTH, **options: Any) -> None:
        super().__init__()
        self.embed, self.layer = nn.Linear(5, WIDTH), make(WIDTH, WIDTH, batch_first=True, **options)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(x))[0])


class Stepwise(nn.Module):
    """A cell with as many inputs as units, one step after the other."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.embed, self.cell, self.head = nn.Linear(5, WIDTH), cell, nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        steps = self.embed(x)
        state = self.cell(steps[:, 0])
        return self.head(self.cell(steps[:, 1], state))


class Between(nn.Module):
    """A layer between two others."""

    def __init__(self, first: nn.Module, layer: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.first, self.layer, self.last = first, layer, last

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layer(self.first(x).relu()))


def linear(layer: nn.Module) -> tuple[nn.Module, Tensor]:
    return Between(nn.Linear(5, WIDTH), layer, nn.Linear(WIDTH, 3)), torch.randn(2, 6, 5)


def image(layer: nn.Module) -> tuple[nn.Module, Tensor]:
    return Between(nn.Conv2d(3, WIDTH, 3), layer, nn.Conv2d(WIDTH, 3, 1)), torch.randn(2, 3, 8, 8)


def series(model: nn.Module) -> tuple[nn.Module, Tensor]:
    return model, torch.randn(2, 6, 5)


def unflattened() -> tuple[nn.Module, Tensor]:
    inner = nn.Sequential(nn.Unflatten(-1, (2, 8)), nn.Linear(8, 8), nn.Flatten(-2))
    return Between(nn.Linear(5, WIDTH), inner, nn.Linear(WIDTH, 3)), torch.randn(2, 6, 5)


LAYERS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "rnn": lambda: series(Recurrent(nn.RNN)),
    "lstm in both directions, two layers": lambda: series(Recurrent(nn.LSTM, 32, num_layers=2, bidirectional=True)),
    "gru": lambda: series(Recurrent(nn.GRU)),
    "projected lstm": lambda: series(Recurrent(nn.LSTM, 8, proj_size=8)),
    "gru cell": lambda: series(Stepwise(nn.GRUCell(WIDTH, WIDTH))),
    "rnn cell": lambda: series(Stepwise(nn.RNNCell(WIDTH, WIDTH))),
    "layer norm without weights": lambda: linear(nn.LayerNorm(WIDTH, elementwise_affine=False)),
    "rms norm without weights": lambda: linear(nn.RMSNorm(WIDTH, elementwise_affine=False)),
    "group norm without weights": lambda: image(nn.GroupNorm(4, WIDTH, affine=False)),
    "channels shuffled": lambda: image(nn.ChannelShuffle(4)),
    "unflattened": unflattened,
}


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("name", LAYERS)
def test_layers_follow_from_their_tensors_and_operators(name: str) -> None:
    torch.manual_seed(0)
    model, x = LAYERS[name]()
    result = prune(model.eval(), x, {"params": 0.6})
    assert result.summary.form == "module" and result.summary.difference < 1e-4
    assert result.summary.lacks == () and result.summary.alike is None
    longer = x if x.dim() == 4 else torch.randn(3, 9, 5)
    assert result.model(longer).isfinite().all()


class Attention(nn.Module):
    """Attention with inputs, heads times dimensions and outputs of one width, and some way to scale."""

    def __init__(self, heads: int, dim: int, style: str) -> None:
        super().__init__()
        width = heads * dim
        self.heads, self.dim, self.style, self.latest = heads, dim, style, dim
        self.embed, self.out, self.head = nn.Linear(5, width), nn.Linear(width, width), nn.Linear(width, 3)
        self.qkv = nn.Linear(width, 3 * width) if style == "packed" else None
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        n, steps, _ = x.shape
        if self.qkv is not None:
            q, k, v = self.qkv(x).view(n, steps, 3, self.heads, self.dim).permute(2, 0, 3, 1, 4)
            return q, k, v
        return tuple(f(x).view(n, steps, self.heads, self.dim).transpose(1, 2) for f in (self.q, self.k, self.v))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        q, k, v = self.split(x)
        if self.style == "divided":
            y = ((q @ k.mT) / math.sqrt(self.dim)).softmax(-1) @ v
        elif self.style == "multiplied":
            y = ((q * self.dim**-0.5) @ k.mT).softmax(-1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v)
        y = y.transpose(1, 2).reshape(*x.shape[:2], self.heads * self.dim)
        return self.head(x + self.out(y))


class Added(nn.Module):
    """A residual part with attention in it."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Sequential(Attention(2, 8, "fused"), nn.Linear(3, 5))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.part(x)


@pytest.mark.parametrize("style", ["divided", "multiplied", "fused", "packed"])
def test_scales_are_folded_into_the_queries(style: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Attention(2, 8, style).eval(), torch.randn(2, 6, 5)
    result = prune(model, x, {"params": 0.5}, allocation="uniform")
    assert result.summary.form == "module" and result.model.dim < 8
    assert set(result.plan.folded) == ({"qkv.weight", "qkv.bias"} if style == "packed" else {"q.weight", "q.bias"})
    result.save(tmp_path)
    torch.testing.assert_close(load(tmp_path, Attention(2, 8, style))(x), result.model(x))


def test_least_squares_keep_what_was_folded() -> None:
    torch.manual_seed(0)
    model, x = Attention(2, 8, "fused").eval(), torch.randn(64, 6, 5)
    result = prune(model, x[:2], {"params": 0.7}, allocation="uniform", ignore=["embed.weight:0"])
    before = F.mse_loss(result.model(x), model(x))
    assert result.plan.folded
    least_squares_(result.model, model, result.plan, [x])
    assert F.mse_loss(result.model(x), model(x)) < before


def test_scales_are_folded_where_a_block_is_left_out() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(Added(), Added()).eval(), torch.randn(64, 6, 5)
    removal = replay(prune(model, x[:2], {"params": 0.6}, allocation="uniform").plan, model)
    surgery = Surgery(model, removal.graph, dependency_groups(removal.graph), 1e-4)
    part = max((b for b in removable_blocks(removal.graph) if b.name.startswith("0.")), key=lambda b: len(b.tensors))
    proved = surgery.prove(surgery.cut(removal.keep, [part]))
    plan = PruningPlan.from_json(proved.plan.to_json())
    assert plan.form == "module"
    smaller = follow(plan, model)[0]
    torch.testing.assert_close(smaller(x), proved.model(x))
    before = F.mse_loss(smaller(x), model(x))
    least_squares_(smaller, model, plan, [x])
    assert F.mse_loss(smaller(x), model(x)) < before


@pytest.mark.parametrize("seed", range(4))
def test_equal_sizes_at_random(seed: int, tmp_path: Path) -> None:
    """Heads, dimensions, inputs and steps of one number: where none tells them apart, the right integers change."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*among: Any) -> Any:
        return among[int(torch.randint(len(among), (), generator=generator))]

    torch.manual_seed(seed)
    size, style = drawn(3, 4), drawn("divided", "multiplied", "fused", "packed")
    x = torch.randn(2, drawn(size, size * size), 5)
    model = Attention(size, size, style).eval()
    result = prune(
        model, x, {"params": drawn(0.5, 0.7)}, importance="random", allocation=drawn("uniform", "global"), seed=seed
    )
    assert result.summary.form == "module" and result.summary.difference < 1e-4
    assert result.model.latest == size
    result.save(tmp_path)
    other = torch.randn(3, 7, 5)
    torch.testing.assert_close(load(tmp_path, Attention(size, size, style))(other), result.model(other))
