"""A model before it is pruned: its inputs, its axes, and what of it may go."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.fx import Node
from torch.utils import _pytree as pytree

from pruners.groups.dependency import tie_axes
from pruners.groups.graph import AxisGraph, Group
from pruners.operators import number
from pruners.tracing import Trace, trace


def split_inputs(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword inputs from what the user gave."""
    if isinstance(example_inputs, torch.Tensor):
        return (example_inputs,), {}
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, Sequence) and not isinstance(example_inputs, str):
        return tuple(example_inputs), {}
    raise ValueError(
        "`example_inputs` must be a tensor, a sequence of positional inputs or a dict of keyword inputs, "
        f"got {type(example_inputs).__name__}."
    )


def analyse(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> AxisGraph:
    """Trace a model and tie its axes, after checking that it can be pruned at all.

    Raises:
        ValueError: if it is no module or one in TorchScript, on several devices or none (meta), half precision, NaN or infinite
            weights, inputs on another device, or empty tensors as inputs or as all that the model returns.
    """
    _refuse_no_module(model)
    devices: dict[torch.device, str] = {}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        devices.setdefault(tensor.device, name)
    if len(devices) > 1 or torch.device("meta") in devices:
        found = ", ".join(f"{device} ({name!r})" for device, name in devices.items())
        raise ValueError(
            f"`model` must be on one device that holds values, got {found}; move it with `model.to(...)`, or load its weights."
        )
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        half = tensor.is_floating_point() and tensor.dtype not in (torch.float32, torch.float64)
        if half and isinstance(tensor, nn.Parameter):
            raise ValueError(
                f"`model` must be in float32 or float64, got {tensor.dtype} ({name!r}); prune `model.float()` and convert "
                "the result back."
            )
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        least, most = tensor.aminmax()  # both NaN where any entry is
        if least.isnan():
            raise ValueError(
                f"`model` must hold no NaN, got some in {name!r}; importance and the check need real numbers."
            )
        if isinstance(tensor, nn.Parameter) and not (least.isfinite() and most.isfinite()):  # buffers may be masks
            raise ValueError(f"weights of `model` must be finite, got infinity in {name!r}; load weights that are.")
    for x in pytree.tree_leaves((args, kwargs)):
        if isinstance(x, torch.Tensor) and not x.numel():
            raise ValueError(
                f"`example_inputs` must hold numbers, got a tensor of shape {tuple(x.shape)}, on which nothing can be proved; give "
                "at least one sample."
            )
        if isinstance(x, torch.Tensor) and devices and x.device not in devices:
            ours = ", ".join(map(str, devices))
            raise ValueError(f"`example_inputs` must be on the model's device, got {x.device} for a model on {ours}.")
    traced = trace(model, args, kwargs)
    _refuse_no_outputs(traced)
    return tie_axes(traced)


def prunable(found: Sequence[Group], ignore: Sequence[str]) -> list[Group]:
    """The groups that are neither protected nor ignored.

    Raises:
        ValueError: if `ignore` names nothing in the model.
    """
    names = {group.name: {group.name, *_names(group)} for group in found}
    known = set().union(*names.values())
    for name in ignore:
        if name not in known:
            close = ", ".join(difflib.get_close_matches(name, sorted(known), 3, 0.4)) or "none is close"
            raise ValueError(f"`ignore` must name groups, tensors or modules, got {name!r}; did you mean: {close}?")
    return [group for group in found if not group.protected and not names[group.name] & set(ignore)]


def several_names(ignore: str | Sequence[str]) -> list[str]:
    """What `ignore` names, one name or several.

    Raises:
        ValueError: if it is something else.
    """
    found = [ignore] if isinstance(ignore, str) else list(ignore) if isinstance(ignore, Iterable) else [ignore]
    if wrong := [name for name in found if not isinstance(name, str)]:
        raise ValueError(
            f"`ignore` must be names of groups, tensors or modules, got {wrong[0]!r} ({type(wrong[0]).__name__}); `pruners.groups` "
            "lists them."
        )
    return found


def _refuse_no_module(model: Any) -> None:
    """Refuse what is no module, and modules that have no Python code to trace."""
    named = model.named_modules() if isinstance(model, nn.Module) else [("", model)]
    for name, part in named:
        if not isinstance(part, nn.Module) or isinstance(part, torch.jit.ScriptModule):
            raise ValueError(
                f"`model` must be a module in Python, which `torch.export` can trace, got {type(part).__name__}"
                f"{f' in {name!r}' if name else ''}; give the `nn.Module` that it was made from."
            )


def _refuse_no_outputs(traced: Trace) -> None:
    """Refuse a model that returns no number on its example inputs."""
    *_, output = traced.nodes
    values = [x.meta["val"] for x in traced.returned(output.args[0]) if isinstance(x, Node)]  # type: ignore[arg-type]
    shapes = [tuple(map(number, value.shape)) for value in values if isinstance(value, torch.Tensor)]
    if not any(map(math.prod, shapes)):
        raise ValueError(
            f"the model must return numbers on `example_inputs`, got tensors of shapes {shapes}, on which nothing can be proved; give "
            "inputs on which it does."
        )


def _names(group: Group) -> set[str]:
    """Tensors of a group and all modules around them."""
    result = set()
    for member in group.members:
        parts = member.tensor.split(".")
        result |= {".".join(parts[: i + 1]) for i in range(len(parts))}
    return result
