"""Exported subnets and teachers, read back as modules."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from torch import Tensor, nn

from nas.graphs import GRAPH, Description, build_graph, parse_graph
from nas.pruning import PREFIX, functions_of, library_of, load_model
from nas.runtime import check_trust, fill, import_function, names_function, read_tensors, teaches_by_function
from nas.study import build_space
from pruners.result import PLAN
from pruners.surgery import PruningPlan, configure, follow, remember
from search_spaces import SPACES, Architecture, SearchSpace
from search_spaces.core import blueprint, first_line, load_json, of_file, parse, read_bytes

AGAIN = "export it again"


class DescribedSpace(BaseModel):
    """The space of an export: its name, and what its factory is called with."""

    name: str
    options: dict[str, Any]


class Described(BaseModel):
    """What loading an export takes from its `architecture.json`: the space, and a value for each choice."""

    space: DescribedSpace
    choices: dict[str, Any]
    label: str | None = None
    weights: str | None = None
    notes: list[str] = []


def load(folder: str | Path, space: str | SearchSpace | None = None, *, trust: bool = False) -> nn.Module:
    """The exported network, on the CPU in evaluation mode.

    It takes what the networks of its space take. Of images that is float32 (batch, channels, height, width), normalised, and it gives
    logits (batch, classes); `architecture.json` holds the mean and standard deviation to normalise with, and the names of the classes.

    Args:
        folder: what `export` wrote.
        space: needed for a space that was given as an object and has no name to find it by, and for one of `module:function`, whose
            name says that it may be imported. Without it, an export that holds its graph is built from that, and imports nothing.
        trust: import whatever function the folder names; see docs/trust.md.

    Raises:
        ValueError: the folder holds no exported subnet, or one that is damaged, or one of a function that is not trusted.
    """
    folder = Path(folder)
    for name in ("architecture.json", "model.safetensors"):
        if not (folder / name).exists():
            raise ValueError(f"{folder} holds no exported subnet: {name} is missing; export it again")
    file, stored = folder / "architecture.json", folder / "model.safetensors"
    described = read_described(folder)
    weights = read_tensors(stored, AGAIN)
    if space is None and not trust and not known_here(described.space.name) and (folder / GRAPH).exists():
        return load_graph(folder, weights)
    if not isinstance(space, SearchSpace):
        name, options = described.space.name, described.space.options
        check_trust(name, file, named=space, trust=trust)
        if (folder / PLAN).exists():
            return load_planned(folder, name, options, weights)
        for what, function in functions_of(name, options):
            if what != "space":
                check_trust(function, file, trust=trust)
        with of_file(file, AGAIN):
            space = build_space(name, options)
    with of_file(file, AGAIN):
        arch = space.architecture(described.choices)
        _check_size(space, arch, sum(tensor.numel() for tensor in weights.values()))
    module = space.build(arch)
    fill(module, weights, stored, f"both it and architecture.json must be of one export; {AGAIN}")
    return module.eval()


def known_here(name: str) -> bool:
    """Whether a space can be built by its name alone: it is no function, which is imported, and no object, which is elsewhere."""
    return name in SPACES or (":" in name and not names_function(name))


def load_planned(folder: Path, name: str, options: Mapping[str, Any], weights: Mapping[str, Tensor]) -> nn.Module:
    """The smaller model of an export's plan, made of the model that the space's name says; the options' weights are not read.

    A model of transformers keeps its class, and its configuration says the smaller sizes, so that its `save_pretrained` works.

    Raises:
        ValueError: the plan is damaged, or of another model, or the weights are.
    """
    with of_file(folder / PLAN, AGAIN):
        plan = PruningPlan.from_json(read_bytes(folder / PLAN))
        model = load_model(name.removeprefix(PREFIX), options.get("arguments", {}))
        try:
            smaller, full, removal = follow(plan, model)
        except Exception as error:  # names of parts that the model lacks raise whatever they lead to
            raise ValueError(f"must be of the model of {name!r}, got: {first_line(error)}") from error
    stored = folder / "model.safetensors"
    fill(smaller, weights, stored, f"both it and {PLAN} must be of one export; {AGAIN}")
    configure(smaller, full, removal)
    remember(smaller, plan)
    return smaller.eval()


def load_graph(folder: Path, weights: Mapping[str, Tensor]) -> nn.Module:
    """The network of an export's graph, which needs no code but the toolkit's.

    Raises:
        FileNotFoundError: it holds no graph.
        ValueError: it is damaged, or of other weights.
    """
    graph = read_graph(folder)
    with of_file(folder / GRAPH, AGAIN):
        return build_graph(graph, weights)


def read_graph(folder: Path) -> Description:
    """The graph of an export; nothing is made of it.

    Raises:
        FileNotFoundError: it is missing.
        ValueError: it has another form.
    """
    data = load_json(folder / GRAPH, AGAIN)
    with of_file(folder / GRAPH, AGAIN):
        return parse_graph(data)


def read_described(folder: Path) -> Described:
    """What `architecture.json` of an export says; nothing that it names is imported.

    Raises:
        FileNotFoundError: it is missing.
        ValueError: it is damaged.
    """
    path = folder / "architecture.json"
    data = load_json(path, AGAIN)
    with of_file(path, AGAIN):
        return parse(Described, data)


def _check_size(space: SearchSpace, arch: Architecture, stored: int) -> None:
    """Refuse an architecture of more parameters than a file holds numbers, before they are allocated."""
    if space.network is None or not space.network.blocks:
        return
    parts = space.network.parts(space.locals(arch))
    asked = sum(x.numel() for part in parts for x in blueprint(part.block.alone, *part.seen).parameters())
    if asked > stored:
        raise ValueError(f"must be of the weights beside it, {stored:,} numbers, got an architecture of {asked:,}")


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
