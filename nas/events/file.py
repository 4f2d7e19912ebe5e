"""The event file: one line of JSON per event, appended whole; and how it is followed."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nas.events.event import Event, is_number

FILE = "events.jsonl"
EARLIER = "events.1.jsonl"
"""Where the lines stand that a full file held."""
LARGEST = 16 * 2**20
"""Bytes after which a file is full and another is started, which begins with the session's first line."""
AT_ONCE = 2**20
"""Bytes that are read at once; no line is longer."""


class EventFile:
    """Appends events to the file of a folder, each batch by one write. The file is open only meanwhile."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / FILE
        self._first = b""
        self._cut = _ends_within_a_line(self._path)

    def write(self, events: Sequence[Event]) -> None:
        lines = [json.dumps(event).encode() + b"\n" for event in events]
        self._first = self._first or lines[0]
        data = b"\n" * self._cut + b"".join(lines)
        if self._path.exists() and self._path.stat().st_size + len(data) > LARGEST:
            os.replace(self._path, self._path.with_name(EARLIER))
            data = self._first + data
        with open(self._path, "ab", buffering=0) as file:
            written = file.write(data)
        self._cut = False
        if written != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self, how: str) -> None:
        """Nothing is open."""


def _ends_within_a_line(path: Path) -> bool:
    """Whether a process was killed while it wrote the last line."""
    if not path.exists() or not path.stat().st_size:
        return False
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


class Tail:
    """What is appended to a folder's event file: whole lines, from its start on.

    A file that is not there yet has no lines; one that was cut or replaced is read from its start again.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._at = 0
        self._file: tuple[int, int] | None = None

    def lines(self) -> list[str]:
        """Those since the last call; a last one that is still being written waits."""
        found: list[str] = []
        try:
            with open(self._path, "rb") as file:
                about = os.fstat(file.fileno())
                if self._file != (about.st_dev, about.st_ino) or about.st_size < self._at:
                    self._file, self._at = (about.st_dev, about.st_ino), 0
                file.seek(self._at)
                while block := file.read(AT_ONCE):
                    whole = block.rfind(b"\n") + 1
                    if not whole and len(block) < AT_ONCE:
                        break
                    self._at += whole or len(block)  # a line that long is none of ours
                    file.seek(self._at)
                    found += block[:whole].decode(errors="replace").splitlines()
        except FileNotFoundError:
            pass
        return found


def parse(line: str) -> Event | None:
    """The event of a line; None for one that holds none."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    fits = isinstance(event, dict) and isinstance(event.get("figures"), dict) and isinstance(event.get("kind"), str)
    return event if fits and is_number(event.get("seconds")) else None
