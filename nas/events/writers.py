"""Where events go, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from nas.events import file, mlflow, tensorboard
from nas.events.event import Event
from search_spaces.core import unknown_name


class Writer(Protocol):
    """Takes events. What it raises leaves it out, and ends nothing."""

    def write(self, events: Sequence[Event]) -> None:
        """Take events that happened together; there is at least one."""
        ...

    def close(self, how: str) -> None:
        """The session is over: `finished`, `stopped` or `failed`."""
        ...


class LogEntry(NamedTuple):
    """A writer by name: what it is, how it is made for a run folder and its settings by name, and the extra that it needs.

    `files` are what it leaves in the folder.
    """

    help: str
    make: Callable[[Path, Mapping[str, Any]], Writer]
    files: tuple[str, ...]
    needs: str = ""

    @property
    def missing(self) -> bool:
        """Whether its packages are not installed; each extra is called as the package that it brings."""
        return bool(self.needs) and find_spec(self.needs) is None


ALWAYS = "events"
LOGS: dict[str, LogEntry] = {
    ALWAYS: LogEntry(
        "lines of JSON in events.jsonl, which `nas watch` follows; always written",
        file.EventFile,
        (file.FILE, file.EARLIER),
    ),
    "tensorboard": LogEntry(
        "curves in the folder's tensorboard, for `tensorboard --logdir`",
        tensorboard.TensorBoard,
        (tensorboard.FOLDER,),
        "tensorboard",
    ),
    "mlflow": LogEntry(
        "parameters and metrics of one run, at MLFLOW_TRACKING_URI or in the folder's mlruns",
        mlflow.MLflow,
        (mlflow.FOLDER, mlflow.RUN),
        "mlflow",
    ),
}


def known_logs(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names, if each is one of `LOGS`.

    Raises:
        ValueError: one is not; the nearest are offered.
    """
    for name in names:
        if name not in LOGS:
            raise unknown_name("log", name, LOGS)
    return names


def check_logs(names: Sequence[str]) -> None:
    """Refuse writers whose packages are not installed.

    Raises:
        ValueError: one is missing; the message says how to install it.
    """
    for name in names:
        if LOGS[name].missing:
            raise ValueError(f'log {name} needs more packages: pip install "nas-toolkit[{LOGS[name].needs}]"')
