"""The configuration of a smaller Hugging Face model: integers that name sizes, changed where the model can be built from them.

Where layers differ, or sizes that no integer names, the configuration says so in entries of its own: `per_layer_config` holds the
integers of each layer, as far as there are any, and `pruned` what else a loader must know beside the weights.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from itertools import combinations
from math import isfinite
from typing import Any

import torch
from torch import nn

from pruners.surgery.entries import (
    Move,
    Shapes,
    apart,
    possible_moves,
    reread,
    shapes_of,
    size_choices,
    with_entries,
)
from pruners.surgery.layer_entries import layer_entries
from pruners.surgery.module import agrees, is_configuration
from pruners.surgery.plan import unique_state
from pruners.surgery.pretrained import PRUNED, resized, write_entries
from pruners.surgery.rewrite import Removal

MOST_NUMBERS = 65_536  # of buffers that a configuration holds
TOLERANCE = 1e-4  # largest relative difference between the outputs of the smaller model and of one built again


def configure(smaller: nn.Module, model: nn.Module, removal: Removal) -> bool | None:
    """Give a smaller model configurations from which `save_pretrained` and `from_pretrained` rebuild it.

    A configuration is taken only if a model built from it, also after a round trip through its dictionary, has exactly the
    names and shapes of the smaller one and, with the same weights, returns the same on the example inputs. Where there is none,
    a model of transformers gets the entries that `load_pretrained` reads, if that gives the same.

    Args:
        smaller: a built model; the configurations of its parts are replaced where one is found, else left as they are.
        model: the full model; it is not changed.
        removal: what stayed of the full model.

    Returns:
        Whether every outermost part with a configuration got one that fits; False also where the smaller model, as a graph,
        has none; None if the full model has none either.
    """
    whole = list(_configured(model))
    if not whole:
        return None
    parts = list(_configured(smaller))
    found = [_configure_part(smaller, part, removal) for part in parts]
    for part, full, done in zip(parts, whole, found, strict=False):
        if not done and hasattr(type(part), "from_pretrained"):
            _describe(smaller, part, full, removal)
    return bool(found) and all(found)


def _describe(smaller: nn.Module, part: Any, full: nn.Module, removal: Removal) -> None:
    """Write what `load_pretrained` needs into the configuration of a part, if it gives the same model."""
    pruned = {"attributes": _other_attributes(part, full), "buffers": _other_buffers(part, full)}
    if sum(x.numel() for x in _tensors(part, pruned["buffers"])) > MOST_NUMBERS:
        return
    entries = {**copy.deepcopy(part.config).to_dict(), PRUNED: pruned}
    state = {name: tensor for name, tensor in unique_state(part).items()}
    try:
        fresh = resized(type(part), entries, state)
    except Exception:  # whatever a constructor says, or weights that only the module has
        return
    if not _same(smaller, part, fresh, removal):
        return
    layers = layer_entries(part, removal)
    try:
        trial = copy.deepcopy(part.config)
        write_entries(trial, layers, pruned)
        trial.to_dict()
    except Exception:  # sizes that the configuration refuses
        layers = {}
    write_entries(part.config, layers, pruned)


def _tensors(part: nn.Module, names: Iterable[str]) -> list[torch.Tensor]:
    return [part.get_buffer(name) for name in names]


def _other_attributes(part: nn.Module, full: nn.Module) -> dict[str, Any]:
    """Numbers that modules hold and the full model's do not, but for those that tensors tell."""
    whole, found = dict(full.named_modules()), {}
    for name, module in part.named_modules():
        if name not in whole or isinstance(module, (nn.Linear, nn.Embedding, nn.LayerNorm)):
            continue
        before = vars(whole[name])
        for key, value in vars(module).items():
            number = type(value) in (int, float) or (
                isinstance(value, (list, tuple)) and all(type(x) is int for x in value)
            )
            if number and not key.startswith("_") and key in before and before[key] != value:
                found[f"{name}.{key}".lstrip(".")] = list(value) if isinstance(value, (list, tuple)) else value
    return found


