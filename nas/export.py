"""Subnets as folders that anyone can load: JSON and safetensors, and ONNX and torch.export where asked.

A folder is checked against its source on real images before it appears under its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas.data import ImageData, normalize
from nas.retrain import build, weights_path
from nas.runtime import put_tensors, read_pt2, replacing, write_json
from nas.scoring import contract
from nas.study import FORMATS, Study
from nas.subnet import load
from nas.train import load_supernets
from search_spaces import Architecture
from search_spaces.core import quiet, unknown_name

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
    if weights_path(study, arch).exists():
        module, source = build(study, arch), "alone"
    else:
        kept = contract(study.space)
        module, source = kept.weights(study, arch, data, load_supernets(study, data)), kept.source
    images = normalize(data.test.images[:IMAGES], data.mean, data.std)
    with replacing(folder) as temporary:
        temporary.mkdir()
        write_json(temporary / "architecture.json", _describe(study, arch, data, source))
        put_tensors(temporary / "model.safetensors", module.state_dict())
        _check("model.safetensors", module, load(temporary, study.space), images, exact=True)
        if "onnx" in formats:
            _write_onnx(module, images, temporary / "model.onnx")
        if "pt2" in formats:
            _write_pt2(module, images, temporary / "model.pt2")
    return folder


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
    with quiet():
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
    with quiet():
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
