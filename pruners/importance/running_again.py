"""What the outputs lose where a block runs twice: the model runs as a whole, once for each block, and again on what it made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from pruners.importance.outputs import Measure
from pruners.progress import Progress
from pruners.surgery import GraphModel, Twice, between, traced_name
from pruners.tracing import Repeated, Runner, real_positions

STEP = "blocks run twice"


def repeated_damages(
    model: GraphModel, blocks: Sequence[Twice], inputs: Iterable[Sequence[Any]], measure: Measure, progress: Progress
) -> dict[str, float]:
    """The change of the outputs when one block runs twice and everything else stays, averaged over batches.

    Args:
        model: the rewritten graph, of which nothing is left out.
        blocks: blocks that may run twice.
        inputs: of the graph, for batch after batch.
        measure: of a change of the outputs.
        progress: called as ("blocks run twice", runs done, runs of a batch).

    Returns:
        Name of a block to the change per sample.
    """
    named = {traced_name(node): node for node in model.graph.nodes}
    parts = {}
    for twice in blocks:
        source, end = named[twice.part.source.name], named[twice.part.nodes[-1].name]
        parts[twice.block.name] = Repeated(source, between(model.graph.nodes, source, end))
    totals: dict[str, float] = dict.fromkeys(parts, 0.0)
    batches = 0
    with torch.no_grad():
        for batches, values in enumerate(inputs, 1):
            *_, (_, reference) = Runner(model).steps(list(values))
            change = measure.changes(reference, real_positions(values, measure.trace))
            for done, (name, part) in enumerate(parts.items(), 1):
                again = Runner(model)
                again.repeat([part])
                *_, (_, returned) = again.steps(list(values))
                totals[name] += max(change(returned), 0.0)
                progress(STEP, len(totals) * (batches - 1) + done, len(totals) * batches)
    return {name: total / max(batches, 1) for name, total in totals.items()}
