"""Exported subnets and teachers, read back as modules."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from nas.runtime import import_function
from nas.study import build_space
from search_spaces import SearchSpace


def load(folder: str | Path, space: SearchSpace | None = None) -> nn.Module:
    """The exported network, on the CPU in evaluation mode.

    It takes normalised float32 images (batch, channels, height, width) and gives logits (batch, classes); `architecture.json` holds
    the mean and standard deviation to normalise with, and the names of the classes.

    Args:
        folder: what `export` wrote.
        space: needed only for a space that was given as an object and has no name to find it by.

    Raises:
        ValueError: the folder holds no exported subnet, or one that is damaged.
    """
    folder = Path(folder)
    for name in ("architecture.json", "model.safetensors"):
        if not (folder / name).exists():
            raise ValueError(f"{folder} holds no exported subnet: {name} is missing; export it again")
    try:
        described = json.loads((folder / "architecture.json").read_text(encoding="utf-8"))
        weights = load_file(folder / "model.safetensors")
    except (ValueError, SafetensorError) as error:
        raise ValueError(f"the subnet in {folder} is damaged ({error}); export it again") from error
    space = space or build_space(described["space"]["name"], described["space"]["options"])
    module = space.build(space.architecture(described["choices"]))
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"the weights in {folder} do not fit its architecture.json ({error}); export it again"
        ) from error
    return module.eval()


def load_teacher(name: str) -> nn.Module:
    """The network of `module:function`, or of a folder that `nas export` wrote.

    Raises:
        ValueError: there is no such function or folder, or it gives no network.
    """
    if ":" in name and not Path(name).exists():
        teacher = import_function(name)()
        if not isinstance(teacher, nn.Module):
            raise ValueError(f"teacher {name!r} must return a module, got {type(teacher).__name__}")
        return teacher
    from nas.subnet import load  # it makes learners itself

    return load(name)
