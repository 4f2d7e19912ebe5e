"""The configuration of a smaller Hugging Face model: integers that name sizes, changed where the model can be built from them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from itertools import combinations
from math import isfinite
from typing import Any

import torch
from torch import nn

from pruners.surgery.module import agrees, size_changes
from pruners.surgery.rewrite import Removal

Path = tuple[str, ...]  # attributes from a configuration to one of its entries, through configurations inside it
Move = dict[Path, int]
Shapes = dict[str, torch.Size]
TOLERANCE = 1e-4  # largest relative difference between the outputs of the smaller model and of one built again
WAYS = 2  # sizes that become more numbers than this differ between layers, which no single integer expresses
IMPLIED_WIDTHS = ("n_inner", "intermediate_size", "ffn_dim")  # None stands for a multiple of the hidden size


def configure(smaller: nn.Module, model: nn.Module, removal: Removal) -> bool | None:
    """Give a smaller model configurations from which `save_pretrained` and `from_pretrained` rebuild it.

    A configuration is taken only if a model built from it, also after a round trip through its dictionary, has exactly the
    names and shapes of the smaller one and, with the same weights, returns the same on the example inputs.

    Args:
        smaller: a built model; the configurations of its parts are replaced where one is found, else left as they are.
        model: the full model; it is not changed.
        removal: what stayed of the full model.

    Returns:
        Whether every outermost part with a configuration got one that fits; False also where the smaller model, as a graph,
        has none; None if the full model has none either.
    """
    if not any(True for _ in _configured(model)):
        return None
    found = [_configure_part(smaller, part, removal) for part in _configured(smaller)]
    return bool(found) and all(found)


def _configured(model: nn.Module) -> Iterator[nn.Module]:
    """The outermost parts with a configuration."""
    if _is_configuration(getattr(model, "config", None)):
        yield model
    else:
        for part in model.children():
            yield from _configured(part)


def _is_configuration(value: Any) -> bool:
    return not isinstance(value, type) and all(
        callable(getattr(value, n, None)) for n in ("to_dict", "save_pretrained")
    )


def _configure_part(smaller: nn.Module, part: nn.Module, removal: Removal) -> bool:
    shapes = _shapes(part)
    config, moves = _fitted(part, shapes, _moves(part.config, _changed(removal)))
    if _mismatch(part, config, shapes):
        return False
    for blind in ({}, *moves):  # what no shape tells apart, such as the heads of a smaller hidden size
        trial = _changed_config(config, blind)
        if not _mismatch(part, trial, shapes):
            fresh = _rebuilt(part, trial)
            if fresh is not None and _same(smaller, part, fresh, removal):
                _hand_over(trial, part)
                return True
    return False


def _changed(removal: Removal) -> dict[int, set[int]]:
    """Sizes that operators of any module work with and the other sizes that they become."""
    changes: dict[int, set[int]] = {}
    for sizes in size_changes(removal).values():
        for old, new in sizes.items():
            changes.setdefault(old, set()).update(new - {old})
    return {old: new for old, new in changes.items() if old > 1 and 0 < len(new) <= WAYS}


def _moves(config: Any, changes: Mapping[int, set[int]]) -> list[Move]:
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


def _entries(config: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    for name, value in getattr(config, "__dict__", {}).items():
        if _is_configuration(value):
            yield from _entries(value, (*path, name))
        elif not name.startswith("_"):
            yield (*path, name), value


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
            trial = _changed_config(config, {key: new for i in which for key, new in moves[i].items()})
            if (mismatch := _mismatch(part, trial, shapes)) < least:
                config, least = trial, mismatch
                for i in which:
                    taken[i] = True
    return config, [move for move, done in zip(moves, taken, strict=True) if not done]


def _changed_config(config: Any, move: Move) -> Any:
    """A deep copy of a configuration with some entries changed."""
    config = copy.deepcopy(config)
    for path, new in move.items():
        holder = config
        for name in path[:-1]:
            holder = getattr(holder, name)
        setattr(holder, path[-1], new)
    return config


def _shapes(model: nn.Module) -> Shapes:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _mismatch(part: nn.Module, config: Any, shapes: Shapes) -> float:
    """How many dimensions of a fresh model, on no device, are not as needed; infinite if none can be built."""
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            fresh = type(part)(_reread(config))
    except Exception:  # whatever a constructor says of sizes that do not go together
        return float("inf")
    have = _shapes(fresh)
    if have.keys() != shapes.keys():
        return float("inf")
    return sum(_distance(have[name], shapes[name]) for name in shapes)


def _distance(have: torch.Size, need: torch.Size) -> float:
    if len(have) != len(need):
        return float("inf")
    return sum(x != y for x, y in zip(have, need, strict=True))


def _reread(config: Any) -> Any:
    """A configuration as it comes back from its dictionary, with whatever is checked on the way."""
    if hasattr(config, "from_dict"):
        return type(config).from_dict(copy.deepcopy(config.to_dict()))
    return copy.deepcopy(config)


def _rebuilt(part: nn.Module, config: Any) -> nn.Module | None:
    """A fresh model from a configuration that shares the tensors of a part, None if they do not fit into it."""
    device = next((p.device for p in part.parameters()), torch.device("cpu"))
    try:
        with torch.random.fork_rng(devices=[]):
            fresh: nn.Module = type(part)(_reread(config)).to(device)
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
        if name in parts and _is_configuration(source.__dict__.get("config")):
            parts[name].config = source.config
