"""What a graph in a file computes, by its shapes alone, before anything is made of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from nas.graphs.calls import Call, results
from nas.graphs.description import DTYPES, Description
from search_spaces.core import LARGEST_INPUT, MOST_OPERATORS, first_line, quoted

LARGEST_SIZE = 2**53
DEEPEST_NAME = 100
TAKEN = frozenset((*dir(nn.Module()), "_graph"))
"""What a module calls its own parts."""
BATCHES = (1, 2)


def check_weights(graph: Description, weights: Mapping[str, Tensor]) -> None:
    """Raise ValueError where a graph names other tensors than there are, or of another shape or type."""
    if graph.tensors.keys() != weights.keys():
        name = sorted(graph.tensors.keys() ^ weights.keys())[0]
        raise ValueError(f"must be of the weights beside it, got {quoted(name)} in one of them alone")
    for name, held in graph.tensors.items():
        found = weights[name]
        if (held.shape, DTYPES[held.dtype]) != (list(found.shape), found.dtype):
            raise ValueError(
                f"must be of the weights beside it, got {quoted(name)} of {quoted(held.shape)} {held.dtype} for "
                f"{list(found.shape)} {str(found.dtype).removeprefix('torch.')}"
            )


def check_names(names: Iterable[str]) -> None:
    """Raise ValueError where tensors cannot stand under their names in modules, or would take too many modules or levels."""
    tensors, modules = set(names), {""}
    for name in tensors:
        parts = name.split(".")
        if len(parts) > DEEPEST_NAME or any(not part or part in TAKEN for part in parts):
            raise ValueError(
                f"the name of a tensor must be words joined by dots, none of a module's own, got {quoted(name)}"
            )
        for end in range(len(parts) - 1, 0, -1):
            module = ".".join(parts[:end])
            if module in modules:
                break
            modules.add(module)
        if len(modules) > MOST_OPERATORS:
            raise ValueError(f"a graph must have at most {MOST_OPERATORS:,} modules, got more")
    if both := sorted(modules & tensors):
        raise ValueError(f"a name must be of a tensor or of a module, got {quoted(both[0])} for both")


def check_sizes(graph: Description, steps: list[Call], tensors: Mapping[str, Tensor]) -> None:
    """Carry out a graph without numbers, and count those that it would hold at once.

    Raises:
        ValueError: a step cannot be carried out, or one example takes more than `LARGEST_INPUT` numbers at once.
    """
    shapes = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
    for batch in BATCHES:
        x = torch.empty([batch, *graph.input.shape], dtype=DTYPES[graph.input.dtype], device="meta")
        sizes, total, running = {0: x.numel()}, x.numel(), results(steps, shapes, x, training=False)
        for number, call in enumerate(steps, start=1):
            where = f"step {number:,} of the graph, {call.operator},"
            try:
                value = next(running)
            except Exception as error:  # whatever torch says of such arguments
                raise ValueError(f"{where} must be of arguments that it takes, got {first_line(error)}") from None
            sizes[number] = _size(value, where)
            total += sizes[number]
            if total > batch * LARGEST_INPUT:
                raise ValueError(f"{where} must leave at most {LARGEST_INPUT:,} numbers in memory, got more")
            total -= sum(sizes.pop(place) for place in call.spent)
            if number == graph.output and not isinstance(value, Tensor):
                raise ValueError(f"{where} is the output and must be a tensor, got {quoted(value)}")


def _size(value: object, where: str) -> int:
    """How many numbers a value holds; torch crashes on some that hold none."""
    values = value if isinstance(value, tuple) else (value,)
    if values and all(isinstance(one, Tensor) and one.numel() for one in values):
        return sum(one.numel() for one in values)
    if type(value) is int and abs(value) <= LARGEST_SIZE:
        return 1
    raise ValueError(f"{where} must compute tensors that hold something, or a size, got {quoted(value)}")
