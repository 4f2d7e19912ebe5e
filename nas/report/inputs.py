"""Inputs of a network as Python that makes such, and calls it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def as_code(inputs: Any) -> tuple[str, str]:
    """Python for inputs like these, of one example, and what a network is called with.

    Args:
        inputs: a tensor, several in a tuple, or a dict by name, batch first.
    """
    if isinstance(inputs, Tensor):
        return _tensor(inputs), "inputs"
    if isinstance(inputs, Mapping):
        return "{" + ", ".join(f'"{name}": {_leaf(x)}' for name, x in inputs.items()) + "}", "**inputs"
    return "(" + "".join(f"{_leaf(x)}, " for x in inputs) + ")", "*inputs"


def _leaf(x: Any) -> str:
    return _tensor(x) if isinstance(x, Tensor) else repr(x)


def _tensor(x: Tensor) -> str:
    shape = ", ".join(map(str, (1, *x.shape[1:])))
    return f"torch.rand({shape})" if x.is_floating_point() else f"torch.ones({shape}, dtype={x.dtype})"
