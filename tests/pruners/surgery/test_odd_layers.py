"""Layers that few models have: pruned where the rules know them, left alone where not, never a crash or a wrong model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruners import groups
from tests.pruners.constructs import CosineAttention
from tests.pruners.plain import prune


class Around(nn.Module):
    """A layer between two linear layers, beside a block that can always be pruned."""

    def __init__(self, layer: Callable[[Tensor], Tensor], width: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(width, 3)
        self.layer = layer
        self.inner, self.outer = nn.Linear(6, 20), nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.last(self.layer(self.first(x)))
        return y.flatten(1).mean(1, keepdim=True) + self.outer(self.inner(x).relu()).mean(1)


class Multiplied(nn.Module):
    """Two projections of one input, multiplied by a bilinear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.bilinear = nn.Bilinear(8, 8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.bilinear(x, x.tanh())


class Warped(nn.Module):
    """Channels read at places that other channels say."""

    def __init__(self) -> None:
        super().__init__()
        self.where = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        grid = self.where(x).tanh().unflatten(1, (2, 2))
        image = x.transpose(1, 2).unflatten(2, (2, 2))
        return F.grid_sample(image, grid, align_corners=False).flatten(2).transpose(1, 2)


class PerFeature(nn.Module):
    """A slope for each of the features, which a convolution would call channels."""

    def __init__(self) -> None:
        super().__init__()
        self.slopes = nn.PReLU(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.slopes(x.transpose(1, 2)).transpose(1, 2)


def unpooled(x: Tensor) -> Tensor:
    values, places = F.max_pool1d(x.transpose(1, 2), 2, return_indices=True)
    return F.max_unpool1d(values, places, 2).transpose(1, 2)


def longer(x: Tensor) -> Tensor:
    return F.interpolate(x.transpose(1, 2), scale_factor=1.5, mode="nearest-exact").transpose(1, 2)


LAYERS: dict[str, tuple[Callable[[], Callable[[Tensor], Tensor]], int]] = {
    "prelu per channel": (lambda: nn.PReLU(4), 8),
    "prelu shared": (lambda: nn.PReLU(), 8),
    "prelu per feature": (PerFeature, 8),
    "resized exactly": (lambda: longer, 8),
    "sampled on a grid": (Warped, 8),
    "unpooled": (lambda: unpooled, 8),
    "loss entry by entry": (lambda: lambda x: F.smooth_l1_loss(x, x.flip(1), reduction="none"), 8),
    "loss": (lambda: lambda x: x * F.mse_loss(x, x.flip(1)), 8),
    "softmax": (lambda: nn.Softmax(-1), 8),
    "cumulative sum": (lambda: lambda x: x.cumsum(-1), 8),
    "maximum with another": (lambda: lambda x: torch.maximum(x, x.flip(1)), 8),
    "largest values": (lambda: lambda x: x.topk(3, -1).values, 3),
    "sorted": (lambda: lambda x: x.sort(-1).values, 8),
    "bilinear": (Multiplied, 5),
    "local response": (lambda: nn.LocalResponseNorm(2), 8),
    "cosine": (lambda: lambda x: F.cosine_similarity(x[..., None, :], x[:, :, None], dim=1), 8),
    "distances": (lambda: lambda x: torch.cdist(x, x), 4),
    "tiled": (lambda: lambda x: x.repeat(1, 1, 2), 16),
    "interleaved": (lambda: lambda x: x.repeat_interleave(2, -1), 16),
    "pooled channels": (lambda: nn.AvgPool1d(2), 4),
    "unfolded": (lambda: lambda x: x.unfold(-1, 2, 2).flatten(2), 8),
    "windows of a length": (lambda: lambda x: x.unfold(1, 2, 1).amax(-1), 8),
    "standardised": (lambda: lambda x: (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True), 8),
    "outer product": (lambda: lambda x: torch.einsum("bli,blj->blij", x, x).flatten(2), 64),
    "triangle": (lambda: lambda x: x.tril(), 8),
    "unit length": (lambda: lambda x: F.normalize(x, dim=-1), 8),
    "stepped": (lambda: lambda x: x[..., ::2], 4),
    "rolled": (lambda: lambda x: x.roll(1, -1), 8),
    "reflected": (lambda: lambda x: F.pad(x, (1, 1), mode="reflect"), 10),
    "composed": (lambda: lambda x: torch.multiply(x, F.logsigmoid(x)).tile(1, 1, 2).float_power(2).float(), 16),
    "chosen": (lambda: lambda x: x.index_select(1, torch.tensor([2, 0])), 8),
    "cut unsafely": (lambda: lambda x: torch.cat(torch.unsafe_chunk(x, 2, -1)[::-1], -1), 8),
    "views": (lambda: lambda x: x.movedim(1, 2).swapaxes(1, 2).flatten(1).view_as(x) @ x.mT @ x, 8),
    "one left out": (lambda: lambda x: torch.cat([x[..., :3], x[..., 4:]], -1), 7),
}
FROZEN = ("softmax", "cumulative sum", "largest values", "sorted", "local response", "distances", "pooled channels",
          "unfolded", "triangle", "stepped", "rolled", "reflected")  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_an_odd_layer_gives_a_right_model(name: str) -> None:
    torch.manual_seed(0)
    make, width = LAYERS[name]
    model, x = Around(make(), width).eval(), torch.randn(2, 4, 6)
    before = [group for group in groups(model, x) if group.name.startswith("first.weight:0")]
    assert any(group.protected is None for group in before) == (name not in FROZEN)
    result = prune(model, x, {"params": 0.8}, importance="random")
    assert result.summary.difference < 1e-4 and result.summary.difference_inside < 1e-4


@pytest.mark.parametrize("name", ["composed", "views", "cut unsafely"])
def test_composite_operators_are_taken_apart(name: str) -> None:
    torch.manual_seed(0)
    make, width = LAYERS[name]
    summary = prune(Around(make(), width).eval(), torch.randn(2, 4, 6), {"params": 0.6}, importance="random").summary
    assert not summary.unknown and any(group.startswith("first.weight:0") for group in summary.groups)


def test_heads_are_free_where_a_part_of_their_bias_is_zeroed() -> None:
    free = {group.name for group in groups(CosineAttention().eval(), torch.randn(2, 4, 6)) if not group.protected}
    assert free == {"scale:0", "qkv.weight:0[1]"}  # heads, and the width of a head
