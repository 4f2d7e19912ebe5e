"""Exported subnets and teachers, read back as modules."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from nas.pruning import library_of, load_model
from nas.runtime import check_trust, import_function, teaches_by_function
from nas.study import build_space
from search_spaces import SearchSpace


def load(folder: str | Path, space: str | SearchSpace | None = None, *, trust: bool = False) -> nn.Module:
    """The exported network, on the CPU in evaluation mode.

    It takes normalised float32 images (batch, channels, height, width) and gives logits (batch, classes); `architecture.json` holds
    the mean and standard deviation to normalise with, and the names of the classes.

    Args:
        folder: what `export` wrote.
        space: needed for a space that was given as an object and has no name to find it by, and for one of `module:function`, whose
            name says that it may be imported.
        trust: import whatever function the folder names; see docs/trust.md.

    Raises:
        ValueError: the folder holds no exported subnet, or one that is damaged, or one of a function that is not trusted.
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
    if not isinstance(space, SearchSpace):
        check_trust(described["space"]["name"], folder / "architecture.json", named=space, trust=trust)
        space = build_space(described["space"]["name"], described["space"]["options"])
    module = space.build(space.architecture(described["choices"]))
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"the weights in {folder} do not fit its architecture.json ({error}); export it again"
        ) from error
    return module.eval()


def load_teacher(name: str, *, trust: bool = False) -> nn.Module:
    """The network of `module:function`, or of a folder that `nas export` wrote, whose function, if it names one, needs `trust`.

    Raises:
        ValueError: there is no such function or folder, it gives no network, or it names a function that is not trusted.
    """
    if teaches_by_function(name):
        teacher = load_model(name, {}) if library_of(name) else import_function(name)()
        if not isinstance(teacher, nn.Module):
            raise ValueError(f"teacher {name!r} must return a module, got {type(teacher).__name__}")
        return teacher
    return load(name, trust=trust)
