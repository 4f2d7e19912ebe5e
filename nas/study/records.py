"""The files of a run folder, checked as they are read: by their form, and by the digests that stand in record.json.

Digests of the few files of which a run has one each stand there. Weights, of which it has many, hold their own
(`search_spaces.core.save_tensors`), and so do trials (`nas.study.chain`): record.json does not grow with them, nor is it written for
each. The digests of two texts of a file may stand there, as the process that writes a new one may end before or after it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from nas.objectives import Objective
from nas.runtime import replacing, write_json
from nas.study.chain import End
from nas.study.config import RunConfig, peek_config
from nas.study.journal import Journal
from search_spaces.core import load_json, of_file, parse


class RecordedSpace(BaseModel):
    """The space of a run, what its factory was called with, and its fingerprint."""

    name: str
    options: dict[str, Any]
    fingerprint: str


class RecordedData(BaseModel):
    """The task of a run: its fingerprint, its first metric and the units of all."""

    name: str
    fingerprint: str
    main: Objective | None = None
    units: dict[str, str] = {}


class RecordedEnd(BaseModel):
    """What the journal held when a session ended."""

    trials: int
    last: str | None


class RecordedSession(BaseModel):
    """What the toolkit takes from a session; older ones say nothing of the journal, as do those that a kill ended."""

    journal: RecordedEnd | None = None


class Record(BaseModel):
    """What the toolkit takes from `record.json`."""

    space: RecordedSpace
    data: RecordedData | None
    digests: dict[str, list[str]] = {}
    sessions: list[RecordedSession]


class MeasuredLatency(BaseModel):
    """What the toolkit takes from an entry of `latency.json`, in milliseconds."""

    model_config = ConfigDict(allow_inf_nan=False)

    latency_ms: float
    latency_p25_ms: float
    latency_p75_ms: float


def read_record(folder: Path) -> dict[str, Any]:
    """What `record.json` of a run folder says.

    Raises:
        ValueError: it is missing or damaged.
    """
    try:
        return _checked(Record, folder / "record.json", "bring it back, or start in another folder")
    except OSError as error:
        raise ValueError(
            f"{folder} is no whole run folder: record.json cannot be read ({error}); start in another folder"
        ) from error


def read_latency(folder: Path) -> dict[str, dict[str, Any]]:
    """What `latency.json` of a run folder says, by architecture key; nothing where there is none.

    Raises:
        ValueError: it is damaged.
    """
    path, otherwise = folder / "latency.json", "remove it, and resume the search to measure again"
    if not path.exists():
        return {}
    found = _checked(dict[str, MeasuredLatency], path, otherwise)
    _check_digest(path, otherwise)
    return found


def recorded_config(folder: Path) -> RunConfig:
    """The configuration of a run folder, to look at it: what it names is not known to be trusted.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or was changed by something else than a run.
    """
    path = folder / "run.yaml"
    config = peek_config(path)
    _check_digest(
        path,
        "bring it back; settings of a run that goes on are given beside `nas search --resume`, and those of another run by "
        "`nas search --config` and another folder",
    )
    return config


def journal_of(folder: Path) -> Journal:
    """The trials of a run folder, with what its sessions left there."""
    ends = [session["journal"] for session in read_record(folder)["sessions"] if session.get("journal")]
    end = max((End(end["trials"], end["last"]) for end in ends), key=lambda end: end.trials, default=None)
    return Journal(folder / "journal.log", end)


def write_recorded(folder: Path, name: str, text: str) -> None:
    """Write a file of a run folder, and its digest first, beside that of what stands there now."""
    path, record, new = folder / name, read_record(folder), text.encode()
    there = [path.read_bytes()] if path.exists() else []
    record.setdefault("digests", {})[name] = list(dict.fromkeys(map(_digest, (*there, new))))
    write_json(folder / "record.json", record)
    with replacing(path) as temporary:
        temporary.write_bytes(new)


def holds(path: Path) -> bool | None:
    """Whether a file of a run folder is what the digest in record.json was made of; None without one."""
    digests = read_record(path.parent).get("digests", {}).get(path.name)
    return _digest(path.read_bytes()) in digests if digests else None


def _check_digest(path: Path, otherwise: str) -> None:
    if holds(path) is False:
        raise ValueError(
            f"{path} must be as the run wrote it, got other bytes than its digest in record.json says; {otherwise}, or, to take it as "
            f"it is, delete `{path.name}` from `digests` there"
        )


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _checked(kind: Any, path: Path, otherwise: str) -> dict[str, Any]:
    """The data of a file as they are, once they are known to be of a kind."""
    data = load_json(path, otherwise)
    with of_file(path, otherwise):
        parse(kind, data)
    return data
