"""An exported graph without in-place operators.

`ExportedProgram.run_decompositions` does this for every model, but by tracing the whole model again, which takes longer
than the export itself. Where every in-place operator writes to a tensor that nothing else can see, replacing it by its
counterpart that returns a new tensor is enough, and dropout and batch norms stay operators that can be switched.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch._ops import HigherOrderOperator, OpOverload
from torch.export import ExportedProgram
from torch.fx import Node

aten = torch.ops.aten
VIEWS = {"reshape", "flatten", "unflatten", "reshape_as", "chunk", "contiguous", "to"}  # composite ones with a rule
FRESH = {
    *(f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3)),
    *("linear", "matmul", "batch_norm", "layer_norm", "group_norm", "instance_norm", "silu", "relu6"),
}  # composite operators that never return their input


def functional(program: ExportedProgram) -> ExportedProgram:
    """The same program with no in-place operators and no wrapped regions; the given one may be changed."""
    place = {node: i for i, node in enumerate(program.graph.nodes)}
    replaced = _replacements(place)
    if replaced is None:
        return program.run_decompositions({})
    for node, target in replaced.items():
        node.target = target
        changed = node.args[0]
        assert isinstance(changed, Node)
        for user in [user for user in changed.users if place[user] > place[node]]:
            user.replace_input_with(changed, node)
    return program


def _replacements(place: Mapping[Node, int]) -> dict[Node, OpOverload] | None:
    """In-place operators and what they become, in order of execution; None where replacing them is not enough."""
    found: dict[Node, OpOverload] = {}
    for node in place:
        if node.op in ("placeholder", "output"):
            continue
        if node.op != "call_function" or isinstance(node.target, HigherOrderOperator):
            return None
        if not isinstance(node.target, OpOverload):
            continue
        if node.target._schema.is_mutable:
            counterpart = _counterpart(node.target)
            if counterpart is None or not _alone(node, place, found):
                return None
            found[node] = counterpart
        elif _is_view(node.target) and _is_composite(node.target) and _name(node.target) not in VIEWS:
            return None
    return found


def _counterpart(target: OpOverload) -> OpOverload | None:
    """`aten.relu` for `aten.relu_`, or None if there is no such operator."""
    packet = getattr(aten, _name(target).removesuffix("_"), None)
    overload = getattr(packet, target._overloadname, None)
    names = [argument.name for argument in target._schema.arguments]
    if overload is None or overload._schema.is_mutable:
        return None
    return overload if [argument.name for argument in overload._schema.arguments] == names else None


def _alone(node: Node, place: Mapping[Node, int], replaced: Mapping[Node, OpOverload]) -> bool:
    """Whether nothing but the first argument of an in-place operator can hold the memory that it writes to."""
    changed = node.args[0]
    if not isinstance(changed, Node) or changed.op != "call_function":
        return False
    earlier = [user for user in changed.users if place[user] < place[node]]
    if any(user in replaced for user in earlier):
        return False
    return not any(_may_alias(replaced.get(holder, holder.target)) for holder in (changed, *earlier))


def _may_alias(target: Any) -> bool:
    """Whether an operator may return memory of its input, as dropout does in evaluation."""
    if not isinstance(target, OpOverload):
        return True
    return _is_view(target) or (_is_composite(target) and _name(target) not in FRESH)


def _is_view(target: OpOverload) -> bool:
    return any(result.alias_info is not None for result in target._schema.returns)


def _is_composite(target: OpOverload) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(target.name(), "CompositeImplicitAutograd")


def _name(target: OpOverload) -> str:
    return target._schema.name.split("::")[1]
