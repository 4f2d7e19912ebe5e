"""The files of an exported network by name: each is written, read back and compared with its source on real images."""

from __future__ import annotations

import io
import logging
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nas.runtime import put_tensors

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
    check_same("model.onnx", module, lambda x: torch.from_numpy(session.run(None, {"images": x.numpy()})[0]), images)


def _write_pt2(module: nn.Module, images: Tensor, path: Path) -> None:
    with _quiet():
        program = torch.export.export(module, (images,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
        program.example_inputs = None  # they would be pickled
        torch.export.save(program, path)
        _refuse_pickle(path)
        reloaded = torch.export.load(path).module()
    check_same("model.pt2", module, reloaded, images)


def _refuse_pickle(path: Path) -> None:
    """Older versions of torch pickle weights into the archive."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if archive.read(name)[:2] in (b"PK", b"\x80\x02"):
                raise ValueError(
                    f"torch {torch.__version__} writes a pickle ({name}) into pt2 files; install torch>=2.9 or leave pt2 out"
                )


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


FORMATS: dict[str, FormatEntry] = {
    "safetensors": FormatEntry("weights alone, for the toolkit; always written", _write_safetensors),
    "onnx": FormatEntry(
        "the network with its weights, for ONNX Runtime and others; needs the extra `onnx`", _write_onnx
    ),
    "pt2": FormatEntry("the network with its weights as torch.export saves it", _write_pt2),
}
