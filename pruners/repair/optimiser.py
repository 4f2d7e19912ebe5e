"""An optimiser for the smaller model that goes on where the full model's was."""

from __future__ import annotations

import inspect
import warnings
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pruners.groups import uncompiled
from pruners.result import PruneResult
from pruners.surgery import Factors, GraphModel, Removal, left_out, replay, rows_left

POWERS = {
    "momentum_buffer": 1, "exp_avg": 1, "grad_avg": 1, "exp_avg_sq": 2, "max_exp_avg_sq": 2, "square_avg": 2, "sum": 2,
}  # fmt: skip
"""Entries of an optimiser's state that gradients add up in, and to which power."""
STEPS = {"momentum_buffer": 0}
"""The same where it is steps, in which gradients are divided by their own size."""
Kind = TypeVar("Kind", bound=Optimizer)


def remap_optimizer(optimizer: Kind, model: nn.Module, result: PruneResult) -> Kind:
    """An optimiser of the same class over the smaller model's parameters, with the state of what stayed.

    Groups keep their order and settings, and every state tensor that is shaped like its parameter (momentum, moments,
    their maxima) is sliced like it. Elementwise optimisers (SGD, Adam, AdamW, RMSprop, Adagrad) then take the same step
    as on the full model, as far as the gradients agree. Parameters that the smaller model no longer has are left out.
    Hooks stay behind, and a learning-rate scheduler holds on to the optimiser it was made with: make a new one with
    `last_epoch`.

    Example:
        >>> result = prune(model, images[:1], {"macs": 0.5})
        >>> optimizer = remap_optimizer(optimizer, model, result)
        >>> model = result.model.train()

    Args:
        optimizer: over parameters of `model`; left as it is.
        model: the model that was pruned.
        result: what `prune` returned for it.

    Raises:
        ValueError: if the optimiser has parameters that are not the model's, if some state is neither a number nor shaped
            like its parameter (as Adafactor's factors are), if the class needs more than its groups to be made, or if layers became
            two of low rank.
    """
    model = uncompiled(model)
    if result.plan.ranks:
        raise ValueError(
            f"`result` must hold layers as they were, got {len(result.plan.ranks)} that became two of low rank, of which the optimiser "
            "knows nothing; make a new one over `result.model.parameters()`."
        )
    removal = replay(result.plan, model)
    rows = rows_left(left_out(result.plan, removal)) if result.plan.blocks else {}
    parameters = result.model.named_parameters(remove_duplicate=False)
    folded = {} if isinstance(result.model, GraphModel) else result.plan.folded
    smaller = {result.plan.full_name(name): (name, parameter) for name, parameter in parameters}
    names = _names(model)
    pairs: dict[Tensor, tuple[str, nn.Parameter]] = {}  # parameter of the model: its name, and what became of it
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if id(parameter) not in names:
                raise ValueError(
                    f"`optimizer` must be over parameters of `model`, got one of shape {tuple(parameter.shape)} that is not "
                    "among them; pass the model that the optimiser was made for."
                )
            found = next((name for name in names[id(parameter)] if name in smaller), None)
            if found is not None:
                pairs[parameter] = smaller[found]
    new = _made_alike(optimizer, [_group(group, pairs) for group in optimizer.param_groups])
    for parameter, (_, its_part) in pairs.items():
        dims_of = next((name for name in names[id(parameter)] if name in removal.graph.tensors), None)
        factors = next((folded[name] for name in names[id(parameter)] if name in folded), None)
        if parameter in optimizer.state:
            new.state[its_part] = {
                key: _rescaled(_part(removal, rows, dims_of, key, value, parameter, its_part), factors, key, optimizer)
                for key, value in optimizer.state[parameter].items()
            }
    return new


def _rescaled(value: Any, factors: Factors | None, key: str, optimizer: Optimizer) -> Any:
    """An entry of the state of a parameter that was multiplied, as the gradients of now would have made it."""
    if factors is None or not isinstance(value, Tensor) or value.dim() == 0:
        return value
    powers = {**POWERS, **(STEPS if isinstance(optimizer, torch.optim.RMSprop) else {})}
    if key not in powers:
        warnings.warn(
            f"the optimiser's state {key!r} of a parameter that was multiplied stays as it was: whether it holds gradients or their "
            "squares is not known.",
            stacklevel=3,
        )
    for _ in range(powers.get(key, 0)):
        value = factors.of(value, inverse=True)
    return value


def _names(model: nn.Module) -> Mapping[int, list[str]]:
    """All names of each parameter, by its identity."""
    names = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names[id(parameter)].append(name)
    return names


def _group(group: Mapping[str, Any], pairs: Mapping[Tensor, tuple[str, nn.Parameter]]) -> dict[str, Any]:
    """A group's settings with the parameters that are left; named, where they were."""
    left = [pairs[parameter] for parameter in group["params"] if parameter in pairs]
    settings = {key: value for key, value in group.items() if key not in ("params", "param_names")}
    return {**settings, "params": left if "param_names" in group else [parameter for _, parameter in left]}


def _made_alike(optimizer: Kind, groups: list[dict[str, Any]]) -> Kind:
    """A new optimiser of the same class and defaults; what its constructor does not take stands in the groups."""
    kind = type(optimizer)
    taken = inspect.signature(kind).parameters
    try:
        return kind(groups, **{name: value for name, value in optimizer.defaults.items() if name in taken})
    except TypeError as error:
        raise ValueError(
            f"`optimizer` must be of a class that is made from groups and their settings, got {kind.__name__}: {error}; make a "
            "new one over `result.model.parameters()`."
        ) from error


def _part(
    removal: Removal,
    rows: Mapping[str, Tensor],
    name: str | None,
    key: str,
    value: Any,
    parameter: Tensor,
    its_part: nn.Parameter,
) -> Any:
    """What stays of one entry of a parameter's state."""
    if isinstance(value, Tensor) and value.shape == parameter.shape:
        part = value if name is None else removal.slice(value, removal.graph.tensors[name])
        part = part if name is None or name not in rows else part[rows[name].to(part.device)]
        if part.shape != its_part.shape:
            raise ValueError(
                f"`result` must hold the model as it was pruned, got {name} of shape {tuple(its_part.shape)} where the plan "
                f"leaves {tuple(part.shape)}."
            )
        return part.to(its_part.device, copy=True)
    if isinstance(value, Tensor) and value.dim() == 0:
        return value.clone()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    shown = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    raise ValueError(
        f"the optimiser's state must be numbers or shaped like the parameter to be sliced, got {key!r} of {name} with {shown} "
        f"where the parameter has {tuple(parameter.shape)}; make a new optimiser over `result.model.parameters()`."
    )
