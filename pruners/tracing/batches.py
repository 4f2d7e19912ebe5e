"""Batches as a model takes them: inputs by position or by name, and targets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from pruners.operators import tensors_in
from pruners.tracing.trace import Trace


@dataclass(frozen=True)
class Batch:
    """Inputs and targets of some samples.

    Attributes:
        args: positional inputs.
        kwargs: keyword inputs.
        targets: labels or whatever a loss takes, None if there are none.
        free: which of `inputs` hold the samples, those of a trace; None for all tensors.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    targets: Any = None
    free: frozenset[int] | None = None

    @property
    def inputs(self) -> list[Any]:
        """All inputs in order, those in lists and dicts one by one: what a traced graph takes."""
        return pytree.tree_leaves((self.args, dict(self.kwargs)))

    def part(self, start: int, end: int) -> Batch:
        """Some of the samples."""
        leaves, spec = pytree.tree_flatten((self.args, dict(self.kwargs)))
        for place, x in enumerate(leaves):
            if isinstance(x, Tensor) and (self.free is None or place in self.free):
                leaves[place] = x[start:end]
        args, kwargs = pytree.tree_unflatten(leaves, spec)
        targets = pytree.tree_map_only(Tensor, lambda x: x[start:end], self.targets)
        return replace(self, args=args, kwargs=kwargs, targets=targets)


def as_batch(given: Any) -> Batch:
    """A batch from inputs or (inputs, targets), inputs being a tensor, a sequence in the model's order, or a dict by name.

    Raises:
        ValueError: if the inputs are something else.
    """
    inputs, targets = given, None
    if isinstance(given, (tuple, list)) and given:
        inputs, targets = given[0], given[1] if len(given) > 1 else None
    if isinstance(inputs, Tensor):
        return Batch((inputs,), {}, targets)
    if isinstance(inputs, Mapping):
        return Batch((), dict(inputs), targets)
    if isinstance(inputs, (tuple, list)) and inputs:
        return Batch(tuple(inputs), {}, targets)
    raise ValueError(
        f"`batches` must hold inputs or (inputs, targets), inputs being a tensor, a sequence or a dict, got {type(inputs).__name__}."
    )


def like_example(batches: Iterable[Any], trace: Trace, traced: bool = True) -> Iterator[Batch]:
    """Batch after batch, its inputs in the places and under the names of the example inputs.

    Plain values (flags, None) are those of the example, which the model was traced with.

    Args:
        batches: iterable of inputs, or of (inputs, targets).
        trace: of the model that takes them.
        traced: whether the traced graph is to take them, and not only the model: of the example's shapes, but for a free first
            dimension, types and device.

    Raises:
        ValueError: if there is no batch, or one that does not fit.
    """
    empty = True
    for given in batches:
        empty = False
        batch = _arranged(as_batch(given), trace)
        if traced:
            _check_tensors(batch, trace)
        yield batch
    if empty:
        raise ValueError("`batches` must hold at least one batch, got none; pass a list or a data loader.")


def _arranged(batch: Batch, trace: Trace) -> Batch:
    leaves, spec = pytree.tree_flatten((trace.args, dict(trace.kwargs)))
    places = [place for place, x in enumerate(leaves) if isinstance(x, Tensor)]
    if batch.kwargs:
        tensors = [x for name, e in trace.kwargs.items() for x in _as_many(name, batch.kwargs.get(name), e)]
        if unknown := sorted(batch.kwargs.keys() - trace.kwargs.keys()):
            raise ValueError(
                f"`batches` must name the inputs as `example_inputs` do ({', '.join(map(repr, trace.kwargs)) or 'by position'}), "
                f"got {', '.join(map(repr, unknown))} as well."
            )
    else:
        tensors = tensors_in(batch.args)
    if len(tensors) != len(places):
        raise ValueError(
            f"`batches` must hold as many inputs as `example_inputs` ({len(places)} tensors), got {len(tensors)}; write several "
            "inputs and targets as ((first, second), targets)."
        )
    for place, tensor in zip(places, tensors, strict=True):
        leaves[place] = tensor
    args, kwargs = pytree.tree_unflatten(leaves, spec)
    return replace(batch, args=args, kwargs=kwargs, free=trace.free or None)


def _as_many(name: str, given: Any, example: Any) -> list[Tensor]:
    found, wanted = tensors_in(given), len(tensors_in(example))
    if len(found) != wanted:
        raise ValueError(
            f"`batches` must hold the input {name!r} as `example_inputs` do (tensors: {wanted}), got {len(found)}; give every "
            "batch as a dict with the same names."
        )
    return found


def _check_tensors(batch: Batch, trace: Trace) -> None:
    examples = pytree.tree_leaves((trace.args, dict(trace.kwargs)))
    sizes = {x.shape[:1] for place, x in enumerate(batch.inputs) if place in trace.free}
    for place, (x, e) in enumerate(zip(batch.inputs, examples, strict=True)):
        if not isinstance(e, Tensor):
            continue
        free = int(place in trace.free)  # the first dimension
        same = x.dim() == e.dim() and x.shape[free:] == e.shape[free:] and (x.dtype, x.device) == (e.dtype, e.device)
        if not same or len(sizes) > 1:
            shape = "x".join(["N"] * free + [str(n) for n in e.shape[free:]])
            raise ValueError(
                f"`batches` must hold inputs like `example_inputs`, here {shape} of {e.dtype} on {e.device} with one N for all, "
                f"got {'x'.join(map(str, x.shape))} of {x.dtype} on {x.device}; crop, pad or convert them, or prune with example "
                "inputs like them."
            )


def real_positions(inputs: Sequence[Any], trace: Trace) -> Tensor | None:
    """Which positions of padded texts are real, (N, L): an input with `mask` in its name, of zeros and ones, says so; None if all are.

    Args:
        inputs: of the traced graph, in order.
        trace: of the model.
    """
    names = [node.name for node in trace.nodes if node.op == "placeholder" and node.name not in trace.tensors]
    for name, x in zip(names, inputs, strict=True):
        if "mask" in name and isinstance(x, Tensor) and x.dim() == 2 and bool(((x == 0) | (x == 1)).all()):
            real = x.bool()
            return None if bool(real.all()) else real
    return None


def only_real(values: Tensor, real: Tensor | None) -> Tensor:
    """The values at real positions, (P, ...), of a tensor (N, L, ...); one of another shape as it is."""
    return values if real is None or values.shape[:2] != real.shape else values[real]
