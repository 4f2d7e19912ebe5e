"""Blocks that can be left out: terms of a sum that are computed from another term, as f(x) in x + f(x)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import takewhile
from typing import Any

import torch
from torch.fx import Node

from pruners.groups import AxisGraph, Group
from pruners.operators import operator, tensors_in
from pruners.surgery.masked import Masked
from pruners.surgery.rewrite import GraphModel, Removal, traced_name
from pruners.tracing import Trace

aten = torch.ops.aten
LAYER_NORMS = (aten.layer_norm.default, aten.rms_norm.default)
MOST = 0.9  # of the numbers of a module are a block's that is called like it
COPIES = ("alias", "clone", "contiguous", "detach", "dropout", "lift_fresh_copy", "to", "_to_copy")
Edge = tuple[Node, int]  # a sum, and which of its arguments stays where the other is left out


@dataclass(frozen=True)
class Block:
    """A term of a sum that is computed from another term, which stays.

    Attributes:
        name: the module that holds its parameters, or the sum's node; with "[i]" where several blocks have that name.
        add: the sum.
        side: which argument of the sum stays, 0 or 1.
        nodes: what nothing needs any more without it: operators, and the placeholders of its tensors.
        tensors: names of those tensors.
        norm: the norm of the sum that is left out with it, where what remains is normalised already.
    """

    name: str
    add: Node
    side: int
    nodes: frozenset[Node]
    tensors: frozenset[str]
    norm: Node | None = None

    @property
    def source(self) -> Node:
        """What remains of the sum."""
        return _argument(self.add, self.side)

    @property
    def term(self) -> Node:
        """What is left out of the sum."""
        return _argument(self.add, 1 - self.side)


def removable_blocks(graph: AxisGraph) -> list[Block]:
    """All blocks with a parameter of their own whose removal leaves every shape as it is; outer ones before those inside.

    A block that changes shape (a stride, more channels) is none, as its source does not fit in its place. Of a sum of several, as
    x + a(x) + m(x), every term but the first is a block, and so are a(x) + m(x) together where they are added first. A multiple of a
    term counts as that term: x + 0.5 f(x), x + g * f(x), x - f(x). Of norm(x + f(x)), where x is the result of such a norm, x remains:
    the layers of a model that normalises behind its sums go whole.
    """
    trace = graph.trace
    edges = list(_terms_to_lose(graph))
    only_for = _needed_only_for(trace.nodes, edges)
    live: defaultdict[str, set[Node]] = defaultdict(set)  # tied weights have several nodes
    for node in trace.nodes:
        if node.users and node.name in trace.tensors:
            live[trace.tensors[node.name]].add(node)
    found = []
    for (add, side), nodes in zip(edges, only_for, strict=True):
        norm = _norm(add, side)
        if norm is not None:
            nodes |= {add, *(x for x in norm.all_input_nodes if x.op == "placeholder" and len(x.users) == 1)}
        held = {trace.tensors[node.name] for node in nodes if node.name in trace.tensors}
        tensors = frozenset(name for name in held if live[name] <= nodes)
        if any(isinstance(trace.tensor(name), torch.nn.Parameter) for name in tensors):
            found.append((add, side, nodes, tensors, norm))
    names = _names(trace, [(add, tensors) for add, _, _, tensors, _ in found])
    blocks = [Block(name, *rest) for name, rest in zip(names, found, strict=True)]
    sums = {block.add for block in blocks}
    around_it = Counter(node for block in blocks for node in block.nodes & sums)
    return sorted(blocks, key=lambda block: around_it[block.add] - (block.add in block.nodes))


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


def is_copy(node: Node) -> bool:
    """Whether an operator returns what it is given, in the same type."""
    if operator(node).removeprefix("aten.").split(".")[0] not in COPIES:
        return False
    return bool(node.meta["val"].dtype == node.all_input_nodes[0].meta["val"].dtype)


def around(block: Block, blocks: Sequence[Block]) -> Block | None:
    """The innermost other block that a block is part of."""
    outer = [other for other in blocks if other is not block and block.add in other.nodes]
    return min(outer, key=lambda other: len(other.nodes), default=None)


def inside(group: Group, blocks: Sequence[Block]) -> Block | None:
    """The innermost block that holds all members of a group, without which its width means nothing."""
    tensors = {member.tensor for member in group.members}
    return min((b for b in blocks if tensors <= b.tensors), key=lambda block: len(block.nodes), default=None)


def passed_on(blocks: Iterable[Block]) -> dict[Node, Node]:
    """The sums that lose a term, or their norms, to the argument of the sum that they pass on from then on.

    A sum that loses both is a lost term of the sum that it is in.
    """
    sides: defaultdict[Node, set[int]] = defaultdict(set)
    norms = {}
    for block in blocks:
        if block.norm is not None:
            norms[block.norm] = block.source
        else:
            sides[block.add].add(block.side)
    empty = [add for add, stay in sides.items() if len(stay) > 1]
    for add in empty:
        (user,) = add.users
        sides[user].add(1 - user.args.index(add))
        if len(sides[user]) > 1 and user not in empty:
            empty.append(user)
    return norms | {add: _argument(add, next(iter(stay))) for add, stay in sides.items() if add not in empty}


def unneeded(trace: Trace, blocks: Iterable[Block]) -> tuple[frozenset[Node], frozenset[str]]:
    """The nodes, and names of the tensors, that the outputs no longer need without some blocks.

    What two blocks share goes where both go, so this is more than what each of them has for itself.
    """
    nodes = trace.nodes
    needed = needed_nodes(nodes, passed_on(blocks))
    gone = frozenset(needed_nodes(nodes, {}) - needed)
    left = {
        trace.tensors[node.name] for node in needed if node.name in trace.tensors
    }  # tied weights have several nodes
    return gone, frozenset(trace.tensors[node.name] for node in gone if node.name in trace.tensors) - left


def bypass(model: GraphModel, blocks: Iterable[Block]) -> None:
    """Take blocks out of a rewritten graph, with their tensors."""
    by_name = {traced_name(node): node for node in model.graph.nodes}
    sources = {add.name: source.name for add, source in passed_on(blocks).items()}
    for name in reversed(by_name):  # what a sum passes on may itself be one that is passed by
        if name in sources:
            by_name[name].replace_all_uses_with(by_name[sources[name]])
    model.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))  # attention counts as random
    used = {node.target for node in model.graph.nodes if node.op == "get_attr"}
    for name in [name for name, _ in (*model.named_parameters(), *model.named_buffers()) if name not in used]:
        holder, _, key = name.rpartition(".")
        delattr(model.get_submodule(holder), key)
    model.recompile()


class Bypassed(Masked):
    """The masked full graph without some blocks: their sums hand on what stays, and what only they need does not run."""

    def __init__(self, removal: Removal, blocks: Iterable[Block]) -> None:
        super().__init__(removal)
        self.sources = passed_on(blocks)
        self.needed = needed_nodes(list(self.graph.nodes), self.sources)
        if self.sources:
            self.user_to_last_uses = self._last_uses()

    def run_node(self, node: Node) -> Any:
        """Run one operator, or hand on what a bypassed sum gets from its source."""
        if node in self.sources:
            return self.env[self.sources[node]]
        if self.sources and node.op == "call_function" and node not in self.needed:
            return None
        return super().run_node(node)

    def _last_uses(self) -> dict[Node, list[Node]]:
        """Nodes to the values that are not needed after them."""
        last: dict[Node, Node] = {}
        for node in self.graph.nodes:
            for source in [self.sources[node]] if node in self.sources else node.all_input_nodes:
                last[source] = node
        uses: defaultdict[Node, list[Node]] = defaultdict(list)
        for source, user in last.items():
            uses[user].append(source)
        return uses


def bypassed_outputs(removal: Removal, blocks: Iterable[Block]) -> list[torch.Tensor]:
    """What the masked full graph returns on the example inputs when some blocks pass on their source."""
    with torch.no_grad():
        *_, (_, value) = Bypassed(removal, blocks).steps(list(removal.graph.trace.values().values()))
    return tensors_in(removal.graph.trace.returned(value))


def _norm(add: Node, side: int) -> Node | None:
    """The norm that alone reads a sum whose argument that stays is normalised, too."""
    norm = next(iter(add.users))
    source = _argument(add, side)
    while is_copy(source):
        source = source.all_input_nodes[0]
    return norm if len(add.users) == 1 and norm.target in LAYER_NORMS and source.target is norm.target else None


def _argument(add: Node, side: int) -> Node:
    argument = add.args[side]
    assert isinstance(argument, Node)
    return argument


def needed_nodes(nodes: Sequence[Node], kept: Mapping[Node, Node]) -> set[Node]:
    """The nodes that the outputs need where some sums pass on one of their arguments."""
    left = [node for node in nodes if node.op == "output"]
    needed: set[Node] = set()
    while left:
        node = left.pop()
        if node not in needed:
            needed.add(node)
            left += [kept[node]] if node in kept else node.all_input_nodes
    return needed


def _terms_to_lose(graph: AxisGraph) -> list[Edge]:
    """Sums, and which of their arguments stays where the other is computed from another term of the same sum.

    A sum that only another sum reads is part of that one. Of such parts only the largest can be left out, and single terms.
    """
    place = {node: i for i, node in enumerate(graph.trace.nodes)}
    sums = {node: sides for node in place if (sides := _sides(graph, node))}
    parts: dict[Node, set[Node]] = {}  # of each sum: the terms that it is made of, and the sums
    whole: dict[Node, Node] = {}  # of each sum: the last that it is part of
    for add in sums:
        operands = add.all_input_nodes
        parts[add] = {add}.union(*(parts[x] if _joins(x, sums) else {x} for x in operands))
    for add in reversed(sums):
        (user,) = add.users if _joins(add, sums) else (add,)
        whole[add] = whole.get(user, user)
    found, within = [], set()
    for add, sides in reversed(sums.items()):
        for side in sides:
            term = _argument(add, 1 - side)
            several = _joins(term, sums)
            own = parts[term] if several else {term}
            others = {x for x in parts[whole[add]] - own if not _joins(x, sums) and x is not whole[add]}
            if not (several and add in within) and _is_computed_from(term, others, place):
                found.append((add, side))
                within |= own if several else set()
    return found[::-1]


def _sides(graph: AxisGraph, node: Node) -> tuple[int, ...]:
    """Which arguments of a sum of equal shapes can stand for it when the other is zero; none where it is no sum."""
    if node.target not in (aten.add.Tensor, aten.sub.Tensor):
        return ()
    operands = node.all_input_nodes
    shape, dtype = graph.shape(node), node.meta["val"].dtype
    if len(operands) != 2 or any(graph.shape(x) != shape or x.meta["val"].dtype != dtype for x in operands):
        return ()
    return (0,) if node.kwargs or node.target is aten.sub.Tensor else (1, 0)


def _joins(node: Node, sums: Mapping[Node, tuple[int, ...]]) -> bool:
    """Whether a node is a sum that only another sum reads, so that the two are one."""
    return len(sums.get(node, ())) == 2 and len(node.users) == 1 and len(sums.get(next(iter(node.users)), ())) == 2


def _is_computed_from(node: Node, sources: set[Node], place: Mapping[Node, int]) -> bool:
    """Whether any of some nodes is among what a node is computed from; nothing before the first of them is looked at."""
    for source in list(sources):
        while is_copy(source):
            source = source.all_input_nodes[0]
            sources.add(source)
    first = min(map(place.__getitem__, sources))
    left, seen = [node], {node}
    while left:
        for source in left.pop().all_input_nodes:
            if source in sources:
                return True
            if source not in seen and place[source] > first:
                seen.add(source)
                left.append(source)
    return False


def _needed_only_for(nodes: Sequence[Node], edges: Sequence[Edge]) -> list[frozenset[Node]]:
    """For each sum and the argument that stays, the nodes from which every way to the outputs leads through the other argument.

    These are what the edge between the two dominates, seen from the outputs. One walk back through the graph gives each node the
    nearest node or edge that all its ways lead through.
    """
    through = {(_argument(add, 1 - side), add): (add, side) for add, side in edges}
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
    return bool({block.name, *modules, *block.tensors} & set(ignore))
