"""What the outputs lose with a block: the model runs again from its sum on, with what enters the block in place of the sum."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.fx import Node

from pruners.importance.outputs import Measure
from pruners.progress import Progress
from pruners.surgery import Block, GraphModel
from pruners.tracing import Runner


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
    named = {node.name: node for node in model.graph.nodes}
    sums = {named[block.add.name]: block for block in blocks if block.add.name in named}
    totals: dict[str, float] = dict.fromkeys((block.name for block in blocks), 0.0)
    batches = 0
    with torch.no_grad():
        for batches, values in enumerate(inputs, 1):
            *_, (_, reference) = Runner(model).steps(list(values))
            for block, returned in _without_each(model, sums, values):
                totals[block.name] += measure.change(reference, returned)
                progress("blocks left out", len(totals) * (batches - 1) + 1, len(totals) * batches)
    return {name: total / max(batches, 1) for name, total in totals.items()}


def _without_each(model: GraphModel, sums: Mapping[Node, Block], values: Sequence[Any]) -> Iterable[tuple[Block, Any]]:
    whole = Runner(model)
    nodes = list(model.graph.nodes)
    for position, (node, _) in enumerate(whole.steps(list(values)), 1):
        block = sums.get(node)
        if block is None:
            continue
        source: Any = node.args[block.side]
        again = Runner(model)
        again.env = whole.env | {node: whole.env.get(source, whole.env[node])}
        *_, (_, returned) = again.onward(nodes[position:])
        yield block, returned
