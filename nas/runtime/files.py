"""Files that are either whole or absent."""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nas.stopping import held


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes `path`'s place once the body has finished, and is removed if the body fails.

    Works for a file or a folder written by the body. Whatever stood at `path` stays until the new one is on disk. A signal that ends
    a command waits while files change places.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, former = _temporary(path), _temporary(path)
    try:
        yield temporary
        _to_disk(temporary)
        with held():
            if temporary.is_dir() and path.exists():
                os.replace(path, former)
            os.replace(temporary, path)
            _remove(former)
    except OSError as error:
        raise OSError(
            error.errno, f"could not write {path}: {error.strerror}; nothing was left half-written"
        ) from error
    finally:
        with held():
            if former.exists() and not path.exists():
                os.replace(former, path)
            _remove(temporary)


def _temporary(path: Path) -> Path:
    """A name beside `path` that nothing has."""
    return path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"


def _remove(path: Path) -> None:
    """Remove a file or a folder, where that can be done."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):  # a read-only file system says no even where there is no file
            path.unlink()


def _to_disk(path: Path) -> None:
    for file in [path] if path.is_file() else sorted(path.rglob("*")):
        if file.is_file():
            with open(file, "rb+") as handle:
                os.fsync(handle.fileno())


def write_text(path: Path, text: str) -> None:
    """Write a whole text file, or leave what was there."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, data: object) -> None:
    """Write a whole JSON file, or leave what was there."""
    write_text(path, json.dumps(data, indent=2) + "\n")


def sweep(folder: Path) -> None:
    """Remove the temporary files that a killed process left behind below `folder`."""
    for leftover in folder.rglob(".*.tmp"):
        _remove(leftover)


def sweep_beside(path: Path) -> None:
    """Remove what a process that was killed while it was `replacing` this path left behind."""
    ours = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}\.tmp")
    for leftover in path.parent.glob("*.tmp"):
        if ours.fullmatch(leftover.name):
            _remove(leftover)