def _other_buffers(part: nn.Module, full: nn.Module) -> dict[str, Any]:
    """Buffers that are not saved with the weights and differ from the full model's, as numbers."""
    saved, whole = set(part.state_dict()), dict(full.named_buffers())
    return {
        name: tensor.tolist()
        for name, tensor in part.named_buffers()
        if name not in saved and name in whole and not torch.equal(tensor, whole[name])
    }


def _configured(model: nn.Module) -> Iterator[nn.Module]:
    """The outermost parts with a configuration."""
    if is_configuration(getattr(model, "config", None)):
        yield model
    else:
        for part in model.children():
            yield from _configured(part)


def _configure_part(smaller: nn.Module, part: nn.Module, removal: Removal) -> bool:
    shapes = shapes_of(part)
    config, moves = _fitted(part, shapes, possible_moves(part.config, size_choices(removal)))
    if _mismatch(part, config, shapes):
        return False
    for blind in ({}, *moves):  # what no shape tells apart, such as the heads of a smaller hidden size
        trial = with_entries(config, blind)
        if not _mismatch(part, trial, shapes):
            fresh = _rebuilt(part, trial)
            if fresh is not None and _same(smaller, part, fresh, removal):
                _hand_over(trial, part)
                return True
    return False


def _fitted(part: nn.Module, shapes: Shapes, moves: list[Move]) -> tuple[Any, list[Move]]:
    """Take every move, or pair of moves, that brings the shapes of a fresh model closer to those that are needed.

    Returns:
        The configuration, and the moves that were not taken.
    """
    config, taken = part.config, [False] * len(moves)
    least = _mismatch(part, config, shapes)
    if not isfinite(least):  # no integer brings back a layer that the full model has beside its configuration
        return config, moves
    for size in (1, 2, 1):
        for which in combinations(range(len(moves)), size):
            if not least:
                break
            if any(taken[i] for i in which):
                continue
            trial = with_entries(config, {key: new for i in which for key, new in moves[i].items()})
            if (mismatch := _mismatch(part, trial, shapes)) < least:
                config, least = trial, mismatch
                for i in which:
                    taken[i] = True
    return config, [move for move, done in zip(moves, taken, strict=True) if not done]


def _mismatch(part: nn.Module, config: Any, shapes: Shapes) -> float:
    """How many dimensions of a fresh model, on no device, are not as needed; infinite if none can be built."""
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            fresh = type(part)(reread(config))
    except Exception:  # whatever a constructor says of sizes that do not go together
        return float("inf")
    have = shapes_of(fresh)
    if have.keys() != shapes.keys():
        return float("inf")
    return sum(apart(have[name], shapes[name]) for name in shapes)


def _rebuilt(part: nn.Module, config: Any) -> nn.Module | None:
    """A fresh model from a configuration that shares the tensors of a part, None if they do not fit into it."""
    device = next((p.device for p in part.parameters()), torch.device("cpu"))
    try:
        with torch.random.fork_rng(devices=[]):
            fresh: nn.Module = type(part)(reread(config)).to(device)
        fresh.load_state_dict(part.state_dict(), assign=True)
    except Exception:  # as above, for what a constructor does only with real tensors
        return None
    return fresh.eval()


def _same(smaller: nn.Module, part: nn.Module, fresh: nn.Module, removal: Removal) -> bool:
    """Whether the smaller model returns the same with a fresh model in the place of one of its parts."""
    shared = {id(tensor): tensor for tensor in (*smaller.parameters(), *smaller.buffers())}
    try:
        whole = copy.deepcopy(smaller, {**shared, id(part): fresh})
        return agrees(whole, smaller, removal, TOLERANCE)
    except Exception:  # its forward cannot run at these shapes
        return False


def _hand_over(config: Any, part: nn.Module) -> None:
    """Give a model a configuration, and each part inside what it gets of it when built; parts that share one then share one."""
    parts = dict(part.named_modules())
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        fresh = type(part)(config)  # not as read again, which forgets how attention is computed
    for name, source in fresh.named_modules():
        if name in parts and is_configuration(source.__dict__.get("config")):
            parts[name].config = source.config
