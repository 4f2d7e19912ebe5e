"""A network's graph, taken by `torch.export` and written down as plain data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import getitem
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.fx import Node

from nas.graphs.description import DTYPES, Constant, Description, Given, Held, Step, packed
from nas.graphs.operators import KNOWN, LEFT_OUT, defaults
from pruners.operators import arguments, operator
from pruners.tracing import Trace, trace
from search_spaces.core import first_line, quoted

NORM = "_native_batch_norm_legit_no_training"
PIECES = ("split", "split_with_sizes", "chunk", "unsafe_split", "unsafe_chunk", "unbind", NORM)
INPUT = {"value": 0}


class Indescribable(ValueError):
    """A network that no graph of known operators describes."""


def describe(module: nn.Module, inputs: Tensor) -> Description:
    """A network in evaluation mode as data.

    Args:
        module: left untouched; it takes one tensor and returns one.
        inputs: examples, batch first, of which there may be any number afterwards.

    Raises:
        Indescribable: what it computes depends on values, on the size of a batch or on chance, or takes an operator that no file may
            name.
    """
    try:
        traced = trace(module, (inputs,))
    except Exception as error:  # whatever the exporter says of a model
        raise Indescribable(first_line(error)) from error
    if not traced.batched or traced.sizes.rules:
        raise Indescribable("it computes other things for batches of other sizes")
    if traced.random:
        raise Indescribable(f"it draws random numbers, in {traced.random[0]}")
    if traced.choosing or traced.written:
        raise Indescribable("what it computes depends on values, or changes what it holds")
    parameters_ = dict(module.named_parameters())
    tensors = {
        name: Held(kind="parameter" if name in parameters_ else "buffer", shape=list(x.shape), dtype=_dtype(x))
        for name, x in module.state_dict().items()
    }
    found = _Record(traced, tensors)
    given = Given(shape=list(inputs.shape[1:]), dtype=_dtype(inputs))
    return Description(
        version=1,
        input=given,
        tensors=tensors,
        constants=found.constants,
        steps=found.steps,
        output=found.output,
    )


class _Record:
    """A trace, node by node: `steps`, the `constants` that they use, and which step is the `output`."""

    def __init__(self, traced: Trace, held: dict[str, Held]) -> None:
        self.traced, self.held = traced, held
        self.steps: list[Step] = []
        self.constants: dict[str, Constant] = {}
        self.known: dict[Node, dict[str, Any]] = {}
        returned: Sequence[Any] = traced.returned(traced.nodes[-1].args[0])  # type: ignore[arg-type]
        if len(returned) != 1 or not isinstance(returned[0], Node) or returned[0].op != "call_function":
            raise Indescribable("it does not return one tensor that it computes")
        needed = _needed(returned[0])
        for node in traced.nodes:
            if node in needed and not _in_pieces(node):
                self.known[node] = self._reference(node)
        self.output: int = self.known[returned[0]]["value"]

    def _reference(self, node: Node) -> dict[str, Any]:
        """What stands for a node's value; an operator becomes a step, or two."""
        if node.op == "placeholder":
            return self._held(self.traced.tensors[node.name]) if node.name in self.traced.tensors else INPUT
        source = node.args[0] if node.target is getitem else None
        if isinstance(source, Node) and _in_pieces(source):
            return self._piece(source, cast(int, node.args[1]))
        named = arguments(node)
        if not isinstance(node.target, torch._ops.OpOverload):
            named = dict(zip("ab", node.args, strict=False))
        return self._step(operator(node), named)

    def _held(self, name: str) -> dict[str, Any]:
        """A tensor of the weights file, or one that the network's code makes."""
        if name not in self.held:
            tensor = self.traced.tensor(name)
            self.constants[name] = packed(tensor, _dtype(tensor))
        return {"tensor": name}

    def _piece(self, source: Node, number: int) -> dict[str, Any]:
        """One of the tensors that an operator takes apart, as a slice, or what a norm computes."""
        named, name = arguments(source), _name(source)
        if name == NORM:
            kept = ("input", "weight", "bias", "running_mean", "running_var", "momentum", "eps")
            rest = {"training": False, "cudnn_enabled": False}
            return self._step("aten.batch_norm.default", {**{key: named[key] for key in kept}, **rest})
        if name == "unbind":
            return self._step("aten.select.int", {"self": named["self"], "dim": named["dim"], "index": number})
        sizes = [piece.shape[named["dim"]] for piece in source.meta["val"]]
        if not all(isinstance(size, int) for size in sizes):
            raise Indescribable(f"it takes a batch apart, by {operator(source)}")
        end = sum(sizes[: number + 1])
        bounds = {"start": end - sizes[number], "end": end}
        return self._step("aten.slice.Tensor", {"self": named["self"], "dim": named["dim"], **bounds})

    def _step(self, name: str, named: dict[str, Any]) -> dict[str, Any]:
        if name not in KNOWN:
            raise Indescribable(f"operator {name} has no place in a graph")
        usual = defaults(name)
        given = {
            key: self._value(value)
            for key, value in named.items()
            if key not in LEFT_OUT and not (key in usual and _same(value, usual[key]))
        }
        self.steps.append(Step(operator=name, arguments=given))
        return {"value": len(self.steps)}

    def _value(self, value: Any) -> Any:
        """An argument as data."""
        if isinstance(value, Node):
            return self.known[value]
        if isinstance(value, (list, tuple)):
            return [self._value(x) for x in value]
        if isinstance(value, float) and not math.isfinite(value):
            return {"float": str(value)}
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, torch.memory_format):
            return {"memory_format": _plain(value)}
        if isinstance(value, torch.dtype) and _plain(value) in DTYPES:
            return {"dtype": _plain(value)}
        raise Indescribable(f"an operator takes {quoted(value)}, which has no place in a graph")


def _needed(returned: Node) -> set[Node]:
    """The nodes that a result depends on."""
    found: set[Node] = set()
    waiting = [returned]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += node.all_input_nodes
    return found


def _in_pieces(node: Node) -> bool:
    """Whether each tensor that an operator returns is written down where it is taken."""
    return isinstance(node.target, torch._ops.OpOverload) and _name(node) in PIECES


def _name(node: Node) -> str:
    return operator(node).split(".")[1]


def _same(value: Any, default: Any) -> bool:
    return type(value) is type(default) and value == default


def _plain(value: object) -> str:
    return str(value).removeprefix("torch.")


def _dtype(tensor: Tensor) -> str:
    """The name of a tensor's type.

    Raises:
        Indescribable: no file may name it.
    """
    name = _plain(tensor.dtype)
    if name not in DTYPES:
        raise Indescribable(f"it holds or takes {name}, which has no place in a graph")
    return name
