"""A pruning plan: plain data that says what a model loses, and how to find it again in a fresh instance."""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import count, islice
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from torch import nn
from torch.fx import GraphModule

from pruners.groups import AxisGraph, Group
from pruners.operators import Axis, operator
from pruners.surgery.folding import Factors
from search_spaces.core import LARGEST_INPUT, MOST_DIMENSIONS, check_json, quoted

# 2 knew no inputs in lists, tuples and dicts, 3 no free sizes but the batch, 4 no plans before it and no dropped layers, 5 no ranks
VERSION = 6
READABLE = (2, 3, 4, 5, VERSION)
Index = Annotated[int, Field(ge=0)]
Rank = Annotated[int, Field(ge=1)]
REMEMBERED = "_pruned_by"  # where a model holds the plan that made it


class TensorInput(BaseModel, extra="forbid", strict=True):
    """An input tensor: its shape, and its type in torch's words."""

    shape: list[Index]
    dtype: str


class PlainInput(BaseModel, extra="forbid", strict=True):
    """An input that is no tensor."""

    value: bool | int | float | str | None


class SequenceInput(BaseModel, extra="forbid", strict=True):
    """Inputs in a list or a tuple."""

    kind: Literal["list", "tuple"]
    items: list[Input]


class NamedInput(BaseModel, extra="forbid", strict=True):
    """Inputs in a dict."""

    named: dict[str, Input]


Input = TensorInput | PlainInput | SequenceInput | NamedInput


class Inputs(BaseModel, extra="forbid", strict=True):
    """Example inputs by position and by name."""

    args: list[Input]
    kwargs: dict[str, Input]


@dataclass(frozen=True)
class PruningPlan:
    """What is removed from a model.

    Attributes:
        fingerprint: of the traced model: its tensors' names and shapes and its operators.
        removed: group name to the indices that go, ascending; of a ragged group to a list of them per index of its host.
        sizes: group name to the number of indices before.
        form: "module" (a cut copy of the module) or "graph" (the rewritten graph).
        inputs: the example inputs as shapes, types and plain values, from which the model is traced again.
        blocks: names of residual blocks that are left out.
        mended: names of the attributes that change with the sizes, in a module; None for all that could.
        every_size: whether the model was traced with every size of its inputs free, not the batch only.
        least: smallest that a free size of a graph may be, by name; 1 where it is not there.
        before: plans that made the model of the original, the first one first, each without any before it.
        dropped: names of the layers that went from their list in a module; those behind them have other names there.
        attributes: in a module, new values of mended attributes whose names do not tell them.
        folded: in a module, what parameters were multiplied by, since the forward computes another constant from a smaller size.
        ranks: name of a layer that became two to how many outputs the first of them has.
        repeated: names of residual blocks that run twice, in a graph.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    fingerprint: str
    removed: Mapping[str, Sequence[Index] | Sequence[Sequence[Index]]]
    sizes: Mapping[str, Index]
    form: str
    inputs: Mapping[str, Any]
    blocks: Sequence[str] = ()
    mended: Sequence[str] | None = None
    every_size: bool = False
    least: Mapping[str, Index] = field(default_factory=dict)
    dropped: Sequence[str] = ()
    attributes: Mapping[str, int | float | Sequence[int]] = field(default_factory=dict)
    folded: Mapping[str, Factors] = field(default_factory=dict)
    ranks: Mapping[str, Rank] = field(default_factory=dict)
    repeated: Sequence[str] = ()
    version: int = VERSION
    before: Sequence[PruningPlan] = ()

    @property
    def chain(self) -> tuple[PruningPlan, ...]:
        """The plans from the original model to the smaller one, this one last, each without any before it."""
        return tuple(replace(step, before=()) for step in (*self.before, self))

    @property
    def multiplied(self) -> dict[str, Factors]:
        """`folded` by the names that parameters have once layers are two."""
        return {self.name_of(name): factors for name, factors in self.folded.items()}

    def name_of(self, tensor: str) -> str:
        """What a parameter of the full model is called where its layer may have become two: that which its outputs come from."""
        layer, _, key = tensor.rpartition(".")
        return f"{layer}.1.{key}" if layer in self.ranks else tensor

    def full_name(self, name: str) -> str:
        """What a tensor or module of the smaller model is called in the full one."""
        return full_name(name, self.dropped)

    def to_json(self) -> str:
        """The plan as JSON text."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> PruningPlan:
        """Read a plan; anything that is not one is refused.

        Raises:
            ValueError: if the text is no plan of this version.
        """
        check_json(text)
        try:
            plan = TypeAdapter(cls).validate_json(text)
            for step in plan.chain:
                Inputs.model_validate(step.inputs)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "the text"
            raise ValueError(
                f"a plan must be JSON with the fields of `PruningPlan`, got {quoted(first['input'])} for {where} "
                f"({first['msg']}); save it again."
            ) from error
        for step in plan.chain:
            if step.version not in READABLE:
                known = " or ".join(map(str, READABLE))
                raise ValueError(f"plan version must be {known}, got {step.version}; save it again with this release.")
            if step.form not in ("module", "graph"):
                raise ValueError(f"`form` of a plan must be 'module' or 'graph', got {step.form!r}.")
        if any(step.before for step in plan.before):
            raise ValueError("a plan `before` another must have none before itself, got a nested one; save it again.")
        return plan


