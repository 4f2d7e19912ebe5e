"""Weights in safetensors files, and modules that take them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor, nn

from search_spaces.core import first_line, load_tensors


def read_tensors(path: Path, otherwise: str) -> dict[str, Tensor]:
    """Tensors by name from a safetensors file, on the CPU.

    Args:
        path: of the file, which is there.
        otherwise: what to do about a file that is damaged; it ends the error.

    Raises:
        ValueError: it is damaged, or its tensors are not those that its digest was made of.
    """
    try:
        return load_tensors(path).tensors
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} is damaged ({first_line(error)}); {otherwise}") from error


def fill(module: nn.Module, tensors: Mapping[str, Tensor], path: Path, otherwise: str) -> None:
    """Give a module the weights that stand in a file.

    Raises:
        ValueError: other names or shapes than the module's.
    """
    with fitting(path, otherwise):
        module.load_state_dict(tensors)


@contextmanager
def fitting(path: Path, otherwise: str) -> Iterator[None]:
    """Turn what tensors of a file raise that are missing, too many or of another shape into a ValueError that names the file."""
    try:
        yield
    except (KeyError, IndexError, TypeError, RuntimeError, ValueError) as error:
        said = first_line(ValueError(" ".join(str(error).split())))
        raise ValueError(f"{path} holds other tensors than are asked for ({said}); {otherwise}") from error
