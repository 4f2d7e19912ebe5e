"""Helpers for the nodes of a graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.fx import Node
from torch.utils import _pytree as pytree

from pruners.operators.routing import is_chosen, pretended
from pruners.operators.sizes import value_of


def owner(node: Node) -> str:
    """Name of the innermost module whose forward ran this operator, "" for the model itself."""
    stack = node.meta.get("nn_module_stack") or {}
    names = [name for name, _ in stack.values()]
    return names[-1].split("@")[0] if names else ""


def operator(node: Node) -> str:
    """Name of a node's operator, as "aten.conv2d.default"."""
    target = node.target
    return str(target) if isinstance(target, torch._ops.OpOverload) else getattr(target, "__name__", str(target))


def arguments(node: Node) -> dict[str, Any]:
    """Argument name to value (a node, a number, a list), the schema's defaults included."""
    values = dict(node.kwargs)
    if isinstance(node.target, torch._ops.OpOverload):
        for position, argument in enumerate(node.target._schema.arguments):
            if position < len(node.args):
                values[argument.name] = node.args[position]
            else:
                values.setdefault(argument.name, argument.default_value)
    return values


def number(value: Any) -> int:
    """An argument as an integer, also where it is symbolic.

    A dynamic size counts as in the example. A size that depends on values gets a number of its own, see `pretended`.
    """
    if isinstance(value, Node):
        value = value.meta["val"]
    if is_chosen(value):
        return pretended(value)
    return value_of(value) if isinstance(value, torch.SymInt) else int(value)


def of_size(tensor: torch.Tensor, dim: int, size: int) -> torch.Tensor:
    """A tensor with a dimension of another size: cut, or begun again where it ends."""
    return tensor.index_select(dim, torch.arange(size, device=tensor.device) % tensor.shape[dim])


def several(value: Any) -> Sequence[Any]:
    """What an operator returns as a sequence, also if it is one value."""
    return value if isinstance(value, (tuple, list)) else [value]


def tensors_in(value: Any) -> list[torch.Tensor]:
    """The tensors in a tuple, list or dict of whatever depth, in order."""
    return [x for x in pytree.tree_leaves(value) if isinstance(x, torch.Tensor)]


def is_random(node: Node) -> bool:
    """Whether an operator draws random numbers, as dropout does in training only."""
    if not isinstance(node.target, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded not in node.target.tags:
        return False
    a = arguments(node)
    return bool(a.get("train", a.get("training", a.get("dropout_p", True))))


@contextmanager
def seeded() -> Iterator[None]:
    """Draw the same random numbers every time, and leave the caller's generators as they were."""
    cuda = torch.cuda.is_initialized()
    with torch.random.fork_rng(range(torch.cuda.device_count()) if cuda else ()):
        torch.default_generator.manual_seed(0)
        if cuda:
            torch.cuda.manual_seed_all(0)
        yield


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in eval mode; give every submodule its own mode back."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
