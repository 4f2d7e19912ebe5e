"""What inputs a rewritten graph serves: sizes of those that were traced are numbers in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.fx import Node
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo

Shape = tuple[int | None, ...]  # None where any size will do


def served(placeholders: Sequence[Node]) -> dict[str, Shape]:
    """The shape of each tensor among some traced inputs, by the placeholder's name."""
    tensors = {node.name: node.meta["val"] for node in placeholders if isinstance(node.meta["val"], torch.Tensor)}
    return {
        name: tuple(None if isinstance(size, torch.SymInt) else size for size in tensor.shape)
        for name, tensor in tensors.items()
    }


def refuse_other_shapes(inputs: Mapping[str, Any], shapes: Mapping[str, Shape]) -> None:
    """Refuse inputs that a graph does not serve.

    Raises:
        ValueError: naming the first of them.
    """
    if torch.jit.is_tracing():  # which would take sizes for values
        return
    for name, shape in shapes.items():
        if isinstance(inputs[name], torch.Tensor) and not _fits(inputs[name].shape, shape):
            asked = "x".join("N" if size is None else str(size) for size in shape)
            raise ValueError(
                f"a model in the form of a graph must get inputs of the shapes that it was pruned with, {asked} for {name!r}, got "
                f"{'x'.join(map(str, inputs[name].shape))}; prune with example inputs of that shape."
            )


class CheckedInputs(_PyTreeCodeGen):
    """Code of a graph that refuses inputs of other shapes before it computes anything.

    Args:
        pytree_info: names and structure of the inputs, structure of the outputs.
        shapes: what is served.
    """

    def __init__(self, pytree_info: _PyTreeInfo, shapes: Mapping[str, Shape]) -> None:
        super().__init__(pytree_info)
        self.shapes = shapes

    def additional_globals(self) -> list[tuple[str, Any]]:
        """What the code calls."""
        return [*super().additional_globals(), (refuse_other_shapes.__name__, refuse_other_shapes)]

    def gen_fn_def(self, *args: Any, **kwargs: Any) -> str:
        """The head of the function, where its inputs get their names, and the check."""
        inputs = ", ".join(f"{name!r}: {name}" for name in self.shapes)
        head = super().gen_fn_def(*args, **kwargs)
        return f"{head}\n    {refuse_other_shapes.__name__}({{{inputs}}}, {self.shapes!r})"


def _fits(sizes: Sequence[int], shape: Shape) -> bool:
    return len(sizes) == len(shape) and all(
        want is None or have == want for have, want in zip(sizes, shape, strict=True)
    )
