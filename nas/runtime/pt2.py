"""Archives of `torch.export`: read only once they are known to hold no pickle."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import torch
from torch.export import ExportedProgram

PICKLES = (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""How `torch.save` and pickles of protocols 2 to 5 begin."""
CONFIGS = ("weights_config.json", "constants_config.json")
OBJECTS = ("custom_obj_", "opaque_obj_")


def read_pt2(path: Path) -> ExportedProgram:
    """The program in a `.pt2` of this process; from elsewhere it can run code even without a pickle, as its shapes are evaluated.

    Raises:
        ValueError: it holds a pickle.
    """
    refuse_pickle(path)
    return torch.export.load(path)


def refuse_pickle(path: Path) -> None:
    """Raise where a `.pt2` holds a pickle, or compiled code.

    The bytes of tensors are numbers, whatever they begin with; every other part must be empty or begin as no pickle does, and have no
    name that torch unpickles. Names count once, in any case: torch and Python would take different ones of two.

    Raises:
        ValueError: naming that part.
    """
    with zipfile.ZipFile(path) as archive:
        parts = {info.filename.lower(): info for info in archive.infolist()}
        tensors: set[str] = set()
        for name, info in parts.items():
            if name.endswith(CONFIGS):
                for payload in json.loads(archive.read(info))["config"].values():
                    if payload["use_pickle"] or payload["path_name"].startswith(OBJECTS):
                        raise _refused(path, payload["path_name"])
                    tensors.add(f"{name.rpartition('/')[0]}/{payload['path_name'].lower()}")
        for info in archive.infolist():
            name = info.filename.lower()
            unpickled = info.file_size > 0 and (
                name.endswith((".pt", ".pkl")) or (name not in tensors and archive.read(info)[:2] in PICKLES)
            )
            if unpickled or "/aotinductor/" in name or parts[name] is not info:
                raise _refused(path, info.filename)


def _refused(path: Path, part: str) -> ValueError:
    return ValueError(
        f"{path.name} must hold tensors and JSON alone, got {part}, which can run code; torch below 2.9 writes pickles (this is "
        f"{torch.__version__}): install a later one, or leave pt2 out"
    )
