"""Subnets as folders that anyone can load: JSON and safetensors, and ONNX and torch.export where asked.

A folder is checked against its source on real images before it appears under its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from nas.data import ImageData, head, normalize
from nas.pruning import PrunedNetwork
from nas.retrain import build, weights_path
from nas.runtime import replacing, write_json
from nas.scoring import recalibrated
from nas.study import FORMATS, Study, check_same
from nas.subnet import load
from nas.supernets import OneSupernet, Supernets
from nas.train import load_supernets
from nas.training import calibrate_
from search_spaces import Architecture
from search_spaces.core import unknown_name

IMAGES = 16


def export(
    study: Study,
    arch: Architecture | str,
    folder: str | Path,
    formats: Sequence[str] = ("safetensors",),
    data: ImageData | None = None,
) -> Path:
    """Write one subnet of a study.

    Its weights are those of the network trained alone; where none was, those of the best supernet or of the trained model that the
    space is made of, with batch normalisation calibrated on training images.

    Args:
        study: a finished or unfinished run.
        arch: the architecture, or its label.
        folder: made or replaced: `architecture.json`, `model.safetensors`, and `model.onnx` and `model.pt2` if asked.
        formats: any of `FORMATS`; safetensors is always written.
        data: the run's images, if they are loaded already.

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
    data = data or study.data()
    alone = weights_path(study, arch).exists()
    module = build(study, arch) if alone else _untrained(study, arch, data)
    images = normalize(data.test.images[:IMAGES], data.mean, data.std)
    with replacing(folder) as temporary:
        temporary.mkdir()
        write_json(temporary / "architecture.json", _describe(study, arch, data, "alone" if alone else _source(study)))
        for name in dict.fromkeys(("safetensors", *formats)):
            FORMATS[name].write(module, images, temporary / f"model.{name}")
        check_same("model.safetensors", module, load(temporary, study.space), images, exact=True)
    return folder


def from_supernet(study: Study, arch: Architecture, data: ImageData) -> nn.Module:
    """The network of an architecture with the weights of the supernet that ranked it best, calibrated on training images.

    Where the supernet's normalisations have no scale and shift, the network's get 1 and 0.

    Raises:
        ValueError: the run has no trained supernet, or the architecture was not ranked.
    """
    learner = load_supernets(study, data)
    if learner is None:
        raise ValueError(
            f"{study.space.label(arch)} was not trained alone, and the run has no supernet to take weights from"
        )
    supernet = learner.members[_best_supernet(study, arch, learner)].supernet
    locals = study.space.locals(arch)
    calibrated = calibrate_(supernet.extract(locals), data, head(data.train, study.config.ranking.calibration_images))
    module = study.space.net.build(locals)
    module.load_state_dict(calibrated.state_dict(), strict=False)
    return module.eval()


def _untrained(study: Study, arch: Architecture, data: ImageData) -> nn.Module:
    if isinstance(study.space.net, PrunedNetwork):
        return recalibrated(study.space, arch, data, study.config.ranking, study.config.seed)
    return from_supernet(study, arch, data)


def _source(study: Study) -> str:
    """Where the weights of a network that was not trained alone come from."""
    return "trained model" if isinstance(study.space.net, PrunedNetwork) else "supernet"


def _best_supernet(study: Study, arch: Architecture, learner: Supernets) -> int:
    """The supernet that ranked an architecture best, or the one that it belongs to where no other was asked."""
    table = study.trials
    ranked = table[table["architecture"] == arch.key].filter(regex=r"^accuracy_supernet\d+$").dropna(axis=1)
    if ranked.size:
        return int(str(ranked.iloc[0].idxmax()).removeprefix("accuracy_supernet"))
    return 0 if isinstance(learner, OneSupernet) else learner.assign([arch])[0]


def _describe(study: Study, arch: Architecture, data: ImageData, weights: str) -> dict[str, Any]:
    record = study.record["space"]
    return {
        "space": {"name": record["name"], "options": record["options"]},
        "choices": arch.to_json()["choices"],
        "label": study.space.label(arch),
        "weights": weights,
        "input": {"shape": list(data.input_shape), "mean": list(data.mean), "std": list(data.std)},
        "classes": list(data.class_names),
    }
