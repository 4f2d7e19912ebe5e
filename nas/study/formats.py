"""The files of an exported network by name: each is written, read back and compared with its source on real examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from nas.pruning import named_outputs
from nas.runtime import read_pt2
from nas.tasks import Batch
from search_spaces.core import quiet, save_tensors

TOLERANCE = 1e-4


class FormatEntry(NamedTuple):
    """One format: what its file is, and how a module that takes such inputs is written to a path."""

    help: str
    write: Callable[[nn.Module, Any, Path], None]


class Flat(nn.Module):
    """A model as a function of tensors alone, to tensors alone, each by name.

    Args:
        model: of any inputs and outputs.
        inputs: a tensor, several in a tuple, or a dict by name.
    """

    def __init__(self, model: nn.Module, inputs: Any) -> None:
        super().__init__()
        self.model = model
        paths, self.spec = pytree.tree_flatten_with_path(inputs)
        self.fixed = [None if isinstance(leaf, Tensor) else leaf for _, leaf in paths]
        self.given = [isinstance(leaf, Tensor) for _, leaf in paths]
        self.names = [_plain(path, place) for place, (path, leaf) in enumerate(paths) if isinstance(leaf, Tensor)]
        self.train(model.training)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The floating-point tensors of what the model returns, in the order of `named`."""
        return tuple(self.named(tensors).values())

    def named(self, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        """The same by name."""
        rest = iter(tensors)
        leaves = [next(rest) if given else fixed for given, fixed in zip(self.given, self.fixed, strict=True)]
        found = named_outputs(Batch(pytree.tree_unflatten(leaves, self.spec)).call(self.model))
        return {name or "outputs": x for name, x in found.items()}


def _plain(path: Any, place: int) -> str:
    """The name of an input, by its key; of one in a row, by its place."""
    key = getattr(path[-1], "key", None) if path else None
    return str(key) if key is not None else f"input_{place}"


def tensors_of(inputs: Any) -> tuple[Tensor, ...]:
    """The tensors among inputs, in order."""
    return tuple(x for x in pytree.tree_leaves(inputs) if isinstance(x, Tensor))


def _write_safetensors(module: nn.Module, inputs: Any, path: Path) -> None:
    save_tensors(path, module.state_dict())


def _write_onnx(module: nn.Module, inputs: Any, path: Path) -> None:
    """One tensor to one as images and logits, where they are such, else as inputs and outputs; several by their own names."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ValueError('format onnx needs more packages: pip install "nas-toolkit[onnx]"') from error
    whole, tensors = _exportable(module, inputs), tensors_of(inputs)
    with quiet(), torch.no_grad():
        returned = whole(*(x[:1] for x in tensors))
        if isinstance(whole, Flat):
            given, found = whole.names, [f"out_{n}" if n in whole.names else n for n in whole.named(tensors)]
        else:
            of_images = tensors[0].ndim == 4 and returned.ndim == 2
            given, found = (["images"], ["logits"]) if of_images else (["inputs"], ["outputs"])
        _export_onnx(whole, tensors, path, given, found)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    taken = {one.name for one in session.get_inputs()}

    def run(inputs: Any) -> Any:
        feeds = {name: x.numpy() for name, x in zip(given, tensors_of(inputs), strict=True) if name in taken}
        return [torch.from_numpy(x) for x in session.run(None, feeds)]

    check_same("model.onnx", module, run, inputs)


def _export_onnx(whole: nn.Module, tensors: tuple[Tensor, ...], path: Path, given: list[str], found: list[str]) -> None:
    """With batches of any size, and where the model allows it, rows of any length."""
    batch = torch.export.Dim("batch", min=1)
    lengths = [{0: batch, 1: torch.export.Dim.DYNAMIC} if _is_row(x) else {0: batch} for x in tensors]
    attempts = [lengths, [{0: batch} for _ in tensors]] if any(map(_is_row, tensors)) else [lengths]
    for dims in attempts:
        try:
            torch.onnx.export(
                whole,
                tensors,
                path,
                input_names=given,
                output_names=found,
                dynamic_shapes=(tuple(dims),) if isinstance(whole, Flat) else tuple(dims),
                external_data=False,
                verbose=False,
            )
            return
        except Exception:
            if dims is attempts[-1]:
                raise


def _is_row(x: Tensor) -> bool:
    """Whether an input is of texts: whole numbers (batch, tokens)."""
    return x.ndim == 2 and not x.is_floating_point()


def _write_pt2(module: nn.Module, inputs: Any, path: Path) -> None:
    whole, tensors = _exportable(module, inputs), tensors_of(inputs)
    batch = torch.export.Dim("batch", min=1)
    dims = tuple({0: batch} for _ in tensors)
    with quiet():
        program = torch.export.export(whole, tensors, dynamic_shapes=(dims,) if isinstance(whole, Flat) else dims)
        program.example_inputs = None  # they would be pickled
        torch.export.save(program, path)
        reloaded = read_pt2(path).module()
    check_same("model.pt2", module, lambda inputs: reloaded(*tensors_of(inputs)), inputs)


def _exportable(module: nn.Module, inputs: Any) -> nn.Module:
    """A module that takes tensors and returns tensors: itself where it takes one and returns one."""
    with torch.no_grad():
        alone = isinstance(inputs, Tensor) and isinstance(module(inputs[:1]), Tensor)
    return module if alone else Flat(module, inputs)


def check_same(name: str, source: nn.Module, exported: Any, inputs: Any, exact: bool = False) -> None:
    """Compare outputs, all floating-point tensors among them, on real examples, all at once and one at a time.

    Args:
        name: of the file, for the message.
        source: what it was made from.
        exported: a module, or a function that takes the inputs as a whole; it returns outputs of any form.
        inputs: a tensor, several in a tuple, or a dict by name, batch first.
        exact: no difference is allowed.

    Raises:
        ValueError: they differ.
    """
    batch = Batch(inputs)
    with torch.inference_mode():
        for each in (batch, batch.split(batch.size)[0]):
            found = each.call(exported) if isinstance(exported, nn.Module) else exported(each.inputs)
            expected, got = _outputs(each.call(source)), _outputs(found)
            if [x.shape for x in expected] != [x.shape for x in got]:
                raise ValueError(f"{name} returns other tensors than its source; nothing was written")
            for wanted, other in zip(expected, got, strict=True):
                difference = (wanted - other).abs().max().item() / wanted.abs().max().clamp(min=1).item()
                if not difference <= (0 if exact else TOLERANCE):
                    raise ValueError(
                        f"{name} differs from its source by {difference:.2g} relative to the largest output; nothing was written"
                    )


def _outputs(returned: Any) -> list[Tensor]:
    """The floating-point tensors with anything in them, in order."""
    return [x for x in named_outputs(returned).values() if x.numel()]


FORMATS: dict[str, FormatEntry] = {
    "safetensors": FormatEntry("weights alone, for the toolkit; always written", _write_safetensors),
    "onnx": FormatEntry(
        "the network with its weights, for ONNX Runtime and others; needs the extra `onnx`", _write_onnx
    ),
    "pt2": FormatEntry("the network with its weights as torch.export saves it", _write_pt2),
}
