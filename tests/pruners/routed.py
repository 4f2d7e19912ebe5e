"""Random networks whose experts see only the tokens routed to them, in the ways in which this is written.

Shapes: B batch, L tokens of a sample, T all tokens, E width, K experts of a token.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Route = Callable[[nn.ModuleList, Tensor, Tensor, Tensor], Tensor]


class Expert(nn.Module):
    """A gated layer, (T, E) to (T, E)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(width, hidden), nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Routed(nn.Module):
    """Two residual layers of routed experts, the second with a router that depends on the first."""

    def __init__(self, route: Route, width: int, hidden: list[int], chosen: int) -> None:
        super().__init__()
        self.route, self.chosen = route, chosen
        self.embed, self.head = nn.Linear(5, width), nn.Linear(width, 3)
        self.norms = nn.ModuleList(nn.RMSNorm(width) for _ in range(2))
        self.routers = nn.ModuleList(nn.Linear(width, len(hidden)) for _ in range(2))
        self.experts = nn.ModuleList(nn.ModuleList(Expert(width, h) for h in hidden) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for norm, router, experts in zip(self.norms, self.routers, self.experts, strict=True):
            flat = norm(x).flatten(0, 1)
            weights, chosen = router(flat).softmax(-1).topk(self.chosen, -1)
            x = x + self.route(experts, flat, weights, chosen).view(x.shape)
        return self.head(x).mean(1)


class Sliced(nn.Module):
    """Experts in one tensor each way, the one in turn taken by its index."""

    def __init__(self, experts: int = 3) -> None:
        super().__init__()
        self.embed, self.router, self.head = nn.Linear(5, 8), nn.Linear(8, experts), nn.Linear(8, 3)
        self.gate_up = nn.Parameter(torch.randn(experts, 20, 8) * 0.3)
        self.down = nn.Parameter(torch.randn(experts, 8, 10) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        flat = x.reshape(-1, x.shape[-1])
        weights, chosen = self.router(flat).softmax(-1).topk(2, -1)
        mask = F.one_hot(chosen, len(self.down) + 1).permute(2, 1, 0)  # one more for tokens of other devices
        out = torch.zeros_like(flat)
        for expert in torch.greater(mask.sum((-1, -2)), 0).nonzero():
            expert = expert[0]
            if expert == len(self.down):
                continue
            place, token = torch.where(mask[expert])
            gate, up = F.linear(flat[token], self.gate_up[expert]).chunk(2, -1)
            out.index_add_(0, token, F.linear(F.silu(gate) * up, self.down[expert]) * weights[token, place, None])
        return self.head(x + out.view(x.shape)).mean(1)


def every(experts: nn.ModuleList, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
    """Every expert in turn, also one without tokens."""
    out = torch.zeros_like(x)
    for i, expert in enumerate(experts):
        token, place = torch.where(chosen == i)
        out[token] += weights[token, place, None] * expert(x[token])
    return out


def skipping(experts: nn.ModuleList, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
    """An expert without tokens is left out, by the number of rows."""
    out = torch.zeros_like(x)
    for mask, expert in zip(F.one_hot(chosen, len(experts)).permute(2, 1, 0), experts, strict=True):
        place, token = torch.where(mask)
        if token.shape[0] == 0:
            continue
        out.index_add_(0, token, expert(x[token]) * weights[token, place, None])
    return out


def asking(experts: nn.ModuleList, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
    """Masks of tokens, and a question whether any is set."""
    out = torch.zeros_like(x)
    for i, expert in enumerate(experts):
        mask = (chosen == i).any(-1)
        if mask.any():
            out[mask] += expert(x[mask]) * (weights * (chosen == i)).sum(-1)[mask].unsqueeze(-1)
    return out


def counting(experts: nn.ModuleList, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
    """Tokens of each expert are counted first."""
    out = torch.zeros_like(x)
    counts = torch.bincount(chosen.flatten(), minlength=len(experts)).tolist()
    for i, expert in enumerate(experts):
        if counts[i] == 0:
            continue
        token, place = (chosen == i).nonzero(as_tuple=True)
        out = out.index_add(0, token, expert(x[token]) * weights[token, place].unsqueeze(-1))
    return out


def hit(experts: nn.ModuleList, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
    """A loop over the experts that have tokens."""
    out = torch.zeros_like(x)
    mask = F.one_hot(chosen, len(experts)).permute(2, 1, 0)
    for i in (mask.sum((1, 2)) > 0).nonzero().flatten().tolist():
        place, token = torch.where(mask[i])
        if len(token) > 0:
            out.index_add_(0, token, experts[i](x[token]) * weights[token, place, None])
    return out


def sorted_once(experts: nn.ModuleList, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
    """Tokens sorted by expert and split by their counts."""
    order = chosen.flatten().argsort(stable=True)
    counts = torch.bincount(chosen.flatten(), minlength=len(experts)).tolist()
    token = order // chosen.shape[1]
    parts = x[token].split(counts)
    results = torch.cat([expert(part) for expert, part in zip(experts, parts, strict=True)])
    return torch.zeros_like(x).index_add(0, token, results * weights.flatten()[order][:, None])


ROUTES: dict[str, Route] = {
    route.__name__: route for route in (every, skipping, asking, counting, hit, sorted_once)
}  # the last ties the width to what `split` gives, which stays


def build(name: str, seed: int) -> tuple[nn.Module, Tensor]:
    """A network in float64 with random sizes, and an example that some expert gets nothing of."""
    torch.manual_seed(seed)
    if name == "sliced":
        model: nn.Module = Sliced()
        routers = [model.router]
    else:
        hidden = torch.randint(4, 12, (int(torch.randint(2, 4, ())),)).tolist()
        model = Routed(ROUTES[name], int(torch.randint(6, 12, ())), hidden, int(torch.randint(1, 3, ())))
        routers = list(model.routers)
    with torch.no_grad():
        routers[0].bias[0] -= 0.5
    return model.double().eval(), torch.randn(2, 3, 5, dtype=torch.float64)
