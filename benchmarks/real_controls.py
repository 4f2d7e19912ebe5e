"""What the study of real models compares with: whole layers left out, and Torch-Pruning."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from benchmarks.prune_resnet56 import inner, with_convolutions
from benchmarks.real_packages import folder_of
from examples.cifar_resnet import BasicBlock, CifarResNet
from pruners import recalibrate_

STEPS = 100
"""Of Torch-Pruning, to a ratio of 1."""
JUDGED = 4
"""Batches that tell how much harm a layer's absence does."""
Met = Callable[[nn.Module], bool]  # whether a smaller model is within the target


class NoLayers(ValueError):
    """A model without layers that can be left out."""


def run(model: nn.Module, inputs: Any) -> Tensor:
    """The first output."""
    found = model(**inputs) if isinstance(inputs, dict) else model(inputs)
    return found if isinstance(found, Tensor) else found[0]


# --- layers left out ---


def layers(model: nn.Module) -> list[str]:
    """The layers that keep the shape of what they take: those of a transformer, or residual blocks with a plain shortcut.

    Raises:
        NoLayers: there are none.
    """
    stacks = [name for name, part in model.named_modules() if isinstance(part, nn.ModuleList) and len(part) > 2]
    if hasattr(model, "config") and stacks:
        return [f"{stacks[0]}.{i}" for i in range(len(model.get_submodule(stacks[0])))]  # type: ignore[arg-type]
    found = [
        name
        for name, part in model.named_modules()
        if isinstance(part, BasicBlock) and isinstance(part.shortcut, nn.Identity)
    ]
    if not found:
        raise NoLayers("no layers that can be left out")
    return found


def without(model: nn.Module, names: Sequence[str]) -> nn.Module:
    """A copy without some layers; a transformer's configuration says how many are left."""
    smaller = copy.deepcopy(model)
    for name in sorted(names, key=lambda name: int(name.rpartition(".")[2]), reverse=True):
        parent, _, index = name.rpartition(".")
        stack: Any = smaller.get_submodule(parent)
        if isinstance(stack, nn.ModuleList):
            del stack[int(index)]
            smaller.config.num_hidden_layers = len(stack)  # type: ignore[union-attr]
        else:
            stack[int(index)] = nn.Identity()
    return smaller


Judge = Callable[[Tensor], Tensor]  # outputs of a smaller model on one batch to how much worse they are


def judges(model: nn.Module, batches: Sequence[Any]) -> list[tuple[Any, Judge]]:
    """The first batches, each with how outputs are judged on it; the model runs on each once.

    That is the loss on the next tokens of a model that predicts them, else the mean square of what became of outputs not padded.
    """
    with torch.no_grad():
        return [(inputs, judge(run(model, inputs), model, inputs)) for inputs in batches[:JUDGED]]


def judge(full: Tensor, model: nn.Module, inputs: Any) -> Judge:
    if isinstance(inputs, dict) and full.shape[-1] == getattr(getattr(model, "config", None), "vocab_size", None):
        tokens = inputs["input_ids"][:, 1:].flatten()
        return lambda found: nn.functional.cross_entropy(found[:, :-1].flatten(0, 1), tokens)
    mask = inputs["attention_mask"][..., None] if isinstance(inputs, dict) else torch.ones(())
    mask = mask.expand_as(full)
    return lambda found: ((found - full).square() * mask).sum() / mask.sum()


def harm(smaller: nn.Module, judged: Sequence[tuple[Any, Judge]]) -> float:
    """How much worse a smaller model is on the judged batches, summed."""
    with torch.no_grad():
        return sum(worse(run(smaller, inputs)).item() for inputs, worse in judged)


def by_damage(model: nn.Module, batches: Sequence[Any]) -> list[str]:
    """Layers by the harm of leaving out each alone, the least harmful first."""
    judged = judges(model, batches)
    harms = {name: harm(without(model, [name]), judged) for name in layers(model)}
    return sorted(harms, key=lambda name: harms[name])


def drop_by_damage(model: nn.Module, batches: Sequence[Any], met: Met) -> nn.Module:
    """Leave out the layers that do least harm, as many as the target asks for."""
    order = by_damage(model, batches)
    return first_met((without(model, order[:n]) for n in range(1, len(order))), met)


def drop_evenly(model: nn.Module, batches: Sequence[Any], met: Met) -> nn.Module:
    """Keep layers at equal distances, the first and the last among them, as many as the target allows."""
    return first_met((evenly(model, n) for n in range(len(layers(model)) - 1, 0, -1)), met)


def evenly(model: nn.Module, n: int) -> nn.Module:
    """A copy with n layers at equal distances, the first and the last among them."""
    names = layers(model)
    kept = set(np.linspace(0, len(names) - 1, n).round().astype(int).tolist())
    return without(model, [name for i, name in enumerate(names) if i not in kept])


def first_met(models: Any, met: Met) -> nn.Module:
    """The first model within the target.

    Raises:
        NoLayers: none is.
    """
    for smaller in models:
        if met(smaller):
            return smaller
    raise NoLayers("the target is not met with a single layer")


# --- Torch-Pruning ---


def torch_pruning(model: nn.Module, example: Any, batches: Sequence[Any], met: Met, everywhere: bool) -> nn.Module:
    """Group magnitudes in small steps, one ranking of all groups or the same ratio everywhere, then statistics of batch norms.

    Of the ResNets, whose zero-padded shortcuts it cannot follow, it gets the rewrite of `benchmarks.prune_resnet56` and the channels
    inside blocks, with which it did best there. Heads go whole, as in its example for language models, so that nothing but weights
    has to change. The last linear layer keeps its outputs.
    """
    folder_of("torch_pruning")
    import torch_pruning as tp  # type: ignore[import-not-found]

    warnings.simplefilter("ignore")
    smaller = with_convolutions(model) if isinstance(model, CifarResNet) else copy.deepcopy(model)
    last = [part for part in smaller.modules() if isinstance(part, (nn.Linear, nn.modules.conv._ConvNd))][-1]
    ignored = [last, *(part for part in shortcuts(smaller) if part is not last)]
    heads = heads_of(smaller)
    whole = {"prune_num_heads": True, "prune_head_dims": False, "head_pruning_ratio": 1.0} if heads else {}
    pruner = tp.pruner.BasePruner(
        smaller, example, tp.importance.GroupMagnitudeImportance(p=2), global_pruning=everywhere, pruning_ratio=1.0,
        iterative_steps=STEPS, ignored_layers=ignored, num_heads=heads, **whole,
        output_transform=pytree.tree_leaves,
    )  # fmt: skip
    for _ in range(STEPS - 1):
        pruner.step()
        with torch.no_grad():
            run(smaller, example)  # raises what its user would see
        if met(smaller):
            recalibrate_(smaller, batches)
            return smaller
    raise ValueError("the target is not reached")


def shortcuts(model: nn.Module) -> list[nn.Module]:
    """Convolutions of a CIFAR ResNet whose channels reach a shortcut."""
    kept = set(inner(model))
    return [part for part in model.modules() if kept and isinstance(part, nn.Conv2d) and part not in kept]


def heads_of(model: nn.Module) -> dict[nn.Module, int]:
    """How many heads each projection of a transformer has."""
    config = getattr(model, "config", None)
    queries = getattr(config, "num_attention_heads", 0)
    others = getattr(config, "num_key_value_heads", queries)
    counts = {"query": queries, "q_proj": queries, "key": others, "value": others, "k_proj": others, "v_proj": others}
    found = {part: counts.get(name.rpartition(".")[2], 0) for name, part in model.named_modules()}
    return {part: n for part, n in found.items() if n}
