"""Queries and keys whose heads became narrower aim at the scores that the full ones make together.

Shapes: N samples, H heads that stay, L positions, D width of a head and d what stays of it.

With keys K' (d) in place of K (D), the queries that make the scores of the full model best are A q, where A minimises |K'ᵀ A - Kᵀ|²
over all keys of a head: A = E[K' K'ᵀ]⁻¹ E[K' Kᵀ]. Keys follow in the same way from these queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import Node

from pruners.operators import Dims, arguments
from pruners.repair.readers import LINEAR, reader
from pruners.repair.systems import factor
from pruners.surgery import Removal

aten = torch.ops.aten
ATTENTION = aten.scaled_dot_product_attention.default
SIDES = ("query", "key")
MOVES = (
    aten.view.default,
    aten.reshape.default,
    aten.unflatten.int,
    aten.transpose.int,
    aten.permute.default,
    aten.contiguous.default,
    aten.clone.default,
)
RIDGE = 1e-6  # relative to the mean square of what stays of a head


class Scored(NamedTuple):
    """A linear layer that makes queries or keys of an attention."""

    attention: Node
    side: str


class Aims(NamedTuple):
    """What a layer of queries or keys aims at.

    Attributes:
        values: for each lane, of the layer's output shape.
        metric: (1, H d, H d), which turns errors of the output into errors of the scores.
    """

    values: list[Tensor]
    metric: Tensor


def scored_layers(nodes: Sequence[Node]) -> dict[Node, Scored]:
    """Linear layers whose outputs are moved and nothing else before they become queries or keys."""
    found = {}
    for node in nodes:
        if node.target is ATTENTION:
            sources = {side: _source(arguments(node)[side]) for side in SIDES}
            made = {side: reader(source) for side, source in sources.items()}
            if all(layer is not None and layer.form is LINEAR for layer in made.values()):
                found.update({sources[side]: Scored(node, side) for side in SIDES})
    return found


def _source(node: Node) -> Node:
    while node.target in MOVES and len(node.users) == 1:
        node = node.all_input_nodes[0]
    return node


def aims_by_scores(
    removal: Removal, attention: Node, read: Sequence[dict[str, Any]], side: str, plain: Sequence[Tensor]
) -> Aims | None:
    """What the layer of queries or keys should compute.

    Args:
        removal: what stays.
        attention: the operator in the full model.
        read: its arguments in the full model, for each lane.
        side: "query" or "key".
        plain: the full model's outputs of the layer on the channels that stay, for each lane.

    Returns:
        The aims; None where heads are as wide as before, or queries and keys are no plain rearrangement of the layers' outputs.
    """
    queries, keys = ([values[name] for values in read] for name in SIDES)
    dims = [removal.graph.dims(arguments(attention)[name]) for name in SIDES]
    if queries[0].dim() != 4 or queries[0].shape[1] != keys[0].shape[1]:
        return None
    kept, whole = zip(
        *(_split(removal, values, axes) for values, axes in zip((queries, keys), dims, strict=True)), strict=True
    )
    if kept[0][0].shape[-1] == whole[0][0].shape[-1]:
        return None
    own = kept[SIDES.index(side)]
    if any(not _is_layout(x, out) for x, out in zip(own, plain, strict=True)):
        return None
    of_queries = _map(kept[1], whole[1])
    if of_queries is None:
        return None
    new_queries = [torch.einsum("hed,nhld->nhle", of_queries, x) for x in whole[0]]
    others, maps = (kept[1], of_queries) if side == "query" else (new_queries, _map(new_queries, whole[0]))
    if maps is None:
        return None
    values = [torch.einsum("hed,nhld->nhle", maps, x) for x in whole[SIDES.index(side)]]
    root = factor(_moments(others, others), RIDGE)
    if root is None:
        return None
    metric = torch.block_diag(*root.transpose(1, 2))[None].to(plain[0].dtype)
    return Aims([x.transpose(1, 2).flatten(2).to(out.dtype) for x, out in zip(values, plain, strict=True)], metric)


def _split(removal: Removal, values: Sequence[Tensor], dims: Dims) -> tuple[list[Tensor], list[Tensor]]:
    """What stays of queries or keys, (N, H, L, d), and all of the heads that stay, (N, H, L, D)."""
    heads = removal.stays(dims[1])
    return [removal.slice(x, dims) for x in values], [x[:, heads.to(x.device)] for x in values]


def _is_layout(x: Tensor, out: Tensor) -> bool:
    """Whether queries or keys are the layer's output with heads taken apart."""
    flat = x.transpose(1, 2).flatten(2)
    return flat.shape == out.shape and torch.equal(flat, out)


def _moments(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """Mean products over samples and positions, (H, d, D); float64."""
    total = sum(torch.einsum("nhld,nhle->hde", x.double(), y.double()) for x, y in zip(first, second, strict=True))
    assert isinstance(total, Tensor)
    return total / sum(x.shape[0] * x.shape[2] for x in first)


def _map(kept: Sequence[Tensor], whole: Sequence[Tensor]) -> Tensor | None:
    """A for each head, (H, d, D)."""
    moments = _moments(kept, kept)
    ridge = RIDGE * float(moments.diagonal(dim1=1, dim2=2).mean())
    root = factor(moments, ridge)
    return None if root is None else torch.cholesky_solve(_moments(kept, whole), root).to(whole[0].dtype)
