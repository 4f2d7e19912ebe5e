"""Small networks, one per construct that pruning has to understand; each is (model, example inputs).

Shapes: B batch, C channels, L length, E width, H heads, D width of a head.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.pruners.attention import ATTENTION
from tests.pruners.constructs import CONSTRUCTS


class Sequence(nn.Sequential):
    """Layers in a row; a name of its own so that the graph has an owner to report."""


class Residual(nn.Module):
    """Two convolutions with norms around a shortcut, then a classifier."""

    def __init__(self, norm: Callable[[int], nn.Module] = nn.BatchNorm2d, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.norm = norm(width)
        self.inner = nn.Conv2d(width, 12, 3, padding=1, bias=False)
        self.inner_norm = norm(12)
        self.outer = nn.Conv2d(12, width, 1)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = x + self.outer(F.gelu(self.inner_norm(self.inner(x))))
        return self.head(x.mean((2, 3)))


class ZeroPaddedShortcut(nn.Module):
    """A shortcut that is sliced in space and padded with zero channels on both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.block = Sequence(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(self.block(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4)))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Dense(nn.Module):
    """Concatenations of concatenations, then chunks of unequal origin."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 4, 3, padding=1)
        self.third = nn.Conv2d(10, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(14)
        self.last = nn.Conv2d(14, 6, 1)
        self.head = nn.Linear(6 * 4 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = torch.cat([x, self.second(x.relu())], 1)
        x = torch.cat([x, self.third(x.relu())], 1)
        x = self.last(self.norm(x).relu())
        a, b, c = x.split([1, 2, 3], 1)
        x = torch.cat([c, a.sigmoid(), b], 1)
        return self.head(F.adaptive_max_pool2d(x, 4).flatten(1))


class Shuffled(nn.Module):
    """Grouped and depthwise convolutions with a channel shuffle written as reshapes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.grouped = nn.Conv2d(12, 24, 3, padding=1, groups=3)
        self.depthwise = nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.last = nn.Conv2d(24, 8, 1, groups=2)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.grouped(self.stem(x).relu())
        b, c, h, w = x.shape
        x = x.view(b, 3, c // 3, h, w).transpose(1, 2).reshape(b, c, h, w)
        x = self.last(self.depthwise(x).relu())
        return self.head(x.mean((-1, -2)))


class HalvedAndShuffled(nn.Module):
    """Half of the channels pass, half are computed, and both are interleaved."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.branch = nn.Conv2d(6, 6, 3, padding=1)
        self.last = nn.Conv2d(12, 7, 1)
        self.head = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.stem(x).chunk(2, 1)
        x = torch.cat([left, self.branch(right)], 1)
        b, c, h, w = x.shape
        x = x.reshape(b, 2, c // 2, h, w).transpose(1, 2).flatten(1, 2)
        return self.head(self.last(x).mean((2, 3)))


class Upscaled(nn.Module):
    """Transposed convolutions, plain and grouped, and a pixel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(8, 12, 2, stride=2)
        self.grouped = nn.ConvTranspose2d(12, 16, 3, padding=1, groups=4)
        self.shuffle = nn.PixelShuffle(2)
        self.last = nn.Conv2d(4, 6, 1)
        self.out = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.grouped(self.up(self.down(x).relu()).relu())
        x = F.interpolate(self.shuffle(x), scale_factor=0.5, mode="bilinear")
        return self.out(self.last(F.pixel_unshuffle(F.pixel_shuffle(torch.cat([x] * 4, 1), 2), 2)[:, :4].relu()).relu())


class Gated(nn.Module):
    """GLU, SwiGLU as one projection and as two, an RMS norm written out, and a layer scale."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.fused = nn.Linear(8, 24)
        self.gate, self.up, self.down = nn.Linear(8, 10), nn.Linear(8, 10), nn.Linear(10, 8)
        self.back = nn.Linear(12, 8)
        self.rms = nn.Parameter(torch.rand(8))
        self.norm = nn.RMSNorm(8)
        self.scale = nn.Parameter(torch.rand(8))
        self.glu = nn.Linear(8, 14)
        self.head = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        normed = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.rms
        a, b = self.fused(normed).chunk(2, -1)
        x = x + self.back(F.silu(a) * b) * self.scale
        x = x + self.down(F.silu(self.gate(self.norm(x))) * self.up(x))
        return self.head(F.glu(self.glu(x), -1)).mean(1)


class Shared(nn.Module):
    """A layer called twice, an embedding tied to the classifier, and a parameter that broadcasts."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.position = nn.Parameter(torch.randn(1, 6, 8))
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.twice = nn.Linear(8, 8)
        self.inner, self.outer = nn.Linear(8, 16), nn.Linear(16, 8)
        self.norm = nn.LayerNorm(8)
        self.out = nn.Linear(8, 11, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.position
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        x = self.twice(self.twice(x).tanh()).tanh() + x
        x = x + self.outer(self.inner(self.norm(x)).relu())
        return self.out(x[:, 0])


class Normed(nn.Module):
    """Group norm, instance norm with running statistics, weight norm, in one and three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(3, 12, 3, padding=1)
        self.group = nn.GroupNorm(3, 12)
        self.second = nn.utils.parametrizations.weight_norm(nn.Conv1d(12, 8, 1))
        self.instance = nn.InstanceNorm1d(8, affine=True, track_running_stats=True)
        self.third = nn.Conv3d(8, 6, 1)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.instance(self.second(self.group(self.first(x)).relu()))
        return self.head(self.third(x[..., None, None]).relu().mean((2, 3, 4)))


class Recurrent(nn.Module):
    """An LSTM of two layers in both directions, then a GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 6)
        self.lstm = nn.LSTM(6, 8, 2, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(16, 10, batch_first=True)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.lstm(self.embed(x))
        x, _ = self.gru(x)
        return self.head(x[:, -1])


class ProjectedRecurrent(nn.Module):
    """LSTMs that put out a projection of their units."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 6)
        self.lstm = nn.LSTM(6, 12, 2, batch_first=True, bidirectional=True, proj_size=8)
        self.second = nn.LSTM(16, 9, batch_first=True, proj_size=4, bias=False)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x, (_, cell) = self.lstm(self.embed(x))
        x, _ = self.second(x)
        return self.head(x[:, -1]) + cell.sum((0, 2))[:, None]


class LoopedExperts(nn.Module):
    """Every expert sees every token, weighted by a router."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 8)
        self.router = nn.Linear(8, 3)
        self.experts = nn.ModuleList(Sequence(nn.Linear(8, 12), nn.SiLU(), nn.Linear(12, 8)) for _ in range(3))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        weights = self.router(x).softmax(-1)
        x = x + sum(weights[..., i : i + 1] * expert(x) for i, expert in enumerate(self.experts))
        return self.head(x).mean(1)


class StackedExperts(nn.Module):
    """Experts in one tensor each way, contracted by einsum and by a batched product."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 8)
        self.router = nn.Linear(8, 3)
        self.up = nn.Parameter(torch.randn(3, 8, 12) * 0.3)
        self.down = nn.Parameter(torch.randn(3, 12, 8) * 0.3)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(0, 1)
        weights = self.router(x).softmax(-1)
        inner = torch.einsum("te,xeh->xth", x, self.up).relu()
        x = x + torch.einsum("tx,xte->te", weights, torch.bmm(inner, self.down))
        return self.head(x)


class StateSpace(nn.Module):
    """A gated linear recurrence over time with a depthwise convolution before it."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(6, 16)
        self.conv = nn.Conv1d(8, 8, 3, padding=2, groups=8)
        self.select = nn.Linear(8, 8 + 4 + 4)
        self.decay = nn.Parameter(torch.rand(8, 4))
        self.skip = nn.Parameter(torch.rand(8))
        self.out = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        x, gate = self.project(x).chunk(2, -1)
        x = F.silu(self.conv(x.transpose(1, 2))[..., :length].transpose(1, 2))
        step, write, read = self.select(x).split([8, 4, 4], -1)
        step = F.softplus(step)
        decay = torch.exp(-step.unsqueeze(-1) * self.decay)  # (B, L, E, N)
        drive = (step * x).unsqueeze(-1) * write.unsqueeze(2)
        state = torch.zeros_like(drive[:, 0])
        outputs = []
        for t in range(length):
            state = decay[:, t] * state + drive[:, t]
            outputs.append((state * read[:, t].unsqueeze(1)).sum(-1))
        y = torch.stack(outputs, 1) + self.skip * x
        return self.out(y * F.silu(gate)).mean(1)


def _image() -> tuple[Tensor, ...]:
    return (torch.randn(2, 3, 8, 8),)


NETWORKS: dict[str, Callable[[], tuple[nn.Module, tuple[Tensor, ...]]]] = {
    "residual": lambda: (Residual(), _image()),
    "residual group norm": lambda: (Residual(lambda c: nn.GroupNorm(4, c)), _image()),
    "zero padded shortcut": lambda: (ZeroPaddedShortcut(), _image()),
    "dense": lambda: (Dense(), _image()),
    "grouped and shuffled": lambda: (Shuffled(), _image()),
    "halved and shuffled": lambda: (HalvedAndShuffled(), _image()),
    "upscaled": lambda: (Upscaled(), _image()),
    "gated": lambda: (Gated(), (torch.randn(2, 4, 6),)),
    "shared": lambda: (Shared(), (torch.randint(0, 11, (2, 6)),)),
    "normed": lambda: (Normed(), (torch.randn(2, 3, 10),)),
    "recurrent": lambda: (Recurrent(), (torch.randn(2, 4, 5),)),
    "projected recurrent": lambda: (ProjectedRecurrent(), (torch.randn(2, 4, 5),)),
    "looped experts": lambda: (LoopedExperts(), (torch.randn(2, 4, 5),)),
    "stacked experts": lambda: (StackedExperts(), (torch.randn(2, 4, 5),)),
    "state space": lambda: (StateSpace(), (torch.randn(2, 4, 6),)),
    **ATTENTION,
    **CONSTRUCTS,
}


def build(name: str, seed: int = 0) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A network in eval mode with random weights and norm statistics, and an example input."""
    torch.manual_seed(seed)
    model, example = NETWORKS[name]()
    for module in model.modules():
        if isinstance(getattr(module, "running_var", None), Tensor):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model.eval(), example