def full_name(name: str, dropped: Sequence[str]) -> str:
    """What a tensor or module is called in a model whose lists still have the layers that were dropped."""
    gone: defaultdict[str, set[int]] = defaultdict(set)
    for layer in dropped:
        holder, _, index = layer.rpartition(".")
        gone[holder].add(int(index))
    parts: list[str] = []
    for part in name.split("."):
        missing = gone.get(".".join(parts), ())
        parts.append(str(next(islice((i for i in count() if i not in missing), int(part), None))) if missing else part)
    return ".".join(parts)


class OtherModel(ValueError):
    """A plan was made for another model."""


def remember(model: nn.Module, plan: PruningPlan) -> None:
    """Let a smaller model know the plan that made it, so that a plan for what is pruned from it can start at the original.

    It holds it as text: a pickled module must be read also where this package is not.
    """
    _memory(model)[REMEMBERED] = (plan.to_json(), _tensor_shapes(model))


def remembered(model: nn.Module) -> PruningPlan | None:
    """The plan that made a model; None if no plan did, or its tensors have other names or shapes since."""
    text, shapes = _memory(model).get(REMEMBERED, (None, None))
    return PruningPlan.from_json(text) if text is not None and shapes == _tensor_shapes(model) else None


def form_of(model: nn.Module) -> str | None:
    """The form of a model that a plan made, "module" or "graph"; None if no plan did."""
    plan = remembered(model)
    return None if plan is None else plan.form


def _memory(model: nn.Module) -> dict[str, Any]:
    """What is copied with a model; of a graph its notes, as a copy of it has no other attributes."""
    return model.meta if isinstance(model, GraphModule) else model.__dict__


def _tensor_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in (*model.named_parameters(), *model.named_buffers())}


def make_plan(
    graph: AxisGraph,
    groups: Sequence[Group],
    keep: Mapping[Axis, torch.Tensor],
    form: str,
    mended: Sequence[str] | None = None,
) -> PruningPlan:
    """Write down a removal."""
    touched = [group for group in groups if group.axis in keep]
    removed = {group.name: _indices(~keep[group.axis]) for group in touched}
    inputs = describe_inputs(graph.trace.args, graph.trace.kwargs)
    sizes = {group.name: group.size for group in touched}
    return PruningPlan(fingerprint(graph), removed, sizes, form, inputs, mended=mended)


def kept_by(plan: PruningPlan, graph: AxisGraph, groups: Sequence[Group]) -> dict[Axis, torch.Tensor]:
    """Find a plan's removal in a freshly traced model.

    Raises:
        OtherModel: if the plan was made for another model.
        ValueError: if it removes what the model does not have.
    """
    if plan.fingerprint != fingerprint(graph):
        raise OtherModel(
            f"a plan must be applied to the model it was made for, got one with fingerprint {fingerprint(graph)} where the "
            f"plan has {plan.fingerprint}; build the model with the same configuration and input shapes. A model that was pruned "
            "before is first made again from the earlier plans, in order, which this plan does not hold."
        )
    by_name = {group.name: group for group in groups}
    keep = {}
    for name, indices in plan.removed.items():
        group = by_name.get(name)
        kept = None if group is None or group.protected else _kept(indices, group)
        if group is None or kept is None:
            raise ValueError(
                f"a plan must remove some indices of groups that the model has, of a ragged group as many for each index of its "
                f"host, got {name!r}: {quoted(indices)}."
            )
        keep[group.axis] = kept
    return keep


