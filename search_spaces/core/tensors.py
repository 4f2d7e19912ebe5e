"""Tensors in safetensors files, with a digest of them in the file's own header.

There it costs nothing to keep: a list of the digests of N files is rewritten N times, or is out of step with a file when a process ends
between the two. A damaged byte changes the tensors or the digest, and not both to match. It tells damage, not forgery.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from search_spaces.core.naming import first_line

DIGEST = "nas-toolkit.sha256"
"""The digest's name in a header."""


class Stored(NamedTuple):
    """What a file holds: tensors by name, on the CPU, and text by name; whether its digest was checked, which older files lack."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    checked: bool


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors from any device, and text by name beside them. A full disk is an OSError, as for any other file."""
    own = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    path.write_bytes(save(own, {**(metadata or {}), DIGEST: _digest(own, metadata or {})}))


def load_tensors(path: Path) -> Stored:
    """Read what a safetensors file holds, and check its digest if it has one.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no whole safetensors file, or what it holds is not what its digest was made of.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(first_line(error)) from error
    digest = metadata.pop(DIGEST, None)
    if digest is not None and digest != _digest(tensors, metadata):
        raise ValueError("what it holds is not what its digest was made of")
    return Stored(tensors, metadata, digest is not None)


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Of names, types, shapes and values, and of the text."""
    found = hashlib.sha256(repr(sorted(metadata.items())).encode())
    for name, tensor in sorted(tensors.items()):
        found.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
