"""The JSON files of a run folder, checked as they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from nas.objectives import Objective
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


class Record(BaseModel):
    """What the toolkit takes from `record.json`."""

    space: RecordedSpace
    data: RecordedData | None
    sessions: list[dict[str, Any]]


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
    path = folder / "latency.json"
    if not path.exists():
        return {}
    return _checked(dict[str, MeasuredLatency], path, "remove it, and resume the search to measure again")


def _checked(kind: Any, path: Path, otherwise: str) -> dict[str, Any]:
    """The data of a file as they are, once they are known to be of a kind."""
    data = load_json(path, otherwise)
    with of_file(path, otherwise):
        parse(kind, data)
    return data
