"""Seals of a journal: what was lost, doubled, moved or altered among the trials of a run is told from what was written.

Each trial that the toolkit writes ends with a `digest` of its line and, `after`, the digest of the trial that its writer knew last.
What a trial comes after stands before it, so several processes can append to one file without waiting for each other's lines. Lines
that others wrote, Optuna and its dashboard among them, and those of older versions have no seal and are taken as they are. Optuna
passes over both keys. That the end of the file is there is known from what a session left in record.json.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

DIGEST, AFTER = "digest", "after"
MARK = b',"digest":'
CREATE_STUDY = 0


class End(NamedTuple):
    """What a journal held when a session ended: so many sealed trials, and the digest of the last of them, if that is known."""

    trials: int
    last: str | None


class Chain:
    """The seals of a journal, read from its first line on.

    Args:
        path: the journal, for errors.
        end: what it held at some time; it holds that and more.
    """

    def __init__(self, path: Path, end: End | None = None) -> None:
        self.path, self.end = path, end
        self.last: str | None = None
        self._seen: set[str] = set()
        self._studies: dict[str, str] = {}  # name by number
        self._lines = 0

    @property
    def reached(self) -> End | None:
        """What was read so far; None without a sealed trial."""
        return End(len(self._seen), self.last) if self.last in self._seen else None

    def sealed(self, study: str, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Trials of a study with their seals, to be appended in this order."""
        found, last = [], self.last
        for event in events:
            after = {} if last is None else {AFTER: last}
            last = _digest(study, json.dumps(event, separators=(",", ":")).encode()[:-1])
            found.append({**event, DIGEST: last, **after})
        return found

    def read(self, line: bytes) -> dict[str, Any]:
        """The event of the next line of the journal.

        Raises:
            ValueError: it is no event, or its seal does not hold.
        """
        self._lines += 1
        try:
            event = json.loads(line.decode())  # of bytes, json would guess the encoding
        except ValueError:
            event = None
        if not isinstance(event, dict) or not isinstance(event.get("op_code"), int):
            raise self._refused("is no event", "delete the line to lose its trial")
        if event["op_code"] == CREATE_STUDY and (name := str(event.get("study_name"))) not in self._studies.values():
            self._studies[str(len(self._studies))] = name
        if DIGEST in event:
            self._check(line, event)
        return event

    def check_end(self) -> None:
        """Once all of the file is read, see that what a session left is among it.

        Raises:
            ValueError: it is not.
        """
        if self.end is None:
            return
        if len(self._seen) < self.end.trials or not (self.end.last is None or self.end.last in self._seen):
            raise ValueError(
                f"{self.path} must hold the {self.end.trials} trials that record.json says a session left, got {len(self._seen)}, or "
                f"others; bring it back, or delete `journal` from its sessions to go on without what is lost"
            )

    def _check(self, line: bytes, event: Mapping[str, Any]) -> None:
        digest, after = event[DIGEST], event.get(AFTER)
        study = self._studies.get(str(event.get("study_id")), "")
        content, _, seal = line.rpartition(MARK)
        whole_seal = f'"{digest}"}}' if after is None else f'"{digest}","{AFTER}":"{after}"}}'
        if digest != _digest(study, content) or seal.rstrip().decode() != whole_seal:
            raise self._refused(
                "was altered, or its study was", f"delete the line, and `{AFTER}` from the next, to lose its trial"
            )
        if digest in self._seen:
            raise self._refused("stands there twice", "delete the line")
        if after is not None and str(after) not in self._seen:
            raise self._refused(
                "must come after a trial that does not stand before it: lines are lost, or moved",
                f"delete `{AFTER}` from the line to go on without what is lost",
            )
        self._seen.add(digest)
        self.last = digest

    def _refused(self, why: str, way_out: str) -> ValueError:
        return ValueError(f"{self.path}: line {self._lines} {why}; bring it back, or {way_out}")


def _digest(study: str, content: bytes) -> str:
    """Of a trial's line up to its seal, and of the name of its study, by which it is found; 64 bits tell damage."""
    return hashlib.sha256(study.encode() + b"\n" + content).hexdigest()[:16]
