"""Rows chosen by their values, as experts see the tokens routed to them, in one graph for every choice.

`torch.export` gives chosen rows a size that depends on data. It stops where Python branches on such a size: has this
expert any tokens? During tracing, every such question is answered as if rows were chosen everywhere. So every expert is
in the graph, and one without tokens runs on no rows. `NothingChosen` serves the proof of this: model and graph run as
if no row was chosen anywhere.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import Node
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from pruners.operators.sizes import known_sizes, value_of

aten = torch.ops.aten
SEVERAL = 2  # rows that are chosen at least: neither none nor one, which would broadcast
FIRST_PRIME = 1000  # sizes that depend on values count as primes from the thousandth on

COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")

CHOOSING = {
    *(torch.where, torch.nonzero, torch.argwhere, torch.masked_select),
    *(Tensor.where, Tensor.nonzero, Tensor.argwhere, Tensor.masked_select, Tensor.__getitem__),
}
ASKING = {torch.any, Tensor.any}
COUNTING = {torch.sum, Tensor.sum, torch.count_nonzero, Tensor.count_nonzero, torch.bincount, Tensor.bincount}
COMPARING: dict[Any, Callable[[int, int], bool]] = {
    **{getattr(home, name): getattr(operator, name) for name in COMPARISONS for home in (torch, Tensor)},
    **{getattr(Tensor, f"__{name}__"): getattr(operator, name) for name in COMPARISONS},
    torch.greater: operator.gt,
    Tensor.greater: operator.gt,
}
MOVING = {
    *(Tensor.__getitem__, Tensor.flatten, Tensor.squeeze, Tensor.view, Tensor.reshape, Tensor.unsqueeze),
    *(Tensor.cpu, Tensor.to, Tensor.int, Tensor.long, Tensor.detach, Tensor.unbind),
}
READING: dict[Any, Callable[[int], Any]] = {
    Tensor.item: lambda x: x,
    Tensor.__bool__: bool,
    Tensor.__int__: int,
    Tensor.__index__: int,
}


class _All(NamedTuple):
    """The indices 0..size-1."""

    size: int


class _Several(NamedTuple):
    """A count, or several, of at least `SEVERAL`."""


Known = _All | _Several | int


class SomethingChosen(TorchFunctionMode):
    """Answers what Python asks about choices as if something was chosen everywhere.

    Attributes:
        asked: whether anything was chosen, or asked about a choice.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked = False
        self._known: dict[int, tuple[Tensor, Known]] = {}  # by identity, with the tensor so that it lives

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        first: Any = args[0] if args else None
        kwargs = kwargs or {}
        known = self._about(first)
        if isinstance(known, _All) and func is Tensor.unbind:  # as loops and `tolist` do
            self.asked = True
            return self._each(first, known)
        if isinstance(known, int) and func in READING:
            self.asked = True
            return READING[func](known)
        if type(known) is int and func is Tensor.__format__ and not first.dim():  # as the name of an expert
            self.asked = True
            return format(known, *args[1:])
        if func is Tensor.__len__ and first.dim() and is_chosen(first.shape[0]):
            return pretended(first.shape[0])
        if func is Tensor.__getitem__:
            args = (first, pytree.tree_map_only(Tensor, self._as_index, args[1]))
        result = func(*args, **kwargs)
        self._note(func, args, kwargs, known, result)
        return result

    def _about(self, value: Any) -> Known | None:
        return self._known[id(value)][1] if id(value) in self._known else None

    def _learn(self, tensor: Tensor, known: Known) -> None:
        self._known[id(tensor)] = tensor, known

    def _each(self, indices: Tensor, known: _All) -> list[Tensor]:
        """The indices one by one."""
        found = [torch.tensor([i] if indices.dim() > 1 else i, device=indices.device) for i in range(known.size)]
        for i, index in enumerate(found):
            self._learn(index, i)
        return found

    def _as_index(self, index: Tensor) -> Any:
        known = self._about(index)
        return known if type(known) is int and not index.dim() else index

    def _note(self, func: Any, args: Any, kwargs: Any, known: Known | None, result: Any) -> None:
        """Remember what is known of a result."""
        first: Any = args[0] if args else None
        if not isinstance(first, Tensor):
            return
        if func in CHOOSING:
            for tensor in pytree.tree_leaves(result):
                for size in tensor.shape if isinstance(tensor, Tensor) else ():
                    self._suppose_several(size)
        if func in CHOOSING - MOVING and len(args) == 1 and first.dim() == 1 and isinstance(first.shape[0], int):
            for tensor in pytree.tree_leaves(result):
                self._learn(tensor, _All(first.shape[0]))
        elif func in ASKING:
            self._learn(result, True)
        elif func in COUNTING and not first.is_floating_point():
            if "minlength" in kwargs and is_chosen(result.shape[0]):
                torch._check(result.shape[0] == kwargs["minlength"])
            self._learn(result, _Several())
        elif func in COMPARING and isinstance(other := args[-1], int):
            if isinstance(known, int):
                self._learn(result, COMPARING[func](known, other))
            elif isinstance(known, _Several) and other < SEVERAL:
                self._learn(result, COMPARING[func](SEVERAL, other))
        elif isinstance(known, _Several) and func in (Tensor.item, Tensor.__int__):
            self._suppose_several(result)
        elif known is not None and func in MOVING:
            for tensor in pytree.tree_leaves(result):
                if not isinstance(known, _All) or (tensor.dim() and first.shape[0] == tensor.shape[0]):
                    self._learn(tensor, known)

    def _suppose_several(self, size: Any) -> None:
        if is_chosen(size):
            self.asked = True
            torch._check(size >= SEVERAL)


class NothingChosen(TorchDispatchMode):
    """Runs operators as if no entry was chosen: masks are zero.

    Args:
        counts: whether what counts entries, or asks for any, is zero, too.
    """

    def __init__(self, counts: bool = True) -> None:
        super().__init__()
        self.counts = counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in (aten.index, aten.index_put, aten.index_put_, aten.masked_select):
            read, masks, *rest = args
            masks = pytree.tree_map_only(Tensor, lambda x: torch.zeros_like(x) if x.dtype == torch.bool else x, masks)
            args = (read, masks, *rest)
        elif func.overloadpacket is aten.nonzero:
            args = (torch.zeros_like(args[0]),)
        result = func(*args, **(kwargs or {}))
        counts = self.counts and func.overloadpacket in (aten.any, aten.sum, aten.count_nonzero, aten.bincount)
        return torch.zeros_like(result) if counts and not result.is_floating_point() else result


def is_chosen(size: Any) -> bool:
    """Whether a size depends on values."""
    return isinstance(size, torch.SymInt) and size.node.hint is None


def chooses(node: Node) -> bool:
    """Whether the sizes of what a node returns depend on values."""
    tensors = pytree.tree_leaves(node.meta.get("val"))
    return any(is_chosen(size) for x in tensors if isinstance(x, Tensor) for size in x.shape)


def pretended(size: torch.SymInt) -> int:
    """A number that stands for a size that depends on values. It is a product of large primes, so it equals no other size."""
    unknown = size.node.expr.free_symbols - known_sizes(size.node.shape_env).keys()
    return value_of(size, {symbol: _prime(int(symbol.name[1:])) for symbol in unknown})


@cache
def _prime(which: int) -> int:
    import sympy

    return int(sympy.prime(FIRST_PRIME + which))
