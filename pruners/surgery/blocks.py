"""Residual blocks that can be left out: x + f(x) becomes x."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch.fx import Node

from pruners.groups import AxisGraph, Group
from pruners.operators import tensors_in
from pruners.surgery.masked import Masked
from pruners.surgery.rewrite import GraphModel, Removal
from pruners.tracing import Trace


@dataclass(frozen=True)
class Block:
    """A branch that is added to its own source, and to nothing else that stays.

    Attributes:
        name: the module that holds its parameters, or the sum's node; with "[i]" where several blocks have that name.
        add: the sum.
        side: which argument of the sum is the source, 0 or 1.
        nodes: what nothing needs any more without it: operators, and the placeholders of its tensors.
        tensors: names of those tensors.
    """

    name: str
    add: Node
    side: int
    nodes: frozenset[Node]
    tensors: frozenset[str]

    @property
    def source(self) -> Node:
        """What remains of the sum."""
        source = self.add.args[self.side]
        assert isinstance(source, Node)
        return source


def removable_blocks(graph: AxisGraph) -> list[Block]:
    """All blocks with a parameter of their own whose removal leaves every shape as it is; outer ones before those inside.

    A block that changes shape (a stride, more channels) is none, as its source does not fit in its place.
    """
    found = []
    for add in graph.trace.nodes:
        side = _source_side(graph, add)
        if side is not None:
            nodes, tensors = unneeded(graph.trace, {add: side})
            if any(isinstance(graph.trace.tensor(name), torch.nn.Parameter) for name in tensors):
                found.append((_common_module(tensors) or add.name, add, side, nodes, tensors))
    often = Counter(name for name, *_ in found)
    seen: Counter[str] = Counter()
    blocks = []
    for name, add, side, nodes, tensors in found:
        suffix = f"[{seen[name]}]" if often[name] > 1 else ""
        seen[name] += 1
        blocks.append(Block(name + suffix, add, side, nodes, tensors))
    return sorted(blocks, key=lambda block: sum(block.add in other.nodes - {other.add} for other in blocks))


def around(block: Block, blocks: Sequence[Block]) -> Block | None:
    """The innermost other block that a block is part of."""
    outer = [other for other in blocks if other is not block and block.add in other.nodes]
    return min(outer, key=lambda other: len(other.nodes), default=None)


def inside(group: Group, blocks: Sequence[Block]) -> Block | None:
    """The innermost block that holds all members of a group, without which its width means nothing."""
    tensors = {member.tensor for member in group.members}
    return min((b for b in blocks if tensors <= b.tensors), key=lambda block: len(block.nodes), default=None)


def unneeded(trace: Trace, sides: Mapping[Node, int]) -> tuple[frozenset[Node], frozenset[str]]:
    """The nodes, and names of the tensors, that the outputs no longer need when these sums pass on one of their arguments."""
    nodes = trace.nodes
    needed = _needed(nodes, sides)
    gone = frozenset(_needed(nodes, {}) - needed)
    left = {
        trace.tensors[node.name] for node in needed if node.name in trace.tensors
    }  # tied weights have several nodes
    return gone, frozenset(trace.tensors[node.name] for node in gone if node.name in trace.tensors) - left


def bypass(model: GraphModel, blocks: Iterable[Block]) -> None:
    """Take blocks out of a rewritten graph, with their tensors."""
    by_name = {node.name: node for node in model.graph.nodes}
    for block in blocks:
        add = by_name[block.add.name]
        add.replace_all_uses_with(add.args[block.side])
    model.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))  # attention counts as random
    used = {node.target for node in model.graph.nodes if node.op == "get_attr"}
    for name in [name for name, _ in (*model.named_parameters(), *model.named_buffers()) if name not in used]:
        holder, _, key = name.rpartition(".")
        delattr(model.get_submodule(holder), key)
    model.recompile()


class Bypassed(Masked):
    """The masked full graph in which some blocks pass on their source."""

    def __init__(self, removal: Removal, blocks: Iterable[Block]) -> None:
        super().__init__(removal)
        self.sources = {block.add: block.source for block in blocks}

    def run_node(self, node: Node) -> Any:
        """Run one operator, or hand on what a bypassed sum gets from its source."""
        return self.env[self.sources[node]] if node in self.sources else super().run_node(node)


def bypassed_outputs(removal: Removal, blocks: Iterable[Block]) -> list[torch.Tensor]:
    """What the masked full graph returns on the example inputs when some blocks pass on their source."""
    with torch.no_grad():
        *_, (_, value) = Bypassed(removal, blocks).steps(list(removal.graph.trace.values().values()))
    return tensors_in(removal.graph.trace.returned(value))


def _needed(nodes: Sequence[Node], sides: Mapping[Node, int]) -> set[Node]:
    left = [node for node in nodes if node.op == "output"]
    needed: set[Node] = set()
    while left:
        node = left.pop()
        if node not in needed:
            needed.add(node)
            left += [node.args[sides[node]]] if node in sides else node.all_input_nodes  # type: ignore[list-item]
    return needed


def _source_side(graph: AxisGraph, add: Node) -> int | None:
    """Which argument of a sum the other one is computed from, if all three have one shape."""
    if add.target is not torch.ops.aten.add.Tensor or add.kwargs:
        return None
    operands = add.all_input_nodes
    if len(operands) != 2 or any(graph.shape(node) != graph.shape(add) for node in operands):
        return None
    for side in (0, 1):
        if add.args[side] in _ancestors(add.args[1 - side]):
            return side
    return None


def _ancestors(node: Any) -> set[Node]:
    found: set[Node] = set()
    left = list(node.all_input_nodes)
    while left:
        ancestor = left.pop()
        if ancestor not in found:
            found.add(ancestor)
            left += ancestor.all_input_nodes
    return found


def _common_module(tensors: Iterable[str]) -> str:
    """The innermost module that holds all these tensors."""
    levels = zip(*(name.split(".")[:-1] for name in tensors), strict=False)
    return ".".join(level[0] for level in takewhile(lambda level: len(set(level)) == 1, levels))


def ignored(block: Block, ignore: Iterable[str]) -> bool:
    """Whether a block, a module around it, or any of its tensors is among the names."""
    parts = block.name.split(".")
    modules = {".".join(parts[: i + 1]) for i in range(len(parts))}
    return bool({block.name, *modules, *block.tensors} & set(ignore))
