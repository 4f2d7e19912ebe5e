"""Words for what models raise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import torch


@contextmanager
def fitting(args: tuple[Any, ...], kwargs: Mapping[str, Any], given_as: str = "example_inputs") -> Iterator[None]:
    """Say of what a model raises that its inputs do not fit, and which argument they were given as."""
    try:
        yield
    except Exception as error:
        shapes = [tuple(x.shape) if isinstance(x, torch.Tensor) else x for x in (*args, *kwargs.values())]
        raise ValueError(f"`{given_as}` must fit the model, got {shapes}: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """What an error says first, or its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def whole_number(name: str, value: Any, why: str = "") -> Any:
    """The value; refuse what is no whole number of at least 1."""
    if not isinstance(value, Integral) or value < 1:
        raise ValueError(f"`{name}` must be a whole number of at least 1, got {value!r}{why}.")
    return value
