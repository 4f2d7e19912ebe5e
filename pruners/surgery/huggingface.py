"""The configuration of a smaller Hugging Face model: integers that name sizes, changed where the model can be built from them.

Where layers differ, or sizes that no integer names, the configuration says so in entries of its own: `per_layer_config` holds the
integers of each layer, as far as there are any, and `pruned` what else a loader must know beside the weights.
"""

from __future__ import annotations

import copy
import importlib
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from pruners.surgery.attributes import alike, attribute, set_attribute, size_changes
from pruners.surgery.module import agrees, is_configuration, mend_layer
from pruners.surgery.plan import unique_state
from pruners.surgery.rewrite import Removal

Entry = tuple[str, ...]  # attributes from a configuration to one of its entries, through configurations inside it
Move = dict[Entry, int]
Shapes = dict[str, torch.Size]
LAYERS, PRUNED = "per_layer_config", "pruned"
MOST_NUMBERS = 65_536  # of buffers that a configuration holds
MOST_MODELS = 48  # that are built to find the integers of single layers
TOLERANCE = 1e-4  # largest relative difference between the outputs of the smaller model and of one built again
WAYS = 2  # sizes that become more numbers than this differ between layers, which no single integer expresses
IMPLIED_WIDTHS = ("n_inner", "intermediate_size", "ffn_dim")  # None stands for a multiple of the hidden size


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


def load_pretrained(folder: str | Path, kind: type[nn.Module] | None = None) -> nn.Module:
    """Read a smaller model of transformers that was saved by its `save_pretrained`, also one whose layers differ.

    The model of the saved configuration is built, its layers take on the sizes of the saved weights, and what the configuration
    says of other sizes is set.

    Args:
        folder: written by `save_pretrained`.
        kind: class of the model; None for the one that the configuration names.

    Returns:
        The model in eval mode.

    Raises:
        FileNotFoundError: if there is no configuration, or are no weights.
        ValueError: if transformers has no model of that name, or the weights are not those of the model.
    """
    folder = Path(folder)
    entries = json.loads((folder / "config.json").read_text())
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"no weights at {folder}; give a folder that `save_pretrained` wrote with safetensors")
    if kind is None:
        names = entries.get("architectures") or [None]
        kind = getattr(importlib.import_module("transformers"), str(names[0]), None)
        if kind is None:
            raise ValueError(
                f"`architectures` must name a model of transformers, got {names[0]!r}; give its class as `kind`."
            )
    state = {name: tensor for file in files for name, tensor in load_file(file).items()}
    return _resized(kind, entries, state)


def _resized(kind: Any, entries: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> nn.Module:
    """A model of a configuration with weights of other sizes.

    Raises:
        ValueError: if weights are missing or of no use.
    """
    rest = copy.deepcopy(dict(entries))
    layers, pruned = rest.pop(LAYERS, None), rest.pop(PRUNED, {})
    config = kind.config_class.from_dict(rest)
    with torch.random.fork_rng(devices=[]):
        model: Any = kind(config)
    missing = set(model.state_dict())
    for name, tensor in state.items():
        if name not in missing:
            raise ValueError(f"weights must be those of {kind.__name__}, got {name!r} beside them; give another class.")
        _put(model, name, tensor)
        missing.remove(name)
    model.tie_weights()
    own = model.state_dict()
    known = {own[name].data_ptr() for name in state}
    if lost := sorted(name for name in missing if own[name].data_ptr() not in known):
        raise ValueError(f"weights must be complete, got none for {lost[:4]}; save the model again.")
    for name, values in pruned.get("buffers", {}).items():
        _put(model, name, torch.tensor(values, dtype=model.get_buffer(name).dtype))
    for part in model.modules():
        mend_layer(part)
    for name, value in pruned.get("attributes", {}).items():
        old = attribute(model, name)
        set_attribute(model, name, alike(old, value) if isinstance(old, (list, tuple)) else value)
    _write(model.config, layers, pruned)
    model.eval()
    whole: nn.Module = model
    return whole


def _put(model: nn.Module, name: str, tensor: torch.Tensor) -> None:
    """Set a parameter or buffer of another shape."""
    holder, _, key = name.rpartition(".")
    part = model.get_submodule(holder)
    if key in part._parameters:
        part._parameters[key] = nn.Parameter(tensor, requires_grad=tensor.is_floating_point())
    else:
        part._buffers[key] = tensor


def _write(config: Any, layers: Mapping[Any, Mapping[str, Any]] | None, pruned: Mapping[str, Any]) -> None:
    """Give a configuration entries of its own."""
    if layers:
        config.allow_global_per_layer_attribute_access = True  # the model was built with the global ones
        setattr(config, LAYERS, {int(index): dict(values) for index, values in layers.items()})
    setattr(config, PRUNED, pruned)


def _describe(smaller: nn.Module, part: Any, full: nn.Module, removal: Removal) -> None:
    """Write what `load_pretrained` needs into the configuration of a part, if it gives the same model."""
    pruned = {"attributes": _other_attributes(part, full), "buffers": _other_buffers(part, full)}
    if sum(x.numel() for x in _tensors(part, pruned["buffers"])) > MOST_NUMBERS:
        return
    entries = {**copy.deepcopy(part.config).to_dict(), PRUNED: pruned}
    state = {name: tensor for name, tensor in unique_state(part).items()}
    try:
        fresh = _resized(type(part), entries, state)
    except Exception:  # whatever a constructor says, or weights that only the module has
        return
    if not _same(smaller, part, fresh, removal):
        return
    layers = _layers(part, removal)
    try:
        trial = copy.deepcopy(part.config)
        _write(trial, layers, pruned)
        trial.to_dict()
    except Exception:  # sizes that the configuration refuses
        layers = {}
    _write(part.config, layers, pruned)


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


def _layers(part: Any, removal: Removal) -> dict[int, dict[str, int]]:
    """Integers of each layer that bring a fresh layer close to its shapes, where they are not those of the whole model."""
    config = part.config
    n = getattr(config, "num_hidden_layers", None)
    lists = [name for name, module in part.named_modules() if isinstance(module, nn.ModuleList) and len(module) == n]
    if not lists or not hasattr(type(config), LAYERS):
        return {}
    stem, shapes, moves, models = lists[0], _shapes(part), _moves(config, _changed(removal)), _Models(part)
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
                    config = _changed_config(self.part.config, {(name,): new for name, new in key})
                    self._built[key] = type(self.part)(_reread(config))
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
    have = {name.removeprefix(prefix): shape for name, shape in _shapes(fresh).items() if name.startswith(prefix)}
    if have.keys() != shapes.keys():
        return float("inf")
    apart = sum(_distance(have[name], shapes[name]) for name in shapes)
    for name, module in fresh.named_modules():  # heads and their width are not told apart by shapes
        if name.startswith(prefix):
            held = vars(models.part.get_submodule(name))
            apart += sum(type(value) is int and held.get(key, value) != value for key, value in vars(module).items())
    return apart


def _configured(model: nn.Module) -> Iterator[nn.Module]:
    """The outermost parts with a configuration."""
    if is_configuration(getattr(model, "config", None)):
        yield model
    else:
        for part in model.children():
            yield from _configured(part)


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


def _entries(config: Any, path: Entry = ()) -> Iterator[tuple[Entry, Any]]:
    for name, value in getattr(config, "__dict__", {}).items():
        if is_configuration(value):
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
        if name in parts and is_configuration(source.__dict__.get("config")):
            parts[name].config = source.config
