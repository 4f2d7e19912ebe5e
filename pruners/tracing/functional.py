"""An exported graph without in-place operators.

`ExportedProgram.run_decompositions` does this for every model, but by tracing the whole model again, which takes longer
than the export itself. Where every in-place operator writes to a tensor without other readers, its counterpart that
returns a new tensor can take its place. Dropout and batch norms stay operators that can be switched.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch._ops import HigherOrderOperator, OpOverload
from torch.export import ExportedProgram
from torch.export._remove_effect_tokens_pass import _remove_effect_tokens
from torch.export.graph_signature import InputKind
from torch.fx import Node

from pruners.operators import rule

aten = torch.ops.aten
PUT_BACK = {aten.slice.Tensor: aten.slice_scatter.default, aten.select.int: aten.select_scatter.default}
ASSERTIONS = (
    aten._assert_scalar.default,
    aten.sym_constrain_range.default,
    aten.sym_constrain_range_for_size.default,
    aten._assert_tensor_metadata.default,
)
FILLED = {
    aten.empty.memory_format: aten.zeros.default,
    aten.new_empty.default: aten.new_zeros.default,
    aten.empty_like.default: aten.zeros_like.default,
}
FRESH = {
    *(f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3)),
    *("linear", "matmul", "batch_norm", "layer_norm", "group_norm", "instance_norm", "silu", "relu6"),
    *(f"adaptive_avg_pool{n}d" for n in (1, 2, 3)),
}  # composite operators that never return their input
SAME_MEMORY = {
    "flatten",
    "reshape",
    "contiguous",
    "dropout",
}  # composite operators that may return memory of their input, only of it


def functional(program: ExportedProgram) -> ExportedProgram:
    """The same program with no in-place operators and no wrapped regions; the given one may be changed.

    Operators that torch composes of others are taken apart if they have no rule.
    """
    for node in program.graph.nodes:
        if node.target in FILLED:  # what memory happens to hold is different every time, also where it is not used
            node.target = FILLED[node.target]
            node.kwargs = {name: value for name, value in node.kwargs.items() if name != "memory_format"}
    place = {node: i for i, node in enumerate(program.graph.nodes)}
    replaced = all(_replaced(node, place) for node in list(place) if node.op not in ("placeholder", "output"))
    compound = _without_rule(program)
    if replaced and not compound:
        return program
    known = torch.export.default_decompositions()
    apart: set[Any] = set()
    while True:
        apart |= compound
        program = program.run_decompositions({target: known[target] for target in apart if target in known})
        compound = {target for target in _without_rule(program) if target in known}
        if compound <= apart:  # what composed operators are made of may be composed as well
            break
    if any(spec.kind == InputKind.TOKEN for spec in program.graph_signature.input_specs):
        program = _remove_effect_tokens(program)  # of checks that a matrix could be inverted
    return program


def drop_assertions(program: ExportedProgram) -> None:
    """Take out what a program asserts of sizes that depend on values."""
    for node in program.graph.nodes:
        if node.target in ASSERTIONS:
            program.graph.erase_node(node)


def _without_rule(program: ExportedProgram) -> set[Any]:
    """Operators that torch composes of others and that have no rule."""
    return {
        node.target
        for node in program.graph.nodes
        if _is_composite(node.target) and rule(node) is None and _returns_tensors(node.target)
    }


def _replaced(node: Node, place: dict[Node, int]) -> bool:
    """Replace an operator that works in place; False where that, or what the operator is, needs another trace."""
    if node.op != "call_function" or isinstance(node.target, HigherOrderOperator):
        return False
    if not isinstance(node.target, OpOverload):
        return True
    if not node.target._schema.is_mutable:
        return True
    counterpart, (base, slices) = _counterpart(node.target), _written(node)
    if counterpart is None or base is None or not _alone(base, node, slices, place):
        return False
    node.target = counterpart
    result = node
    for piece in slices:  # innermost first: put what was written back into what it is a slice of
        with node.graph.inserting_after(result):
            result = node.graph.call_function(
                PUT_BACK[cast(OpOverload, piece.target)], (piece.args[0], result, *piece.args[1:])
            )
        result.meta = {**node.meta, "val": piece.args[0].meta["val"]}  # type: ignore[union-attr]
        place[result] = place[node]
    for user in [user for user in base.users if place[user] > place[node]]:
        user.replace_input_with(base, result)
    return True


def _written(node: Node) -> tuple[Node | None, list[Node]]:
    """The tensor that an in-place operator writes to, and the slices of slices of it that it writes through."""
    slices: list[Node] = []
    base = node.args[0]
    while isinstance(base, Node) and base.target in PUT_BACK and len(base.users) == 1:
        slices.append(base)
        base = base.args[0]
    return (base if isinstance(base, Node) and base.op == "call_function" else None), slices


def _counterpart(target: OpOverload) -> OpOverload | None:
    """`aten.relu` for `aten.relu_`, or None if there is no such operator."""
    packet = getattr(aten, _name(target).removesuffix("_"), None)
    overload = getattr(packet, target._overloadname, None)
    if overload is None or overload._schema.is_mutable:
        return None
    own, its = ([argument.name for argument in which._schema.arguments][1:] for which in (target, overload))
    return overload if own == its else None


def _alone(base: Node, node: Node, slices: list[Node], place: Mapping[Node, int]) -> bool:
    """Whether no other value made before an in-place operator, and used after it, can share the memory that it writes to."""
    earlier = [user for user in base.users if place[user] < place[node] and user not in slices]
    while _passes_on(base.target) and isinstance(base.args[0], Node) and len(base.args[0].users) == 1:
        base = base.args[0]
    return base.op == "call_function" and not any(_may_alias(holder.target) for holder in (base, *earlier))


def _may_alias(target: Any) -> bool:
    """Whether an operator may return memory of its input, as dropout does in evaluation."""
    if not isinstance(target, OpOverload):
        return True
    composite = _is_composite(target) and _returns_tensors(target) and _name(target) not in FRESH
    return _is_view(target) or composite


def _passes_on(target: Any) -> bool:
    """Whether what an operator returns shares memory with its first input at most."""
    return isinstance(target, OpOverload) and (_is_view(target) or _name(target) in SAME_MEMORY)


def _is_view(target: OpOverload) -> bool:
    return any(result.alias_info is not None for result in target._schema.returns)


def _returns_tensors(target: OpOverload) -> bool:
    return any("Tensor" in str(result.type) for result in target._schema.returns)


def _is_composite(target: Any) -> bool:
    return isinstance(target, OpOverload) and torch._C._dispatch_has_kernel_for_dispatch_key(
        target.name(), "CompositeImplicitAutograd"
    )


def _name(target: OpOverload) -> str:
    return target._schema.name.split("::")[1]
