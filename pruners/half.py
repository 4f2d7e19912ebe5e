"""Models in half precision: scored, cut and proved as a copy in float32, and built again in their own types."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from pruners.groups import split_inputs
from pruners.progress import Batches
from pruners.result import PruneResult, count
from pruners.surgery import (
    Removal,
    computed_tensors,
    configure,
    describe_inputs,
    find_again,
    fingerprint,
    rebuild,
    remember,
    run_example,
)
from pruners.tracing import trace

HALF = (torch.float16, torch.bfloat16)
BYTES = "weight_bytes"


def is_half(model: nn.Module) -> bool:
    """Whether any weight of a model is in half precision."""
    return isinstance(model, nn.Module) and any(p.dtype in HALF for p in model.parameters())


def in_float32(model: nn.Module) -> nn.Module:
    """A copy of a model in half precision in float32; another model as it is."""
    return copy.deepcopy(model, computed_tensors(model)).float() if is_half(model) else model


def inputs_in_float32(given: Any) -> Any:
    """Inputs, those in half precision in float32."""
    return pytree.tree_map_only(torch.Tensor, lambda x: x.float() if x.dtype in HALF else x, given)


def batches_in_float32(batches: Iterable[Any]) -> Batches:
    """Batches, what is in half precision in them in float32; kept in memory if they are not a list or a loader."""
    return _InFloat32(batches if isinstance(batches, Sized) else list(batches))


@dataclass(frozen=True)
class _InFloat32:
    batches: Batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        yield from map(inputs_in_float32, self.batches)


def wider_targets(targets: Mapping[str, Any], model: nn.Module, wide: nn.Module) -> dict[str, Any]:
    """Targets of a copy in float32: bytes above 1 by as many times as its weights are larger."""
    larger = _bytes(wide) / _bytes(model)
    scale = {BYTES: larger} if isinstance(targets.get(BYTES), (int, float)) and targets[BYTES] > 1 else {}
    return {name: value * scale.get(name, 1) if name in scale else value for name, value in targets.items()}


def in_own_types(result: PruneResult, model: nn.Module, example_inputs: Any) -> PruneResult:
    """The smaller model of a plan that was proved on a copy in float32, built from the model in half precision.

    Args:
        result: of the copy.
        model: in half precision.
        example_inputs: of the model, in its own types.

    Raises:
        ValueError: if it does not return numbers in the shapes that the proved one does.
    """
    args, kwargs = split_inputs(example_inputs)
    removal: Removal = find_again(result.plan, trace(model, args, kwargs, result.plan.every_size))
    plan = replace(result.plan, fingerprint=fingerprint(removal.graph), inputs=describe_inputs(args, kwargs))
    smaller = rebuild(plan, removal, model)
    outputs, proved = run_example(smaller, removal.graph.trace), _outputs(result.model, removal)
    if [x.shape for x in outputs] != [x.shape for x in proved] or any(x.isnan().any() for x in outputs):
        raise ValueError(
            "a smaller model in half precision must return numbers where its copy in float32 does, got NaN or other shapes; prune "
            "`model.float()`."
        )
    remember(smaller, plan)
    before, after = count(model, args, kwargs), count(smaller, args, kwargs)
    summary = result.summary
    asked = {name: dict(found) for name, found in summary.targets.items()}
    if BYTES in asked:
        narrower = before[BYTES] / summary.before[BYTES]
        asked[BYTES] = {name: value * narrower for name, value in asked[BYTES].items()} | {"measured": after[BYTES]}
    summary = replace(
        summary,
        before={**summary.before, BYTES: before[BYTES]},
        after={**summary.after, BYTES: after[BYTES]},
        targets=asked,
        configuration=configure(smaller, model, removal),
    )
    return PruneResult(smaller, plan, summary)


def _outputs(proved: nn.Module, removal: Removal) -> list[torch.Tensor]:
    wide = inputs_in_float32((removal.graph.trace.args, dict(removal.graph.trace.kwargs)))
    return run_example(proved, replace(removal.graph.trace, args=wide[0], kwargs=wide[1]))


def _bytes(model: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())
