"""Words for what models raise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import torch

from search_spaces.core import first_line as first_line


@contextmanager
def fitting(args: tuple[Any, ...], kwargs: Mapping[str, Any], given_as: str = "example_inputs") -> Iterator[None]:
    """Turn whatever a model raises into a ValueError: its inputs do not fit, and which argument they came from."""
    try:
        yield
    except Exception as error:
        shapes = [tuple(x.shape) if isinstance(x, torch.Tensor) else x for x in (*args, *kwargs.values())]
        raise ValueError(f"`{given_as}` must fit the model, got {shapes}: {first_line(error)}") from error


def whole_number(name: str, value: Any, why: str = "") -> Any:
    """The value; refuse what is no whole number of at least 1."""
    if not isinstance(value, Integral) or value < 1:
        raise ValueError(f"`{name}` must be a whole number of at least 1, got {value!r}{why}.")
    return value
