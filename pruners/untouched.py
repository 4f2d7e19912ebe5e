"""Running a given model: afterwards everything that it holds is what it was, whatever its forward does.

A forward may write to its own module: a window cut to the input's size, a table grown to its length, a list of features, a
counter. What it wrote at one size is wrong at another. So every run of a given model is inside `untouched`, which remembers what
the model holds and puts it back. The model itself runs, not a copy: some models cannot be copied, a forward may belong to
another module, and weights would take their memory twice.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, fx, nn

# What is in them is not the model's, or never changes
ATOMS = (
    type,
    ModuleType,
    FunctionType,
    logging.Logger,
    torch.optim.Optimizer,
    fx.Graph,
    str,
    bytes,
    int,
    float,
    complex,
)
HELD = 2**30  # bytes of values that are remembered where nobody knows which of them the model writes to
Undo = Callable[[], object]


@contextmanager
def untouched(model: nn.Module, written: Collection[str] | None = None) -> Iterator[None]:
    """Run a model in eval mode; afterwards it holds what it held before, also where the run failed.

    Everything counts that is reached from the model through modules, containers and the attributes of objects: which objects there
    are, memory, gradients and `requires_grad` of tensors, and the values of buffers and other tensors. Objects with a lock belong
    to other threads, too, and are left alone.

    Args:
        model: any module.
        written: names of the parameters and buffers that the model writes to in place, see `Trace.written`. The values of other
            parameters are not remembered, as that takes their memory again. If None, nobody knows; then those of all are, if they
            take at most 1 GiB. Of buffers and other tensors, too, no more than 1 GiB is remembered that is not named here.
    """
    undo = _undo(model, written)
    try:
        if any(part.training for part in model.modules()):  # else a graph would be compiled again
            model.eval()
        yield
    finally:
        for step in undo:
            step()


def _undo(model: nn.Module, written: Collection[str] | None) -> list[Undo]:
    """Steps that take back what a run changes, in order."""
    things = _reached(model)
    tensors = [x for x in things if isinstance(x, Tensor)]
    gradients = [x.grad for x in tensors if x.is_leaf and x.grad is not None]
    return [
        *(partial(_rewire, x, {n: n.args for n in x.graph.nodes}) for x in things if isinstance(x, fx.GraphModule)),
        *(partial(_refill, x, _content(x)) for x in things if isinstance(x, (dict, list, set, deque))),
        *(partial(_redirect, x, x.detach()) for x in (*gradients, *tensors)),
        *(partial(_mark, x, x.requires_grad, x.grad) for x in tensors if x.is_leaf),
        *(partial(_rewrite, x, x.clone()) for x in _values(model, tensors, written)),
        *(partial(torch.Generator.set_state, x, x.get_state()) for x in things if isinstance(x, torch.Generator)),
    ]


def _values(model: nn.Module, tensors: Iterable[Tensor], written: Collection[str] | None) -> list[Tensor]:
    """The memory whose values are remembered, each once, as bytes."""
    named = dict(model.named_buffers(remove_duplicate=False)) | dict(model.named_parameters(remove_duplicate=False))
    known = _memory(named[name] for name in written or () if name in named)
    weights = _memory(x for x in tensors if isinstance(x, nn.Parameter))
    others = _memory(x for x in tensors if not isinstance(x, nn.Parameter))
    others = {place: data for place, data in others.items() if place not in weights}
    return list({**known, **_few(others), **(_few(weights) if written is None else {})}.values())


def _memory(tensors: Iterable[Tensor]) -> dict[int, Tensor]:
    """The memory that tensors are in, also beside what they show of it."""
    return {place: _bytes(x) for x in tensors if (place := _storage(x)) is not None}


def _few(memory: dict[int, Tensor]) -> dict[int, Tensor]:
    return memory if sum(x.numel() for x in memory.values()) <= HELD else {}


def _reached(model: nn.Module) -> list[Any]:
    """Everything that a model holds, each once."""
    found: dict[int, Any] = {}
    waiting: list[Any] = [model]
    while waiting:
        x = waiting.pop()
        if id(x) not in found and x is not None and not isinstance(x, ATOMS):
            found[id(x)] = x
            waiting += _inside(x)
    return list(found.values())


def _inside(x: Any) -> list[Any]:
    if isinstance(x, dict):
        return list(dict.values(x))
    if isinstance(x, (list, tuple, set, frozenset, deque)):
        return list(x)
    if isinstance(x, MethodType):
        return [x.__self__]
    if isinstance(x, partial):
        return [x.func, x.args, x.keywords]
    held = getattr(x, "__dict__", None)
    if isinstance(x, Tensor) or not isinstance(held, dict):
        return []
    shared = any(type(value).__module__ == "_thread" for value in held.values())
    return [] if shared and not isinstance(x, nn.Module) else [held]


def _content(x: Any) -> list[Any]:
    """What a container holds, in order; of a dict the keys, then the values."""
    return [*_plain(x).keys(x), *_plain(x).values(x)] if isinstance(x, dict) else list(x)


def _refill(x: Any, before: list[Any]) -> None:
    if list(map(id, _content(x))) == list(map(id, before)):
        return
    if isinstance(x, dict):
        half = len(before) // 2
        _plain(x).clear(x)
        for key, value in zip(before[:half], before[half:], strict=True):
            _plain(x).__setitem__(x, key, value)
    elif isinstance(x, list):
        x[:] = before
    else:
        x.clear()
        (x.update if isinstance(x, set) else x.extend)(before)


def _plain(x: dict[Any, Any]) -> type[dict[Any, Any]]:
    """The class whose methods change a dict and do nothing else."""
    return OrderedDict if isinstance(x, OrderedDict) else dict


def _redirect(x: Tensor, data: Tensor) -> None:
    """Point a tensor to the memory that it had."""
    if _place(x) != _place(data):
        x.data = data


def _mark(x: Tensor, requires_grad: bool, grad: Tensor | None) -> None:
    if x.requires_grad != requires_grad:
        x.requires_grad_(requires_grad)
    if x.grad is not grad:
        x.grad = grad


def _rewrite(data: Tensor, before: Tensor) -> None:
    if not torch.equal(data, before):
        data.copy_(before)


def _rewire(x: fx.GraphModule, args: dict[fx.Node, Any]) -> None:
    """Give the operators of a graph the arguments that its `eval` changed."""
    changed = [node for node in args if node.args is not args[node]]
    for node in changed:
        node.args = args[node]
    if changed:
        x.recompile()


def _place(x: Tensor) -> tuple[Any, ...]:
    return _storage(x), x.dtype, tuple(x.shape), x.layout == torch.strided and (x.stride(), x.storage_offset())


def _storage(x: Tensor) -> int | None:
    """What memory a tensor is in; None for one without memory of its own (sparse, or on the meta device)."""
    try:
        memory = x.untyped_storage()
        return None if memory.device.type == "meta" else memory._cdata
    except (NotImplementedError, RuntimeError):
        return None


def _bytes(x: Tensor) -> Tensor:
    """All the memory that a tensor is in, also beside what it shows of it."""
    with torch.inference_mode(x.is_inference()):
        return torch.empty(0, dtype=torch.uint8, device=x.device).set_(x.untyped_storage())
