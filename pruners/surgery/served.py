"""What inputs a rewritten graph serves: those of the sizes that its trace holds for."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo

from pruners.operators import Shape, Sizes


def written(shape: Shape) -> str:
    """A shape as text, as NxLx4."""
    return "x".join(map(str, shape))


def serves(model: nn.Module) -> dict[str, str] | None:
    """The shapes that a graph takes, as NxLx4 by the name of the input; None for a model that is no graph."""
    codegen = model.graph._codegen if isinstance(model, GraphModule) else None
    return (
        {name: written(shape) for name, shape in codegen.shapes.items()} if isinstance(codegen, CheckedInputs) else None
    )


def refuse_other_sizes(
    inputs: Mapping[str, Any], shapes: Mapping[str, Shape], rules: Callable[..., Mapping[str, bool]]
) -> None:
    """Refuse inputs that a graph does not serve.

    Args:
        inputs: by name.
        shapes: of those that are tensors, in numbers and names of free sizes.
        rules: of the free sizes by name, to conditions and whether they hold.

    Raises:
        ValueError: naming the first input, or the first condition, that does not fit.
    """
    if torch.jit.is_tracing():  # which would take sizes for values
        return
    found: dict[str, int] = {}
    for name, shape in shapes.items():
        if not isinstance(inputs[name], torch.Tensor):
            continue
        sizes = inputs[name].shape
        if len(sizes) != len(shape) or any(
            have != (found.setdefault(want, have) if isinstance(want, str) else want)
            for have, want in zip(sizes, shape, strict=True)
        ):
            given = "".join(f", {free} = {size}" for free, size in found.items() if free in shape)
            raise ValueError(
                f"a model in the form of a graph must get inputs of the shapes that it serves, {written(shape)} for {name!r}"
                f"{given if len(sizes) == len(shape) else ''}, got {written(tuple(sizes))}; prune with example inputs of that shape."
            )
    if len(found) < len({size for shape in shapes.values() for size in shape if isinstance(size, str)}):
        return  # an input is no tensor
    for rule, holds in rules(**found).items():
        if not holds:
            sizes = ", ".join(f"{name} = {size}" for name, size in found.items())
            raise ValueError(
                f"a model in the form of a graph must get inputs of sizes that are computed as the traced ones were, here {rule} of "
                f"{', '.join(map(written, shapes.values()))}, got {sizes}; prune with example inputs of these sizes."
            )


class CheckedInputs(_PyTreeCodeGen):
    """Code of a graph that refuses inputs of other sizes before it computes anything.

    Args:
        pytree_info: names and structure of the inputs, structure of the outputs.
        sizes: what is served.
        least: the smallest that a free size may be, by name; 1 where it is not there.
    """

    def __init__(self, pytree_info: _PyTreeInfo, sizes: Sizes, least: Mapping[str, int]) -> None:
        super().__init__(pytree_info)
        self.shapes = {name: tuple(shape) for name, shape in sizes.shapes.items()}
        self.functions = sorted(set(re.findall(r"\bmath\.(\w+)", " ".join(sizes.rules))))
        without_module = (re.sub(r"\bmath\.", "", rule) for rule in sizes.rules)
        rules = [*(f"{name} >= {least.get(name, 1)}" for name in sizes.traced), *without_module]
        self.rules = f"lambda {', '.join(sizes.traced)}: {{{', '.join(f'{rule!r}: {rule}' for rule in rules)}}}"

    def additional_globals(self) -> list[tuple[str, Any]]:
        """What the code calls."""
        called = [refuse_other_sizes, *(getattr(math, name) for name in self.functions)]
        return [*super().additional_globals(), *((function.__name__, function) for function in called)]

    def gen_fn_def(self, *args: Any, **kwargs: Any) -> str:
        """The head of the function, where its inputs get their names, and the check."""
        inputs = ", ".join(f"{name!r}: {name}" for name in self.shapes)
        head = super().gen_fn_def(*args, **kwargs)
        return f"{head}\n    {refuse_other_sizes.__name__}({{{inputs}}}, {self.shapes!r}, {self.rules})"
