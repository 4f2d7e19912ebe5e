"""Model definitions of torchvision, timm and transformers by one line of text each, built with random weights."""

from __future__ import annotations

import inspect
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.utils import _pytree as pytree

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_libraries: list[torch.library.Library] = []


@dataclass(frozen=True)
class Definition:
    """One line of the zoo list.

    Attributes:
        source: "torchvision", "timm" or "transformers".
        name: builder or class name.
        shape: shape of the example input.
        tokens: whether the input holds integers below 100 rather than an image.
        options: keyword arguments of a transformers configuration.
    """

    source: str
    name: str
    shape: tuple[int, ...]
    tokens: bool
    options: dict[str, int]


def declare_missing_operators() -> None:
    """Declare the compiled operators that torchvision registers fake kernels for, so that it imports without them."""
    if _libraries or "nms" in dir(torch.ops.torchvision):
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _SCHEMAS:
        library.define(schema)
    _libraries.append(library)


def parse(line: str) -> Definition:
    """Read one line: source, name, input shape, configuration."""
    source, name, spec, *options = line.split()
    tokens = spec.startswith("tokens=")
    shape = tuple(int(n) for n in spec.removeprefix("tokens=").split("x"))
    pairs = (option.split("=") for option in options)
    return Definition(source, name, shape, tokens, {key: int(value) for key, value in pairs})


def definitions(path: Path | None = None) -> list[Definition]:
    """Read the list, by default `zoo.txt` in the folder named by NAS_DATA."""
    path = path or Path(os.environ.get("NAS_DATA", "../shared/data")) / "zoo.txt"
    lines = (line.strip() for line in path.read_text().splitlines())
    return [parse(line) for line in lines if line and not line.startswith("#")]


def build(definition: Definition, seed: int = 0) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """Build a definition in eval mode with random weights, and an example input for it."""
    declare_missing_operators()
    torch.manual_seed(seed)
    if definition.source == "torchvision":
        import torchvision

        kwargs: dict[str, object] = {"weights": None}
        known = inspect.signature(torchvision.models.get_model_builder(definition.name)).parameters
        if "weights_backbone" in known:
            kwargs["weights_backbone"] = None
        if definition.name in ("googlenet", "inception_v3"):
            kwargs["init_weights"] = True
        model = torchvision.models.get_model(definition.name, **kwargs)
    elif definition.source == "timm":
        import timm

        model = timm.create_model(definition.name, pretrained=False)
    else:
        import transformers

        model_class = getattr(transformers, definition.name)
        config_class = model_class.config_class
        options: dict[str, object] = dict(definition.options)
        if "use_cache" in inspect.signature(config_class).parameters or hasattr(config_class(), "use_cache"):
            options["use_cache"] = False
        model = model_class(config_class(**options))
    shape = definition.shape
    example = torch.randint(0, 100, shape) if definition.tokens else torch.randn(shape)
    return model.eval(), (example,)


def tensors(value: object) -> list[torch.Tensor]:
    """The tensors of a model's output."""
    return [x for x in pytree.tree_leaves(value) if isinstance(x, torch.Tensor)]
