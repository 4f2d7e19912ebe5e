"""Batches in pieces of samples of one size, some of which are held out; and a graph that runs over all of them in step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from pruners.operators import of_size, tensors_in
from pruners.tracing import Batch, Runner, Trace, real_positions

CHUNK = 64  # samples that run at a time
APART = 5  # every so-manieth sample is held out
LEAST = 2  # samples that a graph with a free batch takes


@dataclass(frozen=True)
class Lane:
    """Some samples of one size.

    Attributes:
        inputs: what the graph takes.
        held: held out from solving; None where there is one sample in all, of which some positions are.
        twice: whether one sample stands there twice, as a batch of one looks like a dimension that broadcasts.
        real: which positions of padded texts are real, (N, L); None if all are.
    """

    inputs: list[Any]
    held: bool | None
    twice: bool = False
    real: Tensor | None = None

    def once(self, values: Tensor) -> Tensor:
        """What a lane computes, samples first, without the copies."""
        return values[: len(values) // LEAST] if self.twice else values


def fits(batch: Batch, trace: Trace) -> bool:
    """Whether a graph takes a batch: types as traced, sizes that it was traced for or that are free."""
    names = [node.name for node in trace.nodes if node.op == "placeholder" and node.name not in trace.tensors]
    examples = pytree.tree_leaves((trace.args, dict(trace.kwargs)))
    found: dict[str, int] = {}
    for name, x, example in zip(names, batch.inputs, examples, strict=True):
        if not isinstance(example, Tensor):
            continue
        shape = trace.sizes.shapes.get(name, tuple(example.shape))
        if not isinstance(x, Tensor) or x.dtype != example.dtype or x.dim() != len(shape):
            return False
        for have, want in zip(x.shape, shape, strict=True):
            if have != (found.setdefault(want, have) if isinstance(want, str) else want):
                return False
    others = {name: size for name, size in found.items() if name not in _batch_sizes(trace)}
    return trace.sizes.allow({**trace.sizes.traced, **others})


def _batch_sizes(trace: Trace) -> set[str]:
    names = [node.name for node in trace.nodes if node.op == "placeholder" and node.name not in trace.tensors]
    return {str(trace.sizes.shapes[names[place]][0]) for place in trace.free if names[place] in trace.sizes.shapes}


def lanes(batches: Iterable[Batch], trace: Trace, every: int = 1) -> list[Lane]:
    """Samples of one size joined and split into chunks, of which every fifth sample is held out.

    Inputs without a batch dimension stay with the samples that they came with. A graph without a free batch gets its batches as
    they are.

    Args:
        batches: that the graph takes.
        trace: of the graph.
        every: one sample of so many is taken.
    """
    if not trace.batched:
        whole = [batch.inputs for batch in batches][::every]
        return [
            Lane(inputs, _is_held(place, len(whole)), real=real_positions(inputs, trace))
            for place, inputs in enumerate(whole)
        ]
    alike: list[list[list[Any]]] = []
    for batch in batches:
        family = next((found for found in alike if _joins(found[0], batch.inputs, trace.free)), None)
        if family is None:
            alike.append([batch.inputs])
        else:
            family.append(batch.inputs)
    joined = [_joined(family, trace.free) for family in alike]
    sizes = [next(len(inputs[place]) for place in trace.free) for inputs in joined]
    total, start, result = sum(sizes), 0, []
    taken = len(range(0, total, every))
    for inputs, size in zip(joined, sizes, strict=True):
        samples = [place for place in range(size) if (start + place) % every == 0]
        held = [place for place in samples if _is_held((start + place) // every, taken)]
        fit = [place for place in samples if not _is_held((start + place) // every, taken)]
        for places, flag in ((fit, False), (held, True)):
            for first in range(0, len(places), CHUNK):
                chosen = torch.tensor(places[first : first + CHUNK])
                held_out = None if taken == 1 else flag
                part = _taken(inputs, chosen, trace.free)
                result.append(Lane(part, held_out, len(chosen) == 1, real_positions(part, trace)))
        start += size
    return result


def _is_held(place: int, total: int) -> bool | None:
    if total == 1:
        return None
    return place == total - 1 if total < APART else place % APART == APART - 1


def _joins(inputs: Sequence[Any], others: Sequence[Any], free: Iterable[int]) -> bool:
    """Whether two batches differ in nothing but their samples."""
    for place, (x, y) in enumerate(zip(inputs, others, strict=True)):
        if not isinstance(x, Tensor):
            continue
        if place in free and x.shape[1:] != y.shape[1:]:
            return False
        if place not in free and not (x.shape == y.shape and torch.equal(x, y)):
            return False
    return True


def _joined(family: Sequence[list[Any]], free: Iterable[int]) -> list[Any]:
    columns = list(zip(*family, strict=True))
    return [torch.cat(values) if place in free else values[0] for place, values in enumerate(columns)]


def _taken(inputs: Sequence[Any], places: Tensor, free: Iterable[int]) -> list[Any]:
    """Some samples; one alone comes twice."""
    found = [x[places.to(x.device)] if at in free else x for at, x in enumerate(inputs)]
    return [of_size(x, 0, max(len(places), LEAST)) if at in free else x for at, x in enumerate(found)]


class InStep(Runner):
    """Runs a graph over all lanes, operator by operator, and frees what is no longer needed.

    Args:
        module: the graph.
        inputs: values of its placeholders by name, for each lane.
    """

    def __init__(self, module: GraphModule, inputs: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(module)
        nodes = [node for node in self.graph.nodes if node.op == "placeholder"]
        self.envs: list[dict[Node, Any]] = [{node: values[node.name] for node in nodes} for values in inputs]

    def advance(self) -> Iterator[Node]:
        """Run one operator after another for all lanes; those that have run before their turn are left."""
        for node in self.graph.nodes:
            self.before(node)
            self.run_all(node)
            yield node
            for dead in self.user_to_last_uses.get(node, []):
                for env in self.envs:
                    env.pop(dead, None)

    def before(self, node: Node) -> None:
        """What is done before an operator runs."""

    def run_all(self, node: Node) -> None:
        """Run one operator for all lanes."""
        for env in self.envs:
            if node not in env:
                self.env = env
                env[node] = self.run_node(node)

    def keep(self, places: Sequence[int]) -> None:
        """Go on with some of the lanes."""
        self.envs = [self.envs[place] for place in places]

    def values(self, node: Node) -> list[Any]:
        """What a node has computed, for each lane."""
        return [env[node] for env in self.envs]


def outputs(module: GraphModule, inputs: Mapping[str, Any]) -> Any:
    """What a graph returns for one lane."""
    run = InStep(module, [inputs])
    found = None
    for node in run.advance():
        if node.op == "output":
            (found,) = run.values(node)
    return found


def most_bytes(module: GraphModule, inputs: Mapping[str, Any], last: str) -> int:
    """The memory that the values of one lane take at most up to a node, without the model's own tensors."""
    run, most = InStep(module, [inputs]), 0
    own = {x.untyped_storage().data_ptr() for x in tensors_in(list(inputs.values()))}
    for node in run.advance():
        stores = {
            x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors_in(list(run.envs[0].values()))
        }
        most = max(most, sum(size for place, size in stores.items() if place not in own))
        if node.name == last:
            break
    return most
