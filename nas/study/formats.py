"""The files of an exported network by name: each is written, read back and compared with its source on real images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nas.runtime import put_tensors, read_pt2
from search_spaces.core import quiet

TOLERANCE = 1e-4


class FormatEntry(NamedTuple):
    """One format: what its file is, and how a module that takes such images is written to a path."""

    help: str
    write: Callable[[nn.Module, Tensor, Path], None]


def _write_safetensors(module: nn.Module, images: Tensor, path: Path) -> None:
    put_tensors(path, module.state_dict())


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
    check_same("model.onnx", module, lambda x: torch.from_numpy(session.run(None, {"images": x.numpy()})[0]), images)


def _write_pt2(module: nn.Module, images: Tensor, path: Path) -> None:
    with quiet():
        program = torch.export.export(module, (images,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
        program.example_inputs = None  # they would be pickled
        torch.export.save(program, path)
        reloaded = read_pt2(path).module()
    check_same("model.pt2", module, reloaded, images)


def check_same(name: str, source: nn.Module, exported: Any, images: Tensor, exact: bool = False) -> None:
    """Compare logits on real images, all at once and one at a time.

    Raises:
        ValueError: they differ.
    """
    with torch.inference_mode():
        for batch in (images, images[:1]):
            expected, got = source(batch), exported(batch)
            difference = (expected - got).abs().max().item() / expected.abs().max().clamp(min=1).item()
            if not difference <= (0 if exact else TOLERANCE):
                raise ValueError(
                    f"{name} differs from its source by {difference:.2g} relative to the largest logit; nothing was written"
                )


FORMATS: dict[str, FormatEntry] = {
    "safetensors": FormatEntry("weights alone, for the toolkit; always written", _write_safetensors),
    "onnx": FormatEntry(
        "the network with its weights, for ONNX Runtime and others; needs the extra `onnx`", _write_onnx
    ),
    "pt2": FormatEntry("the network with its weights as torch.export saves it", _write_pt2),
}
