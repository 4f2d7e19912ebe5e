"""Routed experts: what each of them adds to the rows of the tokens that it sees, and how its router chooses it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from pruners.groups import AxisGraph
from pruners.operators import arguments, chooses, operator, seeded
from pruners.surgery.sums import ADDED, COPIES, Edge, argument
from pruners.tracing import Runner, Trace

aten = torch.ops.aten
RANKING = (aten.softmax.int, aten._softmax.default, aten.sigmoid.default, aten.topk.default, aten.argmax.default)
UNCHANGED = (*COPIES, "masked_fill", "view", "reshape", "flatten", "_assert_tensor_metadata", "sym_size")


@dataclass(frozen=True)
class Route:
    """How a router chooses an expert.

    Attributes:
        logits: what a linear layer computes, with an entry for each expert in its last dimension.
        index: of the expert in it.
        fewest: how many experts a token is routed to, so that as many should stay.
    """

    logits: Node
    index: int
    fewest: int


def added_by_experts(graph: AxisGraph) -> list[Edge]:
    """Where rows that are chosen by their values are added to others, which stay where nothing is added.

    These are `index_add`, `index_put` that accumulates, and x[i] = x[i] + f.
    """
    return [(node, 0) for node in graph.trace.nodes if node.target in ADDED and _adds(node)]


def routes(trace: Trace, adds: Iterable[Node]) -> dict[Node, Route]:
    """How the experts are chosen whose results some operators add; those without a router that can do without them are not there.

    The graph itself says which expert is which: it runs with one choice for all, and another for each token.
    """
    chosen = {add: choice for add in adds if (choice := choice_of(_indices(add))) is not None}
    logits = {choice: router for choice in set(chosen.values()) if (router := router_of(choice)) is not None}
    chosen = {add: choice for add, choice in chosen.items() if choice in logits}
    seen: defaultdict[Node, set[int]] = defaultdict(set)
    start, largest = 0, max((experts(router) for router in logits.values()), default=0)
    while start < largest:
        told = Told(trace, logits, start)
        with torch.no_grad(), seeded():
            for node, _ in told.steps(list(trace.values().values())):
                if node in chosen:
                    rows = _rows([told.env[index] for index in _indices(node)])
                    seen[node] |= set(told.choices[chosen[node]][rows].tolist()) if rows is not None else {-1, 0}
        start += told.rows
    single = {add: index for add, (index, *more) in seen.items() if not more}
    return {add: Route(logits[chosen[add]], index, per_row(chosen[add])) for add, index in single.items()}


def unchosen(found: Iterable[Route]) -> dict[Node, list[int]]:
    """The logits of routers, and which of their entries are not chosen any more; without those that have nothing left to choose."""
    gone: defaultdict[Node, set[int]] = defaultdict(set)
    for route in found:
        gone[route.logits].add(route.index)
    return {logits: sorted(entries) for logits, entries in gone.items() if len(entries) < experts(logits)}


def without_entries(logits: Tensor, entries: Sequence[int]) -> Tensor:
    """Logits with some entries of the last dimension at minus infinity."""
    return logits.index_fill(-1, torch.tensor(entries, device=logits.device), -torch.inf)


class Told(Runner):
    """Runs a graph in which the choices of routers are told: row r chooses expert (start + r) modulo their number, and no other.

    Attributes:
        choices: of each node of choices, the expert of each row.
        rows: how many rows were told, at least.
    """

    def __init__(self, trace: Trace, logits: Mapping[Node, Node], start: int) -> None:
        super().__init__(trace.graph_module)
        self.logits, self.start = logits, start
        self.choices: dict[Node, Tensor] = {}
        self.rows = max(map(experts, logits.values()))

    def run_node(self, node: Node) -> Any:
        """Run one operator, or tell what it chooses."""
        value = super().run_node(node)
        if node not in self.logits:
            return value
        rows = value.numel() if node.target is aten.argmax.default else value[..., 0].numel()
        told = self.choices[node] = (torch.arange(rows, device=value.device) + self.start) % experts(self.logits[node])
        self.rows = min(self.rows, rows)
        return (
            (told if rows == value.numel() else told[:, None].expand(-1, value.shape[-1]))
            .reshape(value.shape)
            .contiguous()
        )


def _adds(node: Node) -> bool:
    """Whether an operator adds chosen rows to others."""
    a = arguments(node)
    term = argument(node, 1)
    if not chooses(term):
        return False
    if node.target is not aten.index_put.default or a["accumulate"]:
        return True
    if term.target is not aten.add.Tensor:
        return False
    return any(
        x.target is aten.index.Tensor and list(x.args) == [a["self"], a["indices"]] for x in term.all_input_nodes
    )


def _indices(add: Node) -> list[Node]:
    """The nodes that say which rows are added to."""
    given = arguments(add)["index" if add.target is aten.index_add.default else "indices"]
    return [index for index in given if index is not None] if isinstance(given, (list, tuple)) else [given]


def _rows(indices: Sequence[Tensor]) -> Tensor | None:
    """Which rows an index or a mask of rows means; None for what addresses more than rows."""
    if len(indices) != 1 or indices[0].dim() != 1:
        return None
    (index,) = indices
    return index.nonzero().flatten() if index.dtype == torch.bool else index


def choice_of(told: Sequence[Node]) -> Node | None:
    """The one node of choices that some nodes are computed from."""
    found = {node for node in _back(told, _is_choice) if _is_choice(node)}
    return found.pop() if len(found) == 1 else None


def _is_choice(node: Node) -> bool:
    """Whether a node holds the numbers of what is largest."""
    source = node.args[0] if node.args else None
    if isinstance(source, Node) and source.target is aten.topk.default:
        return bool(node.args[1] == 1)
    return node.target is aten.argmax.default


def router_of(choice: Node) -> Node | None:
    """The linear layer whose result alone a choice is made from, where that is used for nothing but a ranking."""
    found = [node for node in _back(choice.all_input_nodes, _is_linear) if _is_linear(node)]
    if len(found) != 1 or found[0].args[1].op != "placeholder":  # type: ignore[union-attr]
        return None
    return found[0] if _only_ranked(found[0]) else None


def _is_linear(node: Node) -> bool:
    return node.target is aten.linear.default


def _only_ranked(logits: Node) -> bool:
    """Whether only softmax, sigmoid or the largest entries, all along the last dimension, are taken of what a linear layer returns."""
    left = [logits]
    while left:
        for user in left.pop().users:
            name = operator(user).removeprefix("aten.").split(".")[0]
            if user.target in RANKING:
                a, rank = arguments(user), user.all_input_nodes[0].meta["val"].dim()
                if a.get("dim", -1) not in (-1, rank - 1):
                    return False
            elif name not in UNCHANGED:
                return False
            elif isinstance(user.meta.get("val"), Tensor):
                left.append(user)
                if user.meta["val"].shape[-1] != experts(logits):
                    return False
    return True


def experts(logits: Node) -> int:
    """How many experts a router chooses among."""
    return int(logits.meta["val"].shape[-1])


def per_row(choice: Node) -> int:
    """How many experts a token is routed to."""
    return 1 if choice.target is aten.argmax.default else int(choice.meta["val"].shape[-1])


def _back(starts: Sequence[Node], stop: Any) -> set[Node]:
    """Some nodes and what they are computed from, no further than where `stop` holds."""
    left, seen = [*starts], set(starts)
    while left:
        node = left.pop()
        for source in node.all_input_nodes if not stop(node) else ():
            if source not in seen:
                seen.add(source)
                left.append(source)
    return seen
