"""Constructs met in published models, one small network each; each is (model, example inputs).

Shapes: B batch, C channels, L length, E width, H heads, D width of a head.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TakenApart(nn.Module):
    """Windows taken out of a map, weighted by position and added up again (outlook attention)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.weigh = nn.Linear(8, 2 * 9)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        b, c, h, w = x.shape
        windows = F.unfold(x, 3, padding=1).reshape(b, 2, c // 2, 9, h * w)
        weights = self.weigh(x.permute(0, 2, 3, 1)).reshape(b, h * w, 2, 9).permute(0, 2, 3, 1).softmax(2)
        x = x + F.fold((windows * weights[:, :, None]).reshape(b, c * 9, h * w), (h, w), 3, padding=1)
        return self.head(x.mean((2, 3)))


class LargestOfLast(nn.Module):
    """A second classifier's largest scores over positions are added to the first one's."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.first, self.second = nn.Linear(8, 5), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).relu()
        return self.first(x.mean(1)) + 0.5 * self.second(x).max(1)[0]


class PositionsFromWeights(nn.Module):
    """A bias computed from a fixed table by a small network, the same for every sample."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(6, 8), nn.Linear(8, 5)
        self.hidden, self.out = nn.Linear(2, 12), nn.Linear(12, 8)
        self.register_buffer("table", torch.randn(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.embed(x) + self.out(self.hidden(self.table).relu())).relu()).mean(1)


class MergedHeads(nn.Module):
    """Attention in batched products, heads beside the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv, self.out = nn.Linear(6, 8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        b, n, e = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, 4, 2).permute(2, 0, 3, 1, 4).reshape(3, b * 4, n, 2)
        weights = torch.bmm(q, k.transpose(1, 2)).softmax(-1)
        y = torch.bmm(weights, v).view(b, 4, n, 2).transpose(1, 2).reshape(b, n, e)
        return self.head(x + self.out(y)).mean(1)


class BiasedAttention(nn.Module):
    """Fused attention with a learned bias per head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv, self.out = nn.Linear(6, 8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.bias = nn.Parameter(torch.randn(4, 4, 4))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        q, k, v = self.qkv(x).unflatten(-1, (3, 4, 2)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, self.bias)
        return self.head(x + self.out(y.transpose(1, 2).flatten(2))).mean(1)


class CosineAttention(nn.Module):
    """Attention by angles, each head with a scale of its own, whose keys have no bias: it is zeroed in a copy (SwinV2)."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.scale, self.head = nn.Linear(6, 24), nn.Parameter(torch.ones(2, 1, 1)), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        bias = self.qkv.bias.clone()
        third = bias.shape[0] // 3
        bias[third : 2 * third].zero_()
        q, k, v = F.linear(x, self.qkv.weight, bias).reshape(*x.shape[:2], 3, 2, -1).permute(2, 0, 3, 1, 4)
        weights = (self.scale * F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).swapaxes(-2, -1)).softmax(-1)
        return self.head((weights @ v).swapdims(1, 2).flatten(2))


class WrittenRows(nn.Module):
    """A recurrence over time that writes its rows into a tensor, with a position table that it keeps as a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.inner, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 5)
        self.register_buffer("table", torch.randn(4, 8))

    def forward(self, x: Tensor) -> Tensor:
        self.table = self.table.to(x.dtype)
        x = self.embed(x) + self.table
        out = torch.zeros_like(x)
        state = torch.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            state = (0.5 * state + self.inner(x[:, t])).tanh()
            out[:, t] = state
        return self.head(out).mean(1)


class Frequencies(nn.Module):
    """Tokens mixed by a Fourier transform over positions, channels rotated as complex pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(6, 8), nn.Linear(8, 5)
        self.angles = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + torch.fft.fft(x, dim=1).real
        turn = torch.polar(torch.ones_like(self.angles), self.angles)
        pairs = torch.view_as_complex(x.reshape(*x.shape[:2], 4, 2)) * turn
        return self.head(torch.view_as_real(pairs).flatten(2)).mean(1)


class RotatedTail(nn.Module):
    """The last features of each row are rotated as complex pairs, where they lie beside the others (DeepSeek-V2)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(6, 12), nn.Linear(12, 5)
        self.register_buffer("angles", torch.polar(torch.ones(4, 2), torch.rand(4, 2)))

    def forward(self, x: Tensor) -> Tensor:
        plain, tail = self.embed(x).split([8, 4], -1)
        pairs = torch.view_as_complex(tail.reshape(*tail.shape[:-1], -1, 2)) * self.angles
        return self.head(torch.cat([plain.relu(), torch.view_as_real(pairs).flatten(2)], -1))


class Repeated(nn.Module):
    """Groups of a state-space model repeated for each head."""

    def __init__(self) -> None:
        super().__init__()
        self.group, self.heads, self.head = nn.Linear(6, 2 * 3), nn.Linear(6, 4), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        groups = self.group(x).view(*x.shape[:2], 2, 3).repeat_interleave(2, dim=2, output_size=4)
        return self.head((groups * self.heads(x)[..., None]).flatten(2)).mean(1)


class Modulated(nn.Module):
    """Convolutions whose weights are scaled for each sample, all samples in one call as groups; the second per channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.style = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(3, 8)
        self.full, self.single = nn.Parameter(torch.randn(12, 8, 3, 3)), nn.Parameter(torch.randn(12, 1, 3, 3))
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        style = self.style(x.mean((2, 3)))
        x = self.stem(x)
        b, c, h, w = x.shape
        weight = self.full * style[:, None, :, None, None]
        x = F.conv2d(x.reshape(1, b * c, h, w), weight.reshape(b * 12, c, 3, 3), padding=1, groups=b).relu()
        weight = self.single * style.sum(1)[:, None, None, None, None]
        x = F.conv2d(x, weight.reshape(b * 12, 1, 3, 3), padding=1, groups=b * 12)
        return self.head(x.reshape(b, 12, h, w).mean((2, 3)))


CONSTRUCTS: dict[str, Callable[[], tuple[nn.Module, tuple[Tensor, ...]]]] = {
    "unfolded and folded": lambda: (TakenApart(), (torch.randn(2, 3, 6, 6),)),
    "heads beside the batch": lambda: (MergedHeads(), (torch.randn(2, 4, 6),)),
    "biased attention": lambda: (BiasedAttention(), (torch.randn(2, 4, 6),)),
    "cosine attention": lambda: (CosineAttention(), (torch.randn(2, 4, 6),)),
    "rows written in turn": lambda: (WrittenRows(), (torch.randn(2, 4, 6),)),
    "frequencies": lambda: (Frequencies(), (torch.randn(2, 4, 6),)),
    "rotated tail": lambda: (RotatedTail(), (torch.randn(2, 4, 6),)),
    "repeated groups": lambda: (Repeated(), (torch.randn(2, 4, 6),)),
    "modulated": lambda: (Modulated(), (torch.randn(2, 3, 6, 6),)),
    "largest of last": lambda: (LargestOfLast(), (torch.randn(2, 4, 6),)),
    "positions from weights": lambda: (PositionsFromWeights(), (torch.randn(2, 4, 6),)),
}
