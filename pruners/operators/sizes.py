"""The sizes of its inputs that a trace holds for: numbers, and free ones with the rules that tracing took for granted."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from time import thread_time
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Node
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:  # sympy takes long to import; what traces a model has it
    import sympy

BATCH = "N"
LEAST = 2  # tracing takes free sizes to be at least this; fewer are a matter of proof
MOST_SECONDS = (
    30.0  # of computing that a trace with every size free may take, before the sizes of the example have to do
)
SPACE = {4: "NCHW", 5: "NCDHW"}  # what the dimensions of such tensors are called

Shape = tuple[int | str, ...]  # of numbers and of names of free sizes
_SUPPOSED: ContextVar[Mapping[sympy.Symbol, int]] = ContextVar("supposed", default={})  # noqa: B039


class TooSlow(Exception):
    """Tracing takes longer than it may, as free sizes are computed with in ever longer expressions."""


class Within(TorchFunctionMode):
    """Gives up tracing after some seconds of computing."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds, self.end = seconds, thread_time() + seconds

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if thread_time() > self.end:
            raise TooSlow(f"tracing with every size free takes longer than {self.seconds:g} seconds")
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class Sizes:
    """What tensors a trace takes.

    Attributes:
        shapes: placeholder of a tensor to its shape.
        traced: name of a free size to what it was when it was traced.
        rules: conditions on the free sizes, as Python expressions in their names.
        symbols: name of a free size to its symbols in the trace; those of the batch are one size.
    """

    shapes: Mapping[str, Shape] = field(default_factory=dict)
    traced: Mapping[str, int] = field(default_factory=dict)
    rules: tuple[str, ...] = ()
    symbols: Mapping[str, tuple[sympy.Symbol, ...]] = field(default_factory=dict)
    _conditions: tuple[sympy.Basic, ...] = ()

    def allow(self, sizes: Mapping[str, int]) -> bool:
        """Whether every rule holds for such free sizes."""
        import sympy

        return all(condition.xreplace(self._values(sizes)) == sympy.true for condition in self._conditions)

    @contextmanager
    def supposed(self, sizes: Mapping[str, int]) -> Iterator[None]:
        """Let the free sizes count as other numbers than those that were traced."""
        token = _SUPPOSED.set(self._values(sizes))
        try:
            yield
        finally:
            _SUPPOSED.reset(token)

    def _values(self, sizes: Mapping[str, int]) -> dict[sympy.Symbol, sympy.Integer]:
        import sympy

        return {symbol: sympy.Integer(size) for name, size in sizes.items() for symbol in self.symbols[name]}


def sizes_of(placeholders: Sequence[Node], batch: Collection[int]) -> Sizes:
    """The sizes of the traced inputs, of which those counted in `batch` have as many samples.

    A size is free where it is a symbol of its own; an expression in other symbols, such as a multiple of 8, is taken as
    the number that was traced.
    """
    import sympy
    from torch.utils._sympy.numbers import int_oo
    from torch.utils._sympy.printers import PythonPrinter

    tensors = {node.name: node.meta["val"] for node in placeholders if isinstance(node.meta["val"], torch.Tensor)}
    free: list[Any] = [size for tensor in tensors.values() for size in tensor.shape if isinstance(size, torch.SymInt)]
    if not free:
        return Sizes({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    names = _names(tensors, {placeholders[place].name for place in batch})
    env = free[0].node.shape_env
    hints = known_sizes(env)
    numbers = {symbol: value for symbol, value in hints.items() if symbol not in names}
    called = {symbol: sympy.Symbol(name, integer=True, positive=True) for symbol, name in names.items()}
    conditions: list[Any] = [guard.expr for guard in env.guards]
    for symbol in names:
        bounds = env.var_to_range[symbol]
        conditions += [symbol >= bounds.lower] if bounds.lower > LEAST else []
        conditions += [symbol <= bounds.upper] if bounds.upper < int_oo else []
    conditions = [env.replace(condition).xreplace(numbers) for condition in conditions]
    shapes: dict[str, Shape] = {}
    for name, tensor in tensors.items():
        shape = []
        given: list[Any] = list(tensor.shape)
        for size in given:
            is_free = isinstance(size, torch.SymInt)
            expression = size.node.expr.xreplace(numbers) if is_free else sympy.Integer(size)
            number = int(expression.xreplace(dict(hints)))
            shape.append(names.get(expression, number))
            if expression not in names and expression.free_symbols:  # twice another size, say
                conditions.append(sympy.Eq(expression, number))
        shapes[name] = tuple(shape)
    conditions = list(dict.fromkeys(c for c in conditions if c.free_symbols and c.free_symbols <= names.keys()))
    symbols = {name: tuple(s for s in names if names[s] == name) for name in dict.fromkeys(names.values())}
    return Sizes(
        shapes,
        {name: int(hints[found[0]]) for name, found in symbols.items()},
        tuple(dict.fromkeys(PythonPrinter().doprint(condition.xreplace(called)) for condition in conditions)),
        symbols,
        tuple(conditions),
    )


def value_of(size: torch.SymInt, others: Mapping[sympy.Symbol, int] | None = None) -> int:
    """A free size as a number, as it was traced or is supposed to be; `others` are values of symbols that depend on data."""
    hint = size.node.hint
    if hint is not None and not _SUPPOSED.get():
        return int(hint)
    known = {**known_sizes(size.node.shape_env), **_SUPPOSED.get(), **(others or {})}
    return int(size.node.expr.xreplace(known))


def known_sizes(env: Any) -> Mapping[sympy.Symbol, Any]:
    """The sizes that symbols had when they were traced."""
    found: Mapping[sympy.Symbol, Any] = env.backed_var_to_val if hasattr(env, "backed_var_to_val") else env.var_to_val
    return found


def _names(tensors: Mapping[str, torch.Tensor], batch: Collection[str]) -> dict[sympy.Symbol, str]:
    """What free sizes are called: N in the batch, H and W in images, L and L2 elsewhere."""
    shapes: dict[str, list[Any]] = {name: list(tensor.shape) for name, tensor in tensors.items()}
    firsts = [shapes[name][0].node.expr for name in shapes if name in batch]
    names: dict[sympy.Symbol, str] = {
        symbol: BATCH for symbol in firsts if symbol.is_Symbol
    }  # a branch may have fixed it
    for shape in shapes.values():
        for dim, size in enumerate(shape):
            symbol = size.node.expr if isinstance(size, torch.SymInt) else None
            if symbol is not None and symbol.is_Symbol and symbol not in names:
                letter = SPACE[len(shape)][dim] if dim and len(shape) in SPACE else "L"
                taken = sum(name.rstrip("0123456789") == letter for name in names.values())
                names[symbol] = f"{letter}{taken + 1}" if taken else letter
    return names
