"""A model from a function, and its weights from a file."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas.pruning.libraries import library_model, library_of
from nas.runtime import import_function
from search_spaces.core import first_line, load_tensors

CHECKPOINT_KEYS = ("state_dict", "model")  # where training scripts keep the weights beside an optimiser


WRAPPER = "module."
COMPILED = "_orig_mod."


def load_model(target: str, options: Mapping[str, Any], weights: Path | None = None) -> nn.Module:
    """The module that `module:function` returns, or a library's model, with weights from a file.

    Args:
        target: `module:function`, or `timm:NAME`, `torchvision:NAME`, `hf:NAME` or `hf:FOLDER`, see `library_model`.
        options: keyword arguments of the function, or of the library.
        weights: a safetensors file, or a `torch.save` file, which is read without running any code in it. A dictionary with a
            `state_dict` or `model` is understood, and so are names of a wrapped model, which all start with `module.`, or of a compiled
            one.

    Raises:
        ValueError: no such function, no module, or weights that do not fit.
    """
    if library_of(target) is not None:
        model = library_model(target, options, weights is not None)
    else:
        model = import_function(target)(**options)
    if not isinstance(model, nn.Module):
        raise ValueError(f"{target!r} must return a module, got {type(model).__name__}")
    if weights is not None:
        try:
            model.load_state_dict(_unwrapped(read_weights(weights), model))
        except RuntimeError as error:
            raise ValueError(f"the weights in {weights} do not fit {target!r}: {error}") from error
    return model.eval()


def read_weights(path: Path) -> dict[str, Tensor]:
    """Parameters and buffers by name from a safetensors or `torch.save` file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, would run code, or holds something else.
    """
    if not path.exists():
        raise FileNotFoundError(f"no weights at {path}")
    try:
        with path.open("rb") as file:
            start = file.read(2)
        if path.suffix == ".safetensors":
            found: Any = load_tensors(path).tensors
        elif start.startswith((b"PK", b"\x80")):
            found = torch.load(path, map_location="cpu", weights_only=True)
        else:
            raise ValueError("neither of safetensors nor of torch.save")
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than tensors, or is damaged, and is not read, as it could run code; save its state_dict alone"
        ) from error
    except Exception as error:  # torch.load raises whatever damage leads to
        raise ValueError(f"{path} is no whole weights file: {first_line(error)}") from error
    for key in CHECKPOINT_KEYS:
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
            break
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ValueError(f"{path} must hold a state_dict: names and tensors, and nothing else")
    return found


def _unwrapped(weights: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Weights without what `torch.compile` puts into names, and `DataParallel` before all names, unless the model's own have it."""
    own = model.state_dict()
    if any(COMPILED in name and name not in own for name in weights):
        weights = {name.replace(COMPILED, ""): value for name, value in weights.items()}
    if all(name.startswith(WRAPPER) for name in weights) and any(name not in own for name in weights):
        return {name.removeprefix(WRAPPER): value for name, value in weights.items()}
    return weights
