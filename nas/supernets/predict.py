"""Outputs of many subnets of one supernet, running each block once per distinct prefix instead of once per architecture.

The architectures' local choices form a trie. For every batch it is walked depth first, so the activations of a prefix are
computed once and kept only while a subnet below the fork needs them. The statistics that calibration gives to a normalisation
depend on the prefix alone, so they belong to the trie's nodes too, and nothing is approximated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from nas.runtime import precision
from nas.tasks import Batch, Examples, Numbers, Task, figures, tallied
from nas.training import BatchNorm, as_large_as_fits, batch_norms
from pruners.progress import Progress, silent
from search_spaces import Supernet
from search_spaces.core import Flow, FlowShape, Local, advance, shape_of

Buffers = tuple[Tensor, Tensor, Tensor]


class Statistics(NamedTuple):
    """The buffers of one batch normalisation."""

    mean: Tensor
    variance: Tensor
    batches: Tensor


@dataclass
class Link:
    """A shared block, its normalisations with running statistics, and those of them that run, by local choice and input shape."""

    block: nn.Module
    norms: list[BatchNorm]
    running: dict[tuple[Local, FlowShape], list[BatchNorm]] = field(default_factory=dict)

    def norms_of(self, local: Local, x: Flow) -> list[BatchNorm]:
        return self.running.get((local, shape_of(x)), self.norms)


@dataclass
class Node:
    """One block of a prefix: its local choice, the rows of the architectures that end here, and what follows."""

    local: Local
    rows: list[int] = field(default_factory=list)
    children: list[Node] = field(default_factory=list)
    statistics: list[Statistics] = field(default_factory=list)


def trie(locals: Sequence[Sequence[Local]]) -> list[Node]:
    """The first blocks of the given architectures (one sequence of local choices each), with everything that follows them."""
    roots: list[Node] = []
    for row, path in enumerate(locals):
        level, node = roots, None
        for local in path:
            node = next((known for known in level if known.local == local), None)
            if node is None:
                node = Node(local)
                level.append(node)
            level = node.children
        if node is not None:
            node.rows.append(row)
    return roots


def ranked(
    supernet: Supernet,
    locals: Sequence[Sequence[Local]],
    task: Task,
    names: Sequence[str],
    *,
    batch_size: int = 250,
    calibration: Examples | None = None,
    progress: Progress = silent,
) -> list[dict[str, float] | None]:
    """The figures of each subnet on the validation part of a task, by the names of its metrics; None where outputs are NaN.

    See `predict`.
    """

    def by(size: int) -> list[dict[str, float] | None]:
        tallies = [tallied(map(task.metric, names)) for _ in locals]
        numbers = [Numbers() for _ in locals]

        def see(row: int, outputs: Any, batch: Batch) -> None:
            numbers[row].update(outputs)
            for tally in tallies[row].values():
                tally.update(outputs, batch.target)

        predict(supernet, locals, task.validation, see, batch_size=size, calibration=calibration, progress=progress)
        return [figures(own) if seen.all() else None for own, seen in zip(tallies, numbers, strict=True)]

    return as_large_as_fits(by, batch_size)


def predict(
    supernet: Supernet,
    locals: Sequence[Sequence[Local]],
    examples: Examples,
    see: Callable[[int, Any, Batch], None],
    *,
    batch_size: int = 250,
    calibration: Examples | None = None,
    progress: Progress = silent,
    name: str = "ranking",
) -> None:
    """Let the outputs of each subnet for each batch be seen.

    Args:
        supernet: evaluated where its weights are; its mode and statistics are left as they were.
        locals: the local choices of each architecture, `SearchSpace.locals`.
        examples: whose inputs are one tensor.
        see: called with the row of an architecture, its outputs and the batch.
        batch_size: examples at a time, at most; the batches are of equal size up to one example. Where batches are normalised by their
            own statistics, outputs depend on it.
        calibration: examples on which normalisations with running statistics gather them anew for each subnet. Without it they use
            what the supernet holds.
        progress: told about batches.
        name: what `progress` is told.
    """
    device = next(supernet.parameters()).device
    links = [Link(block, _tracking(block)) for block in supernet.blocks.values()]
    norms = [norm for link in links for norm in link.norms]
    roots = trie(locals)
    was_training = supernet.training
    kept, momenta = _statistics(norms), [norm.momentum for norm in norms]
    calibrated = calibration is not None and bool(norms)
    gathering = list(calibration.evenly(batch_size, device)) if calibration is not None and calibrated else []
    total = len(gathering) + -(-len(examples) // batch_size)
    done = 0
    progress(name, 0, total)
    try:
        with torch.inference_mode(), precision(device):
            supernet.train()
            for norm in norms:
                norm.momentum = None
            for batch in gathering:
                _calibrate(links, roots, batch.inputs)
                progress(name, done := done + 1, total)
            supernet.eval()
            for batch in examples.evenly(batch_size, device):
                for row, outputs in _walk(links, roots, batch.inputs, calibrated):
                    see(row, outputs, batch)
                progress(name, done := done + 1, total)
    finally:
        _use(norms, kept)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        supernet.train(was_training)


def _walk(
    links: list[Link], nodes: list[Node], x: Flow, calibrated: bool, depth: int = 0
) -> Iterator[tuple[int, Tensor]]:
    """Every architecture's row and logits, depth first."""
    link = links[depth]
    for node in nodes:
        if calibrated:
            _use(link.norms_of(node.local, x), node.statistics)
        out = advance(link.block, x, node.local)
        for row in node.rows:
            yield row, cast(Tensor, out)
        if node.children:
            yield from _walk(links, node.children, out, calibrated, depth + 1)


def _calibrate(links: list[Link], nodes: list[Node], x: Flow, depth: int = 0) -> None:
    """Add one batch to the cumulative means of every node's statistics."""
    link = links[depth]
    for node in nodes:
        norms = link.norms_of(node.local, x)
        _use(norms, node.statistics or [Statistics(*map(torch.zeros_like, old)) for old in _statistics(norms)])
        out = advance(link.block, x, node.local)
        if norms is link.norms:
            norms = [norm for norm in norms if cast(Tensor, norm.num_batches_tracked) > 0]
            link.running[node.local, shape_of(x)] = norms
        node.statistics = _statistics(norms)
        if node.children:
            _calibrate(links, node.children, out, depth + 1)


def _tracking(block: nn.Module) -> list[BatchNorm]:
    return [norm for norm in batch_norms(block) if norm.running_mean is not None]


def _statistics(norms: Sequence[BatchNorm]) -> list[Statistics]:
    return [Statistics(*cast(Buffers, (n.running_mean, n.running_var, n.num_batches_tracked))) for n in norms]


def _use(norms: Sequence[BatchNorm], statistics: Sequence[Statistics]) -> None:
    for norm, (mean, variance, count) in zip(norms, statistics, strict=True):
        norm.running_mean, norm.running_var, norm.num_batches_tracked = mean, variance, count
