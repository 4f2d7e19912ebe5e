"""Attention in the shapes that models write it. Shapes: B batch, L length, E width, H heads, D width of a head."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention written out, the scale already in the query."""
    return (q @ k.transpose(-2, -1)).softmax(-1) @ v


class FusedQkv(nn.Module):
    """One projection for query, key and value, split as a reshape to (3, H, D); the softmax written out or fused."""

    def __init__(self, fused_softmax: bool) -> None:
        super().__init__()
        self.heads, self.fused_softmax = 4, fused_softmax
        self.embed = nn.Linear(6, 16)
        self.norm = nn.LayerNorm(16)
        self.qkv = nn.Linear(16, 3 * 32)
        self.project = nn.Linear(32, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        b, length, _ = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, length, 3, self.heads, 8).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v) if self.fused_softmax else attend(q * 8**-0.5, k, v)
        x = x + self.project(y.transpose(1, 2).reshape(b, length, -1))
        return self.head(x[:, 0])


class SharedKeys(nn.Module):
    """Grouped-query attention: 6 heads, fewer keys and values, which are repeated by expanding or by the operator."""

    def __init__(self, keys: int, expand: bool) -> None:
        super().__init__()
        self.keys, self.expand = keys, expand
        self.embed = nn.Linear(6, 16)
        self.q, self.k, self.v = nn.Linear(16, 6 * 4), nn.Linear(16, keys * 4), nn.Linear(16, keys * 4)
        self.project = nn.Linear(24, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        b, length, _ = x.shape
        q, k, v = (layer(x).view(b, length, -1, 4).transpose(1, 2) for layer in (self.q, self.k, self.v))
        if self.expand:
            repeats = 6 // self.keys
            k, v = (t[:, :, None].expand(b, self.keys, repeats, length, 4).reshape(b, 6, length, 4) for t in (k, v))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        x = x + self.project(y.transpose(1, 2).flatten(2))
        return self.head(x.mean(1))


class Windowed(nn.Module):
    """Attention inside shifted windows, with a table of relative positions."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 12, 2, stride=2)
        self.qkv = nn.Linear(12, 36)
        self.project = nn.Linear(12, 12)
        self.table = nn.Parameter(torch.randn(9, 3))
        row = torch.arange(2)
        place = torch.stack(torch.meshgrid(row, row, indexing="ij")).flatten(1)
        relative = place[:, :, None] - place[:, None] + 1
        self.register_buffer("relative", (relative[0] * 3 + relative[1]).flatten(), persistent=False)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).permute(0, 2, 3, 1)  # (B, 4, 4, 12)
        b, h, w, c = x.shape
        y = torch.roll(x, (-1, -1), (1, 2)).view(b, h // 2, 2, w // 2, 2, c).transpose(2, 3).reshape(-1, 4, c)
        q, k, v = self.qkv(y).reshape(y.shape[0], 4, 3, 3, 4).permute(2, 0, 3, 1, 4)
        bias = self.table[self.relative].view(4, 4, 3).permute(2, 0, 1)
        y = ((q * 0.5) @ k.transpose(-2, -1) + bias).softmax(-1) @ v
        y = self.project(y.transpose(1, 2).reshape(-1, 4, c))
        y = y.view(b, h // 2, w // 2, 2, 2, c).transpose(2, 3).reshape(b, h, w, c)
        x = x + torch.roll(y, (1, 1), (1, 2))
        return self.head(x.mean((1, 2)))


class Einsum(nn.Module):
    """Attention by einsum over weights of shape (E, H, D)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 10)
        self.q, self.k, self.v = (nn.Parameter(torch.randn(10, 3, 4) * 0.3) for _ in range(3))
        self.out = nn.Parameter(torch.randn(3, 4, 10) * 0.3)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        q, k, v = (torch.einsum("ble,ehd->bhld", x, w) for w in (self.q, self.k, self.v))
        y = torch.einsum("bhls,bhsd->bhld", torch.einsum("bhld,bhsd->bhls", q, k).softmax(-1), v)
        return self.head((x + torch.einsum("bhld,hde->ble", y, self.out)).mean(1))


class TorchEncoder(nn.Module):
    """torch's own encoder layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 16)
        self.layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(x))[:, 0])


def _tokens() -> tuple[Tensor, ...]:
    return (torch.randn(2, 5, 6),)


ATTENTION: dict[str, Callable[[], tuple[nn.Module, tuple[Tensor, ...]]]] = {
    "fused qkv": lambda: (FusedQkv(False), _tokens()),
    "fused qkv and softmax": lambda: (FusedQkv(True), _tokens()),
    "grouped queries": lambda: (SharedKeys(2, True), _tokens()),
    "grouped queries by operator": lambda: (SharedKeys(2, False), _tokens()),
    "one key": lambda: (SharedKeys(1, True), _tokens()),
    "windows": lambda: (Windowed(), (torch.randn(2, 3, 8, 8),)),
    "einsum": lambda: (Einsum(), _tokens()),
    "torch encoder": lambda: (TorchEncoder(), _tokens()),
}
