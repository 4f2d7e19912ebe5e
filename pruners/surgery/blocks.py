"""Blocks that can be left out: terms of a sum that are computed from another term, as f(x) in x + f(x), and routed experts."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import takewhile
from typing import Any

import torch
from torch.fx import Node

from pruners.groups import AxisGraph, Group
from pruners.surgery.experts import Route, added_by_experts, experts, routes
from pruners.surgery.packed import Packed, packed_experts, router_rows, taken_rows
from pruners.surgery.sums import ADDED, Edge, argument, is_copy, terms_to_lose
from pruners.tracing import Trace

aten = torch.ops.aten
LAYER_NORMS = (aten.layer_norm.default, aten.rms_norm.default)
MOST = 0.9  # of the numbers of a module are a block's that is called like it


@dataclass(frozen=True)
class Block:
    """A term of a sum that is computed from another term, which stays; or what a routed expert adds to the rows that it sees.

    Attributes:
        name: the module that holds its parameters, or the sum's node; with "[i]" where several blocks have that name.
        add: the sum.
        side: which argument of the sum stays, 0 or 1 (see `argument`).
        nodes: what nothing needs any more without it: operators, and the placeholders of its tensors.
        tensors: names of those tensors.
        norm: the norm of the sum that is left out with it, where what remains is normalised already.
        route: of an expert, how its router chooses it, which it no longer does then; None where it has none that can do without.
        rows: names of the tensors that lose the expert's row, of experts in common tensors, which have no nodes of their own.
    """

    name: str
    add: Node
    side: int
    nodes: frozenset[Node]
    tensors: frozenset[str]
    norm: Node | None = None
    route: Route | None = None
    rows: tuple[str, ...] = ()

    @property
    def source(self) -> Node:
        """What remains of the sum."""
        return argument(self.add, self.side)

    @property
    def term(self) -> Node:
        """What is left out of the sum."""
        return argument(self.add, 1 - self.side)


def removable_blocks(graph: AxisGraph) -> list[Block]:
    """All blocks with a parameter of their own whose removal leaves every shape as it is; outer ones before those inside.

    A block that changes shape (a stride, more channels) is none, as its source does not fit in its place. Of a sum of several, as
    x + a(x) + m(x), every term but the first is a block, and so are a(x) + m(x) together where they are added first. A multiple of a
    term counts as that term: x + 0.5 f(x), x + g * f(x), x - f(x). Of norm(x + f(x)), where x is the result of such a norm, x remains:
    the layers of a model that normalises behind its sums go whole.

    An expert that sees the tokens routed to it is a block, too. Where its router is a linear layer whose result is only ranked, that no
    longer chooses it: its logit is minus infinity, and tokens go to the next best expert. Else they get nothing from it.

    Reference: Lu et al., Not all experts are equal: efficient expert pruning and skipping for mixture-of-experts large language models,
        ACL 2024.
    Differs: an expert is judged by the change of the outputs without it alone, beside other blocks and widths of all layers.
    """
    trace = graph.trace
    routed = added_by_experts(graph)
    edges = [*terms_to_lose(graph), *routed]
    only_for = _needed_only_for(trace.nodes, edges)
    live: defaultdict[str, set[Node]] = defaultdict(set)  # tied weights have several nodes
    for node in trace.nodes:
        if node.users and node.name in trace.tensors:
            live[trace.tensors[node.name]].add(node)
    found = []
    for (add, side), nodes in zip(edges, only_for, strict=True):
        norm = None if add.target in ADDED else _norm(add, side)
        if norm is not None:
            nodes |= {add, *(x for x in norm.all_input_nodes if x.op == "placeholder" and len(x.users) == 1)}
        held = {trace.tensors[node.name] for node in nodes if node.name in trace.tensors}
        tensors = frozenset(name for name in held if live[name] <= nodes)
        if any(isinstance(trace.tensor(name), torch.nn.Parameter) for name in tensors):
            found.append((add, side, nodes, tensors, norm))
    names = _names(trace, [(add, tensors) for add, _, _, tensors, _ in found])
    chosen = routes(trace, [add for add, _ in routed])
    blocks = [Block(name, *rest, route=chosen.get(rest[0])) for name, rest in zip(names, found, strict=True)]
    for (add, _), nodes in zip(edges, only_for, strict=True):
        route = chosen.get(add)
        if (
            route is not None
            and (taken := taken_rows(trace, nodes, route))
            and (own := router_rows(trace, route.logits))
        ):
            name = _row_name(taken, add, route.index)
            blocks.append(Block(name, add, 0, nodes, frozenset(), route=route, rows=(*taken, *own)))
    blocks += [block for packed in packed_experts(trace) for block in _in_rows(packed)]
    sums = {block.add for block in blocks}
    around_it = Counter(node for block in blocks for node in block.nodes & sums)
    return sorted(blocks, key=lambda block: around_it[block.add] - (block.add in block.nodes))


def _in_rows(packed: Packed) -> list[Block]:
    """Experts in common tensors, which all have the same operators."""
    last, nothing = packed.last, frozenset[Any]()
    return [
        Block(
            _row_name(packed.tensors, last, i),
            last,
            0,
            nothing,
            nothing,
            route=Route(packed.logits, i, packed.fewest),
            rows=packed.rows,
        )
        for i in range(experts(packed.logits))
    ]


def _row_name(tensors: Iterable[str], node: Node, index: int) -> str:
    """A name for an expert in common tensors: the innermost module that holds them, or an operator that reads them, and its place."""
    return f"{_common_module(tensors) or node.name}.{index}"


def named_blocks(graph: AxisGraph, names: Sequence[str]) -> list[Block]:
    """The blocks of these names.

    Raises:
        ValueError: if the model does not have one.
    """
    blocks = {block.name: block for block in removable_blocks(graph)} if names else {}
    missing = [name for name in names if name not in blocks]
    if missing:
        raise ValueError(f"a plan must leave out blocks that the model has, got {missing}; it has {list(blocks)}.")
    return [blocks[name] for name in names]


def without_those_that_stay(blocks: Sequence[Block]) -> list[Block]:
    """Blocks of which any may go: of each router, without as many of the first experts as must stay."""
    found: list[Block] = []
    staying: Counter[Node] = Counter()
    for block in blocks:
        if block.route is not None and staying[block.route.logits] < block.route.fewest:
            staying[block.route.logits] += 1
        else:
            found.append(block)
    return found


def around(block: Block, blocks: Sequence[Block]) -> Block | None:
    """The innermost other block that a block is part of."""
    outer = [other for other in blocks if other is not block and block.add in other.nodes]
    return min(outer, key=lambda other: len(other.nodes), default=None)


def inside(group: Group, blocks: Sequence[Block]) -> Block | None:
    """The innermost block that holds all members of a group, without which its width means nothing."""
    tensors = {member.tensor for member in group.members}
    return min((b for b in blocks if tensors <= b.tensors), key=lambda block: len(block.nodes), default=None)


def _norm(add: Node, side: int) -> Node | None:
    """The norm that alone reads a sum whose argument that stays is normalised, too."""
    norm = next(iter(add.users))
    source = argument(add, side)
    while is_copy(source):
        source = source.all_input_nodes[0]
    return norm if len(add.users) == 1 and norm.target in LAYER_NORMS and source.target is norm.target else None


def _needed_only_for(nodes: Sequence[Node], edges: Sequence[Edge]) -> list[frozenset[Node]]:
    """For each sum and the argument that stays, the nodes from which every way to the outputs leads through the other argument.

    These are what the edge between the two dominates, seen from the outputs. One walk back through the graph gives each node the
    nearest node or edge that all its ways lead through.
    """
    through = {(argument(add, 1 - side), add): (add, side) for add, side in edges}
    leading = defaultdict(list)
    for edge in edges:
        leading[edge[0]].append(edge)
    up: dict[Node | Edge, Node | Edge] = {}
    depth: dict[Node | Edge, int] = {}
    inner: defaultdict[Node | Edge, list[Node | Edge]] = defaultdict(list)

    def put(point: Node | Edge, above: Node | Edge) -> None:
        up[point], depth[point] = above, depth[above] + 1
        inner[above].append(point)

    def meet(a: Node | Edge, b: Node | Edge) -> Node | Edge:
        while a != b:
            if depth[a] >= depth[b]:
                a = up[a]
            else:
                b = up[b]
        return a

    for node in reversed(nodes):
        users = [through.get((node, user), user) for user in node.users if user in depth]
        if node.op == "output":
            depth[node] = 0
        elif users:
            put(node, reduce(meet, users))
            for edge in leading[node]:
                put(edge, node)
    found = []
    for edge in edges:
        left, gone = [*inner[edge]], set()
        while left:
            point = left.pop()
            left += inner[point]
            if isinstance(point, Node):
                gone.add(point)
        found.append(frozenset(gone))
    return found


def _names(trace: Trace, found: Sequence[tuple[Node, frozenset[str]]]) -> list[str]:
    """A name for each sum that loses these tensors: the innermost module that holds all of their parameters.

    Where much of that module is of others, it is the part of it with most of the numbers. Blocks of one name are counted.
    """
    every = {trace.tensors[node.name] for node in trace.nodes if node.users and node.name in trace.tensors}
    held: Counter[str] = Counter()  # numbers in the parameters of each module
    for tensor in every:
        for module in _around(tensor):
            held[module] += _numbers(trace, tensor)
    names = []
    for add, tensors in found:
        numbers = {tensor: _numbers(trace, tensor) for tensor in sorted(tensors) if _numbers(trace, tensor)}
        name = _common_module(numbers)
        if name and sum(numbers.values()) < MOST * held[name]:
            parts: Counter[str] = Counter()
            for tensor, n in numbers.items():
                part = ".".join(tensor.split(".")[: name.count(".") + 2])
                parts[part] += n if part != tensor else 0
            (part, n), *_ = parts.most_common(1)
            name = part if n else name
        names.append(name or add.name)
    often, seen = Counter(names), Counter[str]()
    for i, name in enumerate(names):
        if often[name] > 1:
            names[i] = f"{name}[{seen[name]}]"
            seen[name] += 1
    return names


def _numbers(trace: Trace, tensor: str) -> int:
    """Of a parameter; 0 for what is none."""
    found = trace.tensor(tensor)
    return found.numel() if isinstance(found, torch.nn.Parameter) else 0


def _around(tensor: str) -> list[str]:
    """The names of all modules that a tensor is in."""
    parts = tensor.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


def _common_module(tensors: Iterable[str]) -> str:
    """The innermost module that holds all these tensors."""
    levels = zip(*(name.split(".")[:-1] for name in tensors), strict=False)
    return ".".join(level[0] for level in takewhile(lambda level: len(set(level)) == 1, levels))


def ignored(block: Block, ignore: Iterable[str]) -> bool:
    """Whether a block, a module around it, or any of its tensors is among the names."""
    parts = block.name.split(".")
    modules = {".".join(parts[: i + 1]) for i in range(len(parts))}
    return bool({block.name, *modules, *block.tensors, *block.rows} & set(ignore))
