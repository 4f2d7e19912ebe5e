"""The steps of a graph as calls of operators, and carrying them out one by one: no code is made of a graph."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from types import NoneType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nas.graphs.description import DTYPES, FORMATS, Description, Step
from nas.graphs.operators import MODES, function, parameters
from search_spaces.core import MOST_OPERATORS, quoted

TYPES = {"dtype": torch.dtype, "memory_format": torch.memory_format}
"""Arguments that torch would also take as numbers, of which some crash it."""
FLOATS = ("inf", "-inf", "nan")


class Value(NamedTuple):
    """What a step computes; 0 is the network's input."""

    step: int


class Name(NamedTuple):
    """A tensor of the network."""

    name: str


class Call(NamedTuple):
    """A step, ready to be carried out.

    Attributes:
        operator: its name.
        arguments: by name; lists of them, `Value` and `Name` stand for what is known only then.
        mode: the argument that says whether the network is trained, if there is one.
        device: whether it takes the device that its result stands on.
        spent: steps whose values no later one uses.
    """

    operator: str
    arguments: Mapping[str, Any]
    mode: str | None
    device: bool
    spent: tuple[int, ...]


def calls(graph: Description) -> list[Call]:
    """The calls of a graph.

    Raises:
        ValueError: an operator, an argument or a reference is unknown, or there are too many.
    """
    if sum(_count(step.arguments) for step in graph.steps) > 10 * MOST_OPERATORS:
        raise ValueError(f"the steps of a graph must have at most {10 * MOST_OPERATORS:,} arguments in all, got more")
    names = {*graph.tensors, *graph.constants}
    found: list[Call] = []
    last: dict[int, int] = {}
    for number, step in enumerate(graph.steps, start=1):
        try:
            call = _call(step, number, names)
        except ValueError as error:
            raise ValueError(f"step {number:,} of the graph: {error}") from None
        found.append(call)
        last |= dict.fromkeys((number, *_used(call.arguments)), number)
    spent: dict[int, list[int]] = {}
    for place, number in last.items():
        if place != graph.output:
            spent.setdefault(number, []).append(place)
    return [call._replace(spent=tuple(spent.get(number, ()))) for number, call in enumerate(found, start=1)]


def results(steps: list[Call], tensors: Mapping[str, Tensor], x: Tensor, training: bool) -> Iterator[Any]:
    """Carry out calls in order, and give what each computes; what is not needed any more is forgotten.

    Raises:
        ValueError: one cannot be carried out.
    """
    values: dict[int, Any] = {0: x}

    def filled(value: Any) -> Any:
        if isinstance(value, Value):
            return values[value.step]
        if isinstance(value, Name):
            return tensors[value.name]
        return [filled(one) for one in value] if isinstance(value, list) else value

    for number, call in enumerate(steps, start=1):
        given = {name: filled(value) for name, value in call.arguments.items()}
        if call.mode is not None:
            given[call.mode] = training
        if call.device:
            given["device"] = x.device
        result = values[number] = function(call.operator)(**given)
        yield result
        for place in call.spent:
            del values[place]


def _call(step: Step, number: int, names: Collection[str]) -> Call:
    function(step.operator)
    known = parameters(step.operator)
    for name in step.arguments:
        if name not in known or name == "device":
            raise ValueError(f"arguments of {step.operator} must be among {', '.join(known)}, got {quoted(name)}")
    given = {name: _argument(value, number, names) for name, value in step.arguments.items()}
    for name, value in given.items():
        kind = TYPES.get(name)
        if (
            isinstance(value, (torch.dtype, torch.memory_format))
            if kind is None
            else not isinstance(value, (kind, NoneType))
        ):
            raise ValueError(f"`{name}` of {step.operator} must be of its kind, got {quoted(step.arguments[name])}")
    mode = MODES.get(step.operator)
    if mode is not None and given.get(mode) is not False:  # it is always as in training
        mode = None
    return Call(step.operator, given, mode, "device" in known, ())


def _argument(value: Any, number: int, names: Collection[str]) -> Any:
    """What an argument in a file stands for."""
    if isinstance(value, list):
        return [_argument(one, number, names) for one in value]
    if not isinstance(value, dict):
        return value
    ((kind, said),) = value.items() if len(value) == 1 else ((None, None),)
    if kind == "value" and type(said) is int and 0 <= said < number:
        return Value(said)
    if isinstance(said, str):
        if kind == "tensor" and said in names:
            return Name(said)
        if kind == "dtype" and said in DTYPES:
            return DTYPES[said]
        if kind == "memory_format" and said in FORMATS:
            return FORMATS[said]
        if kind == "float" and said in FLOATS:
            return float(said)
    raise ValueError(
        f"an argument must be a plain value, a list, an earlier step's value, a tensor of the graph, or a type, got {quoted(value)}"
    )


def _count(value: Any) -> int:
    """How many values an argument holds."""
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else None
    return 1 if inner is None else sum(map(_count, inner))


def _used(value: Any) -> Iterator[int]:
    """The steps whose values arguments take."""
    if isinstance(value, Value):
        yield value.step
    elif isinstance(value, (list, Mapping)):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from _used(one)
