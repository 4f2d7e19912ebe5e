"""The lock of a run folder, which a process holds as long as it works there."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock, Timeout

LOCK = ".lock"


def is_held(folder: Path) -> bool | None:
    """Whether a process works in a run folder; None where that cannot be told.

    The lock is tried and let go at once: a process that starts at that very moment is told of another one. So do not ask where
    nothing may be running.
    """
    path = folder / LOCK
    if not path.exists():
        return None
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # it is another user's
        return None
