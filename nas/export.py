"""Subnets as folders that anyone can load: JSON and safetensors, and ONNX and torch.export where asked.

A folder is checked against its source on real examples before it appears under its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from estimators.counting import is_shape
from nas.graphs import GRAPH, describe
from nas.report import CARD, model_card
from nas.retrain import build, weights_path
from nas.runtime import names_function, replacing, write_json, write_text
from nas.scoring import contract
from nas.study import FORMATS, Study, check_same
from nas.subnet import known_here, load, load_graph
from nas.tasks import Task
from nas.train import load_shared
from pruners.result import PLAN
from search_spaces import Architecture, SearchSpace
from search_spaces.core import first_line, unknown_name

EXAMPLES = 16


def export(
    study: Study,
    arch: Architecture | str,
    folder: str | Path,
    formats: Sequence[str] = ("safetensors",),
    task: Task | None = None,
) -> Path:
    """Write one subnet of a study.

    Its weights are those of the network trained alone; where none was, those of the best supernet or of the trained model that the
    space is made of, with batch normalisation calibrated on training examples.

    Args:
        study: a finished or unfinished run.
        arch: the architecture, or its label.
        folder: made or replaced: `architecture.json`, `model.safetensors`, and `model.onnx` and `model.pt2` if asked; of a space of
            one's own also `graph.json`, from which `load` builds the network without that space, where a graph can say it; and
            `README.md`, which says what it is, how good, and how to load it.
        formats: any of `FORMATS`; safetensors is always written.
        task: of the run, if it is loaded already.

    Returns:
        The folder.

    Raises:
        ValueError: an unknown format or architecture, or an exported model that does not compute what its source computes.
    """
    for name in formats:
        if name not in FORMATS:
            raise unknown_name("format", name, FORMATS)
    folder = Path(folder)
    if folder.exists() and not (folder / "architecture.json").exists():
        raise ValueError(f"{folder} exists and holds no exported subnet; give another folder")
    arch = study.find(arch) if isinstance(arch, str) else arch
    if task is None and (study.has_examples or study.config.evaluate is not None):
        task = study.task()
    if weights_path(study, arch).exists():
        module, source = build(study, arch), "alone"
    else:
        kept = contract(study.space)
        learner = None if task is None else load_shared(study, task)
        module, source = kept.weights(study, arch, task, learner), kept.source
    inputs = network_inputs(study.space) if task is None else next(task.test.head(EXAMPLES).evenly(EXAMPLES)).inputs
    with replacing(folder) as temporary:
        temporary.mkdir()
        for name in dict.fromkeys(("safetensors", *formats)):
            FORMATS[name].write(module, inputs, temporary / f"model.{name}")
        if (plan := contract(study.space).plan(arch)) is not None:
            write_text(temporary / PLAN, plan.to_json())
        notes = [] if known_here(study.record["space"]["name"]) else write_graph(module, inputs, temporary)
        described = {**_describe(study, arch, task, source), "notes": notes}
        write_json(temporary / "architecture.json", described)
        check_same("model.safetensors", module, load(temporary, study.space), inputs, exact=True)
        write_text(temporary / CARD, model_card(study, arch, described, inputs, temporary, _loads(study, temporary)))
    return folder


def _loads(study: Study, folder: Path) -> str:
    """The Python that loads an export from its own folder."""
    name = study.record["space"]["name"]
    if known_here(name) or (folder / GRAPH).exists():
        return 'nas.load(".")'
    return (
        f'nas.load(".", space={name!r})' if names_function(name) else 'nas.load(".", space=space)  # as it was searched'
    )


def network_inputs(space: SearchSpace) -> Any:
    """Inputs of a space's networks where there are no examples: random numbers of the shape, or a model's own example."""
    inputs = space.net.inputs
    return torch.randn(2, *inputs, generator=torch.Generator().manual_seed(0)) if is_shape(inputs) else inputs


def write_graph(module: nn.Module, inputs: Any, folder: Path) -> list[str]:
    """Write a network's graph into its folder; returns no notes, or one that says why there is none."""
    try:
        if not isinstance(inputs, Tensor):
            raise ValueError("it takes more than one tensor")
        write_text(folder / GRAPH, describe(module, inputs).model_dump_json() + "\n")
        check_same(GRAPH, module, load_graph(folder, module.state_dict()), inputs)
    except ValueError as error:
        (folder / GRAPH).unlink(missing_ok=True)
        reason = first_line(error).replace(f"{folder / GRAPH}: ", "")
        return [f"it loads only with the code of its space, as no graph says what it computes: {reason}"]
    return []


def _describe(study: Study, arch: Architecture, task: Task | None, weights: str) -> dict[str, Any]:
    record = study.record["space"]
    shape = study.space.net.input_shape
    return {
        "space": {"name": record["name"], "options": record["options"]},
        "choices": arch.to_json()["choices"],
        "label": study.space.label(arch),
        "weights": weights,
        **({"input": {"shape": list(shape)}} if shape else {}),
        **({} if task is None else task.described),
    }
