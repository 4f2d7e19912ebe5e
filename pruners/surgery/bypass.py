"""A graph without some blocks: their sums pass on what stays, what only they need is gone, and no router chooses them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.fx import Node

from pruners.operators import tensors_in
from pruners.surgery.blocks import Block
from pruners.surgery.experts import experts, unchosen, without_entries
from pruners.surgery.masked import Masked
from pruners.surgery.packed import cut_rows, kept_rows
from pruners.surgery.rewrite import GraphModel, Removal, traced_name
from pruners.surgery.sums import argument
from pruners.tracing import Repeated, Trace

aten = torch.ops.aten


def passed_on(blocks: Iterable[Block]) -> dict[Node, Node]:
    """The sums that lose a term, or their norms, to the argument of the sum that they pass on from then on.

    A sum that loses both is a lost term of the sum that it is in.
    """
    sides: defaultdict[Node, set[int]] = defaultdict(set)
    norms = {}
    for block in blocks:
        if block.norm is not None:
            norms[block.norm] = block.source
        elif block.nodes:
            sides[block.add].add(block.side)
    empty = [add for add, stay in sides.items() if len(stay) > 1]
    for add in empty:
        (user,) = add.users
        sides[user].add(1 - user.args.index(add))
        if len(sides[user]) > 1 and user not in empty:
            empty.append(user)
    return norms | {add: argument(add, next(iter(stay))) for add, stay in sides.items() if add not in empty}


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


def bypass(model: GraphModel, blocks: Iterable[Block]) -> None:
    """Take blocks out of a rewritten graph, with their tensors."""
    blocks = list(blocks)
    by_name = {traced_name(node): node for node in model.graph.nodes}
    sources = {add.name: source.name for add, source in passed_on(blocks).items()}
    for name in reversed(by_name):  # what a sum passes on may itself be one that is passed by
        if name in sources:
            by_name[name].replace_all_uses_with(by_name[sources[name]])
    for logits, entries in not_chosen(block for block in blocks if not block.rows).items():
        _silence(model, by_name[logits.name], entries)
    weights = {str(node.target): node for node in by_name.values() if node.op == "get_attr"}
    cut_rows(model, rows_left(blocks), weights)
    model.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))  # attention counts as random
    used = {node.target for node in model.graph.nodes if node.op == "get_attr"}
    for name in [name for name, _ in (*model.named_parameters(), *model.named_buffers()) if name not in used]:
        holder, _, key = name.rpartition(".")
        delattr(model.get_submodule(holder), key)
    model.recompile()


def not_chosen(blocks: Iterable[Block]) -> dict[Node, list[int]]:
    """The logits of routers, and which of their entries are minus infinity without some blocks."""
    return unchosen(block.route for block in blocks if block.route is not None)


def rows_left(blocks: Iterable[Block]) -> dict[str, torch.Tensor]:
    """Name of a tensor of experts to the rows that stay without some blocks.

    Raises:
        ValueError: if fewer do than a token is routed to.
    """
    gone: defaultdict[str, set[int]] = defaultdict(set)
    sizes: dict[str, tuple[int, int]] = {}
    for block in blocks:
        if (route := block.route) is not None:
            for name in block.rows:
                gone[name].add(route.index)
                sizes[name] = experts(route.logits), route.fewest
    return kept_rows(gone, sizes)


def _silence(model: GraphModel, logits: Node, entries: Sequence[int]) -> None:
    """Set entries of a router's result to minus infinity."""
    weight = str(logits.args[1].target)  # type: ignore[union-attr]
    name, tensor = f"{weight}_left_out", model.get_parameter(weight)
    while name in dict(model.named_buffers()):  # a router of several layers
        name += "_"
    holder, _, key = name.rpartition(".")
    gone = torch.zeros(len(tensor), dtype=torch.bool)
    gone[entries] = True
    model.get_submodule(holder).register_buffer(key, gone.to(tensor.device))
    with model.graph.inserting_after(logits):
        mask = model.graph.get_attr(name)
    with model.graph.inserting_after(mask):
        masked = model.graph.call_function(aten.masked_fill.Scalar, (logits, mask, -torch.inf))
    logits.replace_all_uses_with(masked, lambda user: user is not masked)


class Bypassed(Masked):
    """The masked full graph without some blocks: their sums hand on what stays, and what only they need does not run.

    Parts of it may run again on their own result.
    """

    def __init__(self, removal: Removal, blocks: Iterable[Block], repeated: Iterable[Repeated] = ()) -> None:
        super().__init__(removal)
        self.unchosen = not_chosen(blocks)
        self.sources = passed_on(blocks)
        self.needed = needed_nodes(list(self.graph.nodes), self.sources)
        if self.sources:
            self.user_to_last_uses = self._last_uses()
        self.repeat(repeated)

    def run_node(self, node: Node) -> Any:
        """Run one operator, or hand on what a bypassed sum gets from its source."""
        if node in self.sources:
            return self.env[self.sources[node]]
        if self.sources and node.op == "call_function" and node not in self.needed:
            return None
        value = super().run_node(node)
        return without_entries(value, self.unchosen[node]) if node in self.unchosen else value

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


def bypassed_outputs(
    removal: Removal, blocks: Iterable[Block], repeated: Iterable[Repeated] = ()
) -> list[torch.Tensor]:
    """What the masked full graph returns on the example inputs when some blocks pass on their source, and parts run again."""
    with torch.no_grad():
        *_, (_, value) = Bypassed(removal, blocks, repeated).steps(list(removal.graph.trace.values().values()))
    return tensors_in(removal.graph.trace.returned(value))
