"""Reading of smaller models of transformers that `save_pretrained` wrote, also of those whose layers differ."""

from __future__ import annotations

import copy
import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from pruners.surgery.attributes import alike, attribute, set_attribute
from pruners.surgery.layer_entries import LAYERS
from pruners.surgery.module import mend_layer

PRUNED = "pruned"


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
    return resized(kind, entries, state)


def resized(kind: Any, entries: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> nn.Module:
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
    write_entries(model.config, layers, pruned)
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


def write_entries(config: Any, layers: Mapping[Any, Mapping[str, Any]] | None, pruned: Mapping[str, Any]) -> None:
    """Give a configuration entries of its own."""
    if layers:
        config.allow_global_per_layer_attribute_access = True  # the model was built with the global ones
        setattr(config, LAYERS, {int(index): dict(values) for index, values in layers.items()})
    setattr(config, PRUNED, pruned)
