"""Entries of a Hugging Face configuration: which integers name sizes that change, and configurations with others."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from pruners.surgery.attributes import size_changes
from pruners.surgery.module import is_configuration
from pruners.surgery.rewrite import Removal

Entry = tuple[str, ...]  # attributes from a configuration to one of its entries, through configurations inside it
Move = dict[Entry, int]
Shapes = dict[str, torch.Size]
WAYS = 2  # sizes that become more numbers than this differ between layers, which no single integer expresses
IMPLIED_WIDTHS = ("n_inner", "intermediate_size", "ffn_dim")  # None stands for a multiple of the hidden size


def size_choices(removal: Removal) -> dict[int, set[int]]:
    """Sizes that operators of any module work with and the other sizes that they become."""
    changes: dict[int, set[int]] = {}
    for sizes in size_changes(removal).values():
        for old, new in sizes.items():
            changes.setdefault(old, set()).update(new - {old})
    return {old: new for old, new in changes.items() if old > 1 and 0 < len(new) <= WAYS}


def possible_moves(config: Any, changes: Mapping[int, set[int]]) -> list[Move]:
    """Changes of one entry each that may be what the smaller shapes need."""
    moves = [
        {path: new} for path, value in _entries(config) if type(value) is int for new in sorted(changes.get(value, ()))
    ]
    widths = sorted({new for sizes in changes.values() for new in sizes})
    for path, value in _entries(config):
        if value is None and path[-1] in IMPLIED_WIDTHS:
            moves += [{path: width} for width in widths]
    hidden, heads = (getattr(config, name, None) for name in ("hidden_size", "num_attention_heads"))
    if moves and getattr(config, "head_dim", None) is None and isinstance(hidden, int) and isinstance(heads, int):
        moves.append({("head_dim",): hidden // max(heads, 1)})  # what it is if nothing is said, before heads change
    return moves


def _entries(config: Any, path: Entry = ()) -> Iterator[tuple[Entry, Any]]:
    for name, value in getattr(config, "__dict__", {}).items():
        if is_configuration(value):
            yield from _entries(value, (*path, name))
        elif not name.startswith("_"):
            yield (*path, name), value


def with_entries(config: Any, move: Move) -> Any:
    """A deep copy of a configuration with some entries changed."""
    config = copy.deepcopy(config)
    for path, new in move.items():
        holder = config
        for name in path[:-1]:
            holder = getattr(holder, name)
        setattr(holder, path[-1], new)
    return config


def reread(config: Any) -> Any:
    """A configuration as it comes back from its dictionary, with whatever is checked on the way."""
    if hasattr(config, "from_dict"):
        return type(config).from_dict(copy.deepcopy(config.to_dict()))
    return copy.deepcopy(config)


def shapes_of(model: nn.Module) -> Shapes:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def apart(have: torch.Size, need: torch.Size) -> float:
    if len(have) != len(need):
        return float("inf")
    return sum(x != y for x, y in zip(have, need, strict=True))
