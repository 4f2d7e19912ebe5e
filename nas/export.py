"""Subnets as folders that anyone can load: JSON and safetensors, and ONNX and torch.export where asked.

A folder is checked against its source on real examples before it appears under its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nas.retrain import build, weights_path
from nas.runtime import replacing, write_json
from nas.scoring import contract
from nas.study import FORMATS, Study, check_same
from nas.subnet import load
from nas.tasks import Task
from nas.train import load_supernets
from search_spaces import Architecture
from search_spaces.core import unknown_name

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
        folder: made or replaced: `architecture.json`, `model.safetensors`, and `model.onnx` and `model.pt2` if asked.
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
    task = task or study.task()
    if weights_path(study, arch).exists():
        module, source = build(study, arch), "alone"
    else:
        kept = contract(study.space)
        module, source = kept.weights(study, arch, task, load_supernets(study, task)), kept.source
    (inputs, _) = next(task.test.head(EXAMPLES).evenly(EXAMPLES))
    with replacing(folder) as temporary:
        temporary.mkdir()
        write_json(temporary / "architecture.json", _describe(study, arch, task, source))
        for name in dict.fromkeys(("safetensors", *formats)):
            FORMATS[name].write(module, inputs, temporary / f"model.{name}")
        check_same("model.safetensors", module, load(temporary, study.space), inputs, exact=True)
    return folder


def _describe(study: Study, arch: Architecture, task: Task, weights: str) -> dict[str, Any]:
    record = study.record["space"]
    return {
        "space": {"name": record["name"], "options": record["options"]},
        "choices": arch.to_json()["choices"],
        "label": study.space.label(arch),
        "weights": weights,
        **{"input": {"shape": list(study.space.net.input_shape)}, **task.described},
    }
