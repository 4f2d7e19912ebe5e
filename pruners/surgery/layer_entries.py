"""Integers of single layers in a Hugging Face configuration: what brings a fresh layer to its shapes."""

from __future__ import annotations

from collections.abc import Mapping
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
from pruners.surgery.rewrite import Removal

LAYERS = "per_layer_config"
MOST_MODELS = 48  # that are built to find the integers of single layers


def layer_entries(part: Any, removal: Removal) -> dict[int, dict[str, int]]:
    """Integers of each layer that bring a fresh layer close to its shapes, where they are not those of the whole model."""
    config = part.config
    n = getattr(config, "num_hidden_layers", None)
    lists = [name for name, module in part.named_modules() if isinstance(module, nn.ModuleList) and len(module) == n]
    if not lists or not hasattr(type(config), LAYERS):
        return {}
    stem, shapes, moves, models = (
        lists[0],
        shapes_of(part),
        possible_moves(config, size_choices(removal)),
        _Models(part),
    )
    known: dict[tuple[Any, ...], dict[str, int]] = {}
    found = {}
    for index in range(int(n or 0)):
        prefix = f"{stem}.{index}."
        own = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
        key = tuple(own.items())
        if key not in known:
            known[key] = _layer(models, own, prefix, moves)
        if known[key]:
            found[index] = known[key]
    return found


class _Models:
    """Models on no device by the entries of their configuration that differ, built once each; at most `MOST_MODELS`."""

    def __init__(self, part: Any) -> None:
        self.part = part
        self._built: dict[tuple[tuple[str, int], ...], nn.Module | None] = {}

    def of(self, entries: Mapping[str, int]) -> nn.Module | None:
        """The model with some entries; None if it cannot be built, or too many were."""
        key = tuple(sorted(entries.items()))
        if key not in self._built and len(self._built) < MOST_MODELS:
            try:
                with torch.device("meta"), torch.random.fork_rng(devices=[]):
                    config = with_entries(self.part.config, {(name,): new for name, new in key})
                    self._built[key] = type(self.part)(reread(config))
            except Exception:  # whatever a constructor says of sizes that do not go together
                self._built[key] = None
        return self._built.get(key)


def _layer(models: _Models, shapes: Shapes, prefix: str, moves: list[Move]) -> dict[str, int]:
    """The entries of one layer, taken one after the other as they bring its shapes closer."""
    taken: dict[str, int] = {}
    least = _layer_mismatch(models, taken, shapes, prefix)
    singles = [move for move in moves if all(len(path) == 1 for path in move)]
    for _ in range(2):
        for move in singles:
            trial = {**taken, **{path[0]: new for path, new in move.items()}}
            if least and (mismatch := _layer_mismatch(models, trial, shapes, prefix)) < least:
                taken, least = trial, mismatch
    return taken


def _layer_mismatch(models: _Models, entries: Mapping[str, int], shapes: Shapes, prefix: str) -> float:
    """How many dimensions of a layer are not as needed in a model of some entries; infinite if none can be built."""
    fresh = models.of(entries)
    if fresh is None:
        return float("inf")
    have = {name.removeprefix(prefix): shape for name, shape in shapes_of(fresh).items() if name.startswith(prefix)}
    if have.keys() != shapes.keys():
        return float("inf")
    total = sum(apart(have[name], shapes[name]) for name in shapes)
    for name, module in fresh.named_modules():  # heads and their width are not told apart by shapes
        if name.startswith(prefix):
            held = vars(models.part.get_submodule(name))
            total += sum(type(value) is int and held.get(key, value) != value for key, value in vars(module).items())
    return total
