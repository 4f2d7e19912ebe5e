"""Subnets as folders that anyone can load: JSON and safetensors, and ONNX and torch.export where asked.

A folder is checked against its source on real images before it appears under its name.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas.data import ImageData, head, normalize
from nas.pruning import PrunedNetwork
from nas.retrain import build, weights_path
from nas.runtime import put_tensors, read_pt2, replacing, write_json
from nas.scoring import recalibrated
from nas.study import FORMATS, Study
from nas.subnet import load
from nas.supernets import OneSupernet, Supernets
from nas.train import load_supernets
from nas.training import calibrate_
from search_spaces import Architecture
from search_spaces.core import unknown_name

IMAGES = 16
TOLERANCE = 1e-4


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
        formats: any of safetensors, onnx, pt2; safetensors is always written.
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
        put_tensors(temporary / "model.safetensors", module.state_dict())
        _check("model.safetensors", module, load(temporary, study.space), images, exact=True)
        if "onnx" in formats:
            _write_onnx(module, images, temporary / "model.onnx")
        if "pt2" in formats:
            _write_pt2(module, images, temporary / "model.pt2")
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


def _write_onnx(module: nn.Module, images: Tensor, path: Path) -> None:
    try:
        import onnxruntime
    except ImportError as error:
        raise ValueError('format onnx needs more packages: pip install "nas-toolkit[onnx]"') from error
    with _quiet():
        torch.onnx.export(
            module,
            (images,),
            path,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            external_data=False,
            verbose=False,
        )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    _check("model.onnx", module, lambda x: torch.from_numpy(session.run(None, {"images": x.numpy()})[0]), images)


def _write_pt2(module: nn.Module, images: Tensor, path: Path) -> None:
    with _quiet():
        program = torch.export.export(module, (images,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
        program.example_inputs = None  # they would be pickled
        torch.export.save(program, path)
        reloaded = read_pt2(path).module()
    _check("model.pt2", module, reloaded, images)


def _check(name: str, source: nn.Module, exported: Any, images: Tensor, exact: bool = False) -> None:
    """Compare logits on real images, all at once and one at a time."""
    with torch.inference_mode():
        for batch in (images, images[:1]):
            expected, got = source(batch), exported(batch)
            difference = (expected - got).abs().max().item() / expected.abs().max().clamp(min=1).item()
            if not difference <= (0 if exact else TOLERANCE):
                raise ValueError(
                    f"{name} differs from its source by {difference:.2g} relative to the largest logit; nothing was written"
                )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' progress notes off the terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
