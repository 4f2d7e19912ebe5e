"""Targets and example inputs as people name them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nas.objectives import ESTIMATES
from nas.runtime import import_function, shape
from nas.tasks import Task
from pruners.allocation import COUNTED, MILLISECONDS
from pruners.groups import split_inputs
from pruners.untouched import untouched
from search_spaces.core import bare, first_line, quoted

NO_INPUT = "`input` is missing; give it, or `data` or a `task`, whose first example is taken"
TARGETS = (*COUNTED, *MILLISECONDS, *ESTIMATES)


def read_targets(given: Any) -> Any:
    """What may remain by name, where amounts may be text, such as 0.5, 1e6 or 0.8ms.

    Raises:
        ValueError: no target, an unknown one, or an amount that is none.
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"`targets` must be a mapping such as {{'macs': 0.5}}, got {quoted(given)}")
    if not given:
        raise ValueError(f"`targets` must name at least one of {', '.join(TARGETS)}, got none")
    return {name: _amount(name, value) for name, value in given.items()}


def _amount(name: str, value: Any) -> Any:
    if name not in TARGETS:
        raise ValueError(f"`targets` must be among {', '.join(TARGETS)}, got {quoted(name)}")
    timed = name.endswith("_ms") and isinstance(value, str) and value.endswith("ms")
    try:
        return value if timed else float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(
            f"`targets` must be name=number, such as macs=0.5 or latency_ms=0.8ms, got {name}={bare(value)}"
        ) from None


def example_inputs(text: str, seed: int = 0) -> Any:
    """Inputs for a model, from a shape such as `1x3x32x32` or from `module:function`, which returns them.

    Args:
        text: the shape of a tensor of random numbers, batch first, or a function that returns what `pruners.prune` takes: a tensor, a
            sequence of positional inputs, or a dict of keyword inputs.
        seed: of the random numbers.

    Raises:
        ValueError: neither a shape nor a function.
    """
    if ":" in text:
        found = import_function(text)()
        if not isinstance(found, (Tensor, Mapping, list, tuple)):
            raise ValueError(
                f"`input` {text} must return a tensor, several in a tuple, or a dict by name, got {type(found).__name__}"
            )
        return found
    sizes = shape(text)
    assert sizes is not None
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed))


def given_inputs(model: nn.Module, text: str | None, task: Task | None, seed: int = 0) -> Any:
    """Example inputs of a model: those of `text`, see `example_inputs`, or else the first example of a task.

    Raises:
        ValueError: there are none, or the model does not run on them.
    """
    if text is not None:
        example = example_inputs(text, seed)
        check_input(model, example, text)
        return example
    if task is None:
        raise ValueError(NO_INPUT)
    task.check(model)
    return next(task.train.head(1).batches(1)).inputs


def check_input(model: nn.Module, example: Any, text: str) -> None:
    """Refuse example inputs that a model does not take.

    Args:
        model: left untouched.
        example: what `example_inputs` made of `text`.
        text: as it was typed.

    Raises:
        ValueError: the model does not run on them.
    """
    args, kwargs = split_inputs(example)
    try:
        with untouched(model), torch.no_grad():
            model(*args, **kwargs)
    except Exception as error:
        raise ValueError(
            f"`input` must fit the model, got {text}: {first_line(error)}; give the shape of a tensor of random numbers, batch "
            "first, or module:function, which returns inputs of another kind, such as tokens"
        ) from error
