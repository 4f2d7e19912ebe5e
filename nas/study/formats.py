"""The files of an exported network by name: each is written, read back and compared with its source on real examples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nas.runtime import read_pt2
from search_spaces.core import quiet, save_tensors

TOLERANCE = 1e-4


class FormatEntry(NamedTuple):
    """One format: what its file is, and how a module that takes such inputs is written to a path."""

    help: str
    write: Callable[[nn.Module, Tensor, Path], None]


def _write_safetensors(module: nn.Module, inputs: Tensor, path: Path) -> None:
    save_tensors(path, module.state_dict())


def _write_onnx(module: nn.Module, inputs: Tensor, path: Path) -> None:
    try:
        import onnxruntime
    except ImportError as error:
        raise ValueError('format onnx needs more packages: pip install "nas-toolkit[onnx]"') from error
    with quiet(), torch.no_grad():
        of_images = inputs.ndim == 4 and getattr(module(inputs[:1]), "ndim", 0) == 2
        given, found = ("images", "logits") if of_images else ("inputs", "outputs")
        torch.onnx.export(
            module,
            (inputs,),
            path,
            input_names=[given],
            output_names=[found],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            external_data=False,
            verbose=False,
        )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    check_same("model.onnx", module, lambda x: torch.from_numpy(session.run(None, {given: x.numpy()})[0]), inputs)


def _write_pt2(module: nn.Module, inputs: Tensor, path: Path) -> None:
    with quiet():
        program = torch.export.export(module, (inputs,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
        program.example_inputs = None  # they would be pickled
        torch.export.save(program, path)
        reloaded = read_pt2(path).module()
    check_same("model.pt2", module, reloaded, inputs)


def check_same(name: str, source: nn.Module, exported: Any, inputs: Tensor, exact: bool = False) -> None:
    """Compare outputs on real examples, all at once and one at a time.

    Raises:
        ValueError: they differ.
    """
    with torch.inference_mode():
        for batch in (inputs, inputs[:1]):
            expected, got = source(batch), exported(batch)
            difference = (expected - got).abs().max().item() / expected.abs().max().clamp(min=1).item()
            if not difference <= (0 if exact else TOLERANCE):
                raise ValueError(
                    f"{name} differs from its source by {difference:.2g} relative to the largest output; nothing was written"
                )


FORMATS: dict[str, FormatEntry] = {
    "safetensors": FormatEntry("weights alone, for the toolkit; always written", _write_safetensors),
    "onnx": FormatEntry(
        "the network with its weights, for ONNX Runtime and others; needs the extra `onnx`", _write_onnx
    ),
    "pt2": FormatEntry("the network with its weights as torch.export saves it", _write_pt2),
}
