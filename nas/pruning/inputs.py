"""`nas prune` and `nas groups`: a model from a function and a weights file, pruned, repaired on data, measured and saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nas.objectives import ESTIMATES
from nas.runtime import import_function, numbers, pairs, shape
from pruners.allocation import COUNTED, LATENCY
from pruners.errors import first_line
from pruners.groups import split_inputs
from pruners.operators import evaluating

TARGETS = (*COUNTED, LATENCY, *ESTIMATES)


def parse_targets(texts: Sequence[str]) -> dict[str, float | str]:
    """What may remain by name, from `macs=0.5`, `params=1e6` or `latency_ms=0.8ms`.

    Raises:
        ValueError: something else.
    """
    found: dict[str, float | str] = {}
    for name, value in pairs(list(texts), "--target").items():
        check_target(name)
        timed = name == "latency_ms" and value.endswith("ms")
        found[name] = value if timed else numbers([f"{name}={value}"], "--target")[name]
    return found


def check_target(name: str) -> None:
    if name not in TARGETS:
        raise ValueError(f"--target (`targets` in Python) must be among {', '.join(TARGETS)}, got {name!r}")


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
                f"`--input {text}` must return a tensor, several in a tuple, or a dict by name, got {type(found).__name__}"
            )
        return found
    sizes = shape(text)
    assert sizes is not None
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed))


def check_input(model: nn.Module, example: Any, text: str) -> None:
    """Refuse example inputs that a model does not take.

    Args:
        model: its mode is left as it was.
        example: what `example_inputs` made of `text`.
        text: as it was typed.

    Raises:
        ValueError: the model does not run on them.
    """
    args, kwargs = split_inputs(example)
    try:
        with evaluating(model), torch.no_grad():
            model(*args, **kwargs)
    except Exception as error:
        raise ValueError(
            f"`--input` must fit the model, got {text}: {first_line(error)}; give the shape of a tensor of random numbers, batch "
            "first, or --input module:function, which returns inputs of another kind, such as tokens"
        ) from error
