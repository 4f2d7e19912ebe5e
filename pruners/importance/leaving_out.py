"""What the outputs lose with a block: the model runs again from its sum on, with what enters the block in place of the sum.

Without an expert it runs again from the router on, that no longer chooses it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch.fx import Node

from pruners.importance.outputs import Measure
from pruners.progress import Progress
from pruners.surgery import Block, GraphModel, passed_on, traced_name, without_entries
from pruners.tracing import Runner, real_positions


def left_out_damages(
    model: GraphModel, blocks: Sequence[Block], inputs: Iterable[Sequence[Any]], measure: Measure, progress: Progress
) -> dict[str, float]:
    """The change of the outputs when one block is left out and everything else stays, averaged over batches.

    Args:
        model: the rewritten graph.
        blocks: blocks that may be left out.
        inputs: of the graph, for batch after batch.
        measure: of a change of the outputs.
        progress: called as ("blocks left out", runs done, runs of a batch).

    Returns:
        Name of a block to the change per sample.
    """
    totals: dict[str, float] = dict.fromkeys((block.name for block in blocks), 0.0)
    batches = 0
    with torch.no_grad():
        for batches, values in enumerate(inputs, 1):
            *_, (_, reference) = Runner(model).steps(list(values))
            change = measure.changes(reference, real_positions(values, measure.trace))
            for done, (block, returned) in enumerate(_without_each(model, blocks, values), 1):
                totals[block.name] += max(change(returned), 0.0)
                progress("blocks left out", len(totals) * (batches - 1) + done, len(totals) * batches)
    return {name: total / max(batches, 1) for name, total in totals.items()}


def _without_each(
    model: GraphModel, blocks: Sequence[Block], values: Sequence[Any]
) -> Iterator[tuple[Block, Sequence[Any]]]:
    """Blocks with what the graph returns without them."""
    passing: defaultdict[str, list[tuple[Block, str, str]]] = defaultdict(list)
    for block in blocks:
        add, source = next(iter(passed_on([block]).items()), (block.add, block.source))
        first = add if block.route is None else block.route.logits
        passing[first.name].append((block, add.name if block.nodes else "", source.name))
    wanted = {source for found in passing.values() for _, _, source in found}
    held: dict[str, Any] = {}
    whole = Runner(model)
    nodes = list(model.graph.nodes)
    for position, (node, value) in enumerate(whole.steps(list(values)), 1):
        if traced_name(node) in wanted:
            held[traced_name(node)] = value
        for block, passed, kept in passing.get(node.name, ()):
            again = _Passing(model, passed)
            if block.route is None:
                again.env = whole.env | {node: held[kept]}
            else:
                again.env = whole.env | {node: without_entries(value, [block.route.index])}
            *_, (_, returned) = again.onward(nodes[position:])
            yield block, returned


class _Passing(Runner):
    """Runs a graph in which what an expert adds to rows is left out; nothing where it has no name."""

    def __init__(self, model: GraphModel, add: str) -> None:
        super().__init__(model)
        self.add = add

    def run_node(self, node: Node) -> Any:
        """Run one operator, or hand on what the expert would add to."""
        return self.env[node.args[0]] if node.name == self.add else super().run_node(node)  # type: ignore[index]
