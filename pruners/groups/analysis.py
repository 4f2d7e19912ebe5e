"""A model before it is pruned: its inputs, its axes, and what of it may go."""

from __future__ import annotations

import copy
import difflib
import math
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn
from torch.fx import Node
from torch.utils import _pytree as pytree

from pruners.groups.dependency import tie_axes
from pruners.groups.graph import AxisGraph, Group
from pruners.operators import number
from pruners.tracing import Trace, trace

COMMONEST = 4  # reasons that a refusal names
NAMED = 3  # groups that it names for each


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
                f"`model` must be in float32 or float64 here, got {tensor.dtype} ({name!r}); take `model.float()` and convert "
                "what comes of it."
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


def uncompiled(model: nn.Module) -> nn.Module:
    """The module that `torch.compile` wrapped; of a module with wrapped parts a copy without wrappers, which shares its tensors."""
    if _is_compiled(model):
        return uncompiled(cast(nn.Module, model._orig_mod))
    wrapped = [part for part in model.modules() if _is_compiled(part)] if isinstance(model, nn.Module) else []
    if not wrapped:
        return model
    shared = {id(x): x for x in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, {**shared, **{id(part): uncompiled(part) for part in wrapped}})


def prunable(
    found: Sequence[Group], ignore: Sequence[str], model: nn.Module, others: Sequence[str] = ()
) -> list[Group]:
    """The groups that are neither protected nor ignored.

    A name of a module stands for all tensors in it, and one of a tensor for all its names. What has nothing to lose, such as an
    activation, may be named, too.

    Args:
        found: all groups.
        ignore: names of groups, and of modules, parameters and buffers of the model.
        model: that they are of.
        others: names that may be ignored, too, but hold no group: of blocks.

    Raises:
        ValueError: if `ignore` names nothing in the model.
    """
    names = {group.name: {group.name, *_names(group)} for group in found}
    held = _held(model)
    known = set(held).union(others, *names.values())
    given = {_uncompiled_name(name) for name in ignore}
    for name in given - known:
        close = ", ".join(difflib.get_close_matches(name, sorted(known), 3, 0.4)) or "none is close"
        raise ValueError(f"`ignore` must name groups, tensors or modules, got {name!r}; did you mean: {close}?")
    ignored = given.union(*(held.get(name, ()) for name in given))
    return [group for group in found if not group.protected and not names[group.name] & ignored]


def refuse_nothing(found: Sequence[Group], free: Sequence[Group]) -> None:
    """Refuse a model of which nothing can be removed.

    Args:
        found: all groups.
        free: those that may lose indices.

    Raises:
        ValueError: with the commonest reasons, how many groups each protects, and some of their names.
    """
    if free:
        return
    reasons: dict[str, list[Group]] = defaultdict(list)
    for group in found:
        reasons[re.sub(r" in '.*?'", "", group.protected) if group.protected else "ignored"].append(group)
    most = sorted(reasons, key=lambda reason: -len(reasons[reason]))
    said = [f"{reason}: {len(reasons[reason])} ({_some(reasons[reason])})" for reason in most[:COMMONEST]]
    rest = f"; and {len(most) - COMMONEST} other reasons" if len(most) > COMMONEST else ""
    groups = (
        f"all of its {len(found)} groups are protected ({'; '.join(said)}{rest})"
        if found
        else "it has no weights with widths"
    )
    quantised = any(re.search("quant|_fq_", reason) for reason in reasons)
    way = (
        "prune the model before it is prepared for quantisation"
        if quantised
        else "prune a larger part of the model, or one without the operators named here"
        if any(reason.startswith("unknown") for reason in reasons)
        else "`pruners.groups` lists them"
    )
    raise ValueError(f"nothing can be removed from this model: {groups}; {way}.")


def _some(groups: Sequence[Group]) -> str:
    names = [group.name for group in groups]
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")


def _held(model: nn.Module) -> dict[str, set[str]]:
    """Names of all modules, parameters and buffers of a model, and the tensors in each by their first names."""
    found: dict[str, set[str]] = {name: set() for name, _ in model.named_modules(remove_duplicate=False)}
    first: dict[int, str] = {}
    both = (model.named_buffers(remove_duplicate=False), model.named_parameters(remove_duplicate=False))
    for name, tensor in (pair for named in both for pair in named):
        parts = name.split(".")
        for i in range(len(parts) + 1):
            found.setdefault(".".join(parts[:i]), set()).add(first.setdefault(id(tensor), name))
    return found


def _is_compiled(part: Any) -> bool:
    """Whether `torch.compile` wrapped a module, for which it has loaded the class, which takes its time."""
    compiler = sys.modules.get("torch._dynamo.eval_frame")
    return compiler is not None and isinstance(part, compiler.OptimizedModule)


def _uncompiled_name(name: str) -> str:
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


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
