"""One process at a time in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def locked(path: Path, folder: Path) -> Iterator[None]:
    """Keep other processes from writing to a folder, by a lock file at `path`, whose folder is there.

    Raises:
        ValueError: another process has it.
    """
    try:
        held = FileLock(path).acquire(blocking=False)
    except Timeout:
        raise ValueError(f"another process is running in {folder}; wait for it, or give another folder") from None
    with held:
        yield