def _indices(gone: torch.Tensor) -> Any:
    """Which indices are True, for each row if there are rows."""
    return gone.nonzero().flatten().tolist() if gone.dim() == 1 else [_indices(row) for row in gone]


def _kept(indices: Any, group: Group) -> torch.Tensor | None:
    """What is left of a group without some indices, one list or one per index of its host; None if they do not fit."""
    if not isinstance(indices, list):
        return None
    in_rows = bool(indices) and all(isinstance(row, list) for row in indices)
    rows = indices if in_rows else [indices]
    if in_rows and group.shape != (len(rows), group.size):
        return None
    if not all(isinstance(index, int) and 0 <= index < group.size for row in rows for index in row):
        return None
    keep = torch.ones(len(rows), group.size, dtype=torch.bool)
    for row, gone in zip(keep, rows, strict=True):
        row[gone] = False
    left = keep.sum(1)
    return (keep if in_rows else keep[0]) if left[0] > 0 and bool((left == left[0]).all()) else None


def fingerprint(graph: AxisGraph) -> str:
    """Sixteen hexadecimal digits that two traces share if their tensors and operators agree."""
    tensors = [(name, [axis.size for axis in dims]) for name, dims in graph.tensors.items()]
    operators = [operator(node) for node in graph.trace.nodes if node.op == "call_function"]
    return hashlib.sha256(json.dumps([tensors, operators]).encode()).hexdigest()[:16]


def describe_inputs(args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Example inputs as plain data: tensors by shape and type, other values as they are, also in lists, tuples and dicts.

    Raises:
        ValueError: if there is anything else among them.
    """
    return {"args": [_described(x) for x in args], "kwargs": {name: _described(x) for name, x in kwargs.items()}}


def _described(value: Any) -> dict[str, Any]:
    if isinstance(value, torch.Tensor):
        return {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"value": value}
    if type(value) in (list, tuple):
        return {"kind": type(value).__name__, "items": [_described(x) for x in value]}
    if type(value) is dict and all(isinstance(name, str) for name in value):
        return {"named": {name: _described(x) for name, x in value.items()}}
    raise ValueError(
        "`example_inputs` must be tensors or plain values, or lists, tuples and dicts by name of them, got "
        f"{type(value).__name__}; wrap the model."
    )


def example_inputs(inputs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Inputs of the described shapes and types, filled with zeros.

    Raises:
        ValueError: if a type is none of torch, or all tensors together would have more than `LARGEST_INPUT` numbers.
    """
    numbers = 0
    for shape in (shape for item in (*inputs["args"], *inputs["kwargs"].values()) for shape in _shapes(item)):
        if len(shape) > MOST_DIMENSIONS:
            raise ValueError(f"an input of a plan must have at most {MOST_DIMENSIONS} dimensions, got {len(shape):,}.")
        numbers += math.prod(max(size, 1) for size in shape)
        if numbers > LARGEST_INPUT:
            raise ValueError(
                f"the inputs of a plan must have at most {LARGEST_INPUT:,} numbers together, got more at shape {quoted(shape)}."
            )
    return tuple(map(_restored, inputs["args"])), {name: _restored(item) for name, item in inputs["kwargs"].items()}


def _shapes(item: Mapping[str, Any]) -> Iterator[list[int]]:
    """The shapes of the tensors in an input."""
    if "shape" in item:
        yield item["shape"]
    for inner in (*item.get("items", ()), *item.get("named", {}).values()):
        yield from _shapes(inner)


def _restored(item: Mapping[str, Any]) -> Any:
    if "value" in item:
        return item["value"]
    if "items" in item:
        items = [_restored(x) for x in item["items"]]
        return tuple(items) if item["kind"] == "tuple" else items
    if "named" in item:
        return {name: _restored(x) for name, x in item["named"].items()}
    dtype = getattr(torch, item["dtype"], None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"`dtype` of an input must be a torch type, got {quoted(item['dtype'])}.")
    return torch.zeros(item["shape"], dtype=dtype)


def unique_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state of a model with shared tensors under their first name only."""
    seen: set[tuple[int, torch.Size, tuple[int, ...]]] = set()
    result = {}
    for name, tensor in model.state_dict().items():
        key = (tensor.data_ptr(), tensor.shape, tensor.stride())
        if tensor.numel() == 0 or key not in seen:
            seen.add(key)
            result[name] = tensor.contiguous()
    return result
