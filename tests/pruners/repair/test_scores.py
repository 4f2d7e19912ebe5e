"""Queries and keys that make up together for what their heads lost."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruners import PruneResult, least_squares_
from pruners.operators import arguments
from pruners.repair.full import Full
from pruners.repair.lanes import lanes
from pruners.repair.scores import ATTENTION, aims_by_scores
from pruners.surgery import replay
from pruners.tracing import as_batch
from tests.pruners.plain import prune
from tests.pruners.repair.test_least_squares import apart


class Heads(nn.Module):
    """Attention with four heads of eight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 32)
        self.query, self.key, self.value, self.out = (nn.Linear(32, 32) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        q, k, v = (layer(x).unflatten(-1, (4, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def tokens(samples: int, seed: int) -> Tensor:
    return 2 * torch.randn(samples, 5, 6, generator=torch.Generator().manual_seed(seed))


def narrowed() -> tuple[nn.Module, PruneResult]:
    torch.manual_seed(0)
    model = Heads().eval()
    ignore = ["embed", "value", "out"]  # what is left are the widths of queries and keys
    return model, prune(model, tokens(2, 0), {"params": 0.8}, ignore=ignore, importance="random")


def test_aims_make_scores_that_are_closer() -> None:
    model, result = narrowed()
    removal = replay(result.plan, model)
    assert len(result.plan.removed) == 1
    (node,) = [node for node in removal.graph.trace.nodes if node.target is ATTENTION]
    full = Full(removal, lanes([as_batch(tokens(50, 1))], removal.graph.trace))
    full.reads[node.name] += 1
    with torch.no_grad():
        read = full.read_by(node.name)
        kept = {}
        for side in ("query", "key"):
            dims = removal.graph.dims(arguments(node)[side])
            kept[side] = [removal.slice(values[side], dims) for values in read]
        plain = {side: [x.transpose(1, 2).flatten(2) for x in values] for side, values in kept.items()}
        aims = {side: aims_by_scores(removal, node, read, side, plain[side]) for side in kept}

        def error(queries: list[Tensor], keys: list[Tensor]) -> float:
            heads = [[x.unflatten(-1, (4, -1)).transpose(1, 2) for x in values] for values in (queries, keys)]
            whole = (values["query"] @ values["key"].mT for values in read)
            return sum(float((q @ k.mT - s).square().sum()) for q, k, s in zip(*heads, whole, strict=True))

        queries, keys = aims["query"], aims["key"]
        assert queries is not None and keys is not None
        errors = [
            error(plain["query"], plain["key"]),
            error(queries.values, plain["key"]),
            error(queries.values, keys.values),
        ]
    assert errors[2] < errors[1] < errors[0]


def test_narrower_heads_are_repaired() -> None:
    model, result = narrowed()
    repaired = copy.deepcopy(result.model)
    assert least_squares_(repaired, model, result.plan, [tokens(200, 1)]).solved == 3  # queries, keys, out
    fresh = [tokens(100, 2)]
    assert apart(repaired, model, fresh) < 0.8 * apart(result.model, model, fresh)
