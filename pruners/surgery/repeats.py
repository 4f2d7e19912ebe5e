"""Blocks that run twice: what a residual block makes of its input is its input once more, with the same weights.

Reference: Bansal et al., End-to-end algorithm synthesis with recurrent networks, NeurIPS 2022 (depth at test time); Chang et al.,
    Multi-level residual networks from dynamical systems view, ICLR 2018 (residual blocks as steps).
Differs: of a model that was trained with each block once, for which it is one more choice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from pruners.groups import AxisGraph
from pruners.operators import find
from pruners.surgery.blocks import Block, named_blocks
from pruners.surgery.rewrite import GraphModel, traced_name
from pruners.tracing import Repeated

AGAIN = "_again"


class Twice(NamedTuple):
    """A block that may run twice.

    Attributes:
        block: the block.
        part: where it starts, and the operators from there to its end: the sum, or the norm or activation behind it that its input
            comes from, too.
    """

    block: Block
    part: Repeated


def repeatable(graph: AxisGraph, blocks: Iterable[Block]) -> list[Twice]:
    """Blocks that can run on their own result: it comes from what enters them, and has the same shape, type and axes.

    None of a model that chooses rows by their values.
    """
    blocks = list(blocks)
    sums = Counter(block.add for block in blocks)
    found = []
    for block in blocks:
        if graph.trace.choosing or block.route is not None or not block.nodes or sums[block.add] > 1:
            continue
        source, end = block.source, _end(block)
        nodes = between(graph.trace.nodes, source, end)
        alike = all(find(a) is find(b) for a, b in zip(graph.dims(source), graph.dims(end), strict=False))
        if block.term in nodes and alike and _signature(source) == _signature(end):
            found.append(Twice(block, Repeated(source, nodes)))
    return found


def named_repeats(graph: AxisGraph, names: Sequence[str]) -> list[Twice]:
    """The blocks of these names.

    Raises:
        ValueError: if the model has no such block, or it cannot run twice.
    """
    found = repeatable(graph, named_blocks(graph, names))
    if missing := sorted(set(names) - {twice.block.name for twice in found}):
        raise ValueError(f"a plan must run blocks twice whose result can enter them, got {missing}.")
    return found


def between(nodes: Iterable[Node], source: Node, end: Node) -> tuple[Node, ...]:
    """The operators that compute one value from another, in order, that of the end last; empty if it is not computed from it."""
    behind, order = {source}, []
    for node in nodes:
        if node.op == "call_function" and not behind.isdisjoint(node.all_input_nodes):
            behind.add(node)
            order.append(node)
        if node is end:
            break
    before = {end}
    for node in reversed(order):
        if node in before:
            before.update(node.all_input_nodes)
    return tuple(node for node in order if node in before) if end in behind else ()


def repeat_(model: GraphModel, some: Iterable[Twice], passed: Mapping[Node, Node]) -> None:
    """Let blocks of a rewritten graph run again on their own result, inner ones first, so that outer ones repeat that as well.

    Args:
        model: the rewritten graph, without the blocks that are left out; changed in place.
        some: blocks that run twice.
        passed: sums of blocks that are left out, to what they pass on.
    """
    ends: dict[Node, Node] = {}
    for twice in sorted(some, key=lambda twice: len(twice.part.nodes)):
        by_name = {traced_name(node): node for node in model.graph.nodes}
        source = twice.part.source
        while source in passed:
            source = passed[source]
        start = ends.get(source, by_name[source.name])
        end = by_name[twice.part.nodes[-1].name]
        own = between(model.graph.nodes, start, ends.get(twice.part.nodes[-1], end))
        copies: dict[Node, Node] = {start: own[-1]}
        users, place = list(own[-1].users), own[-1]
        for node in own:
            instead = partial(_in_place_of, copies)
            args, kwargs = map_arg(node.args, instead), map_arg(node.kwargs, instead)
            with model.graph.inserting_after(place):
                place = model.graph.create_node(node.op, node.target, args, kwargs, f"{node.name}{AGAIN}")
            place.meta = dict(node.meta)
            copies[node] = place
        for user in users:
            user.replace_input_with(own[-1], place)
        ends[twice.part.nodes[-1]] = place
    model.graph.lint()
    model.recompile()


def _in_place_of(copies: Mapping[Node, Node], node: Node) -> Node:
    return copies.get(node, node)


def _end(block: Block) -> Node:
    """The sum, or what alone reads it where what stays of the sum comes from the same operator: a norm, an activation."""
    if block.norm is not None:
        return block.norm
    user = next(iter(block.add.users), None)
    follows = len(block.add.users) == 1 and user is not None and user.op == "call_function"
    if follows and user is not None and user.target is block.source.target and len(user.all_input_nodes) == 1:
        return user
    return block.add


def _signature(node: Node) -> tuple[object, ...] | None:
    value = node.meta.get("val")
    return (tuple(map(str, value.shape)), value.dtype) if isinstance(value, Tensor) else None
