"""Events as metrics of a run in MLflow."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nas.events.event import Event, curves
from nas.runtime import write_json

FOLDER = "mlruns"
RUN = "mlflow.json"
"""Which run of which server a folder goes on with."""
EXPERIMENT = "nas-toolkit"
DEFAULTS = {
    "MLFLOW_ALLOW_FILE_STORE": "true",  # else a folder is refused
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # a search does not wait for minutes for a server that is down
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
"""Variables of the environment while MLflow is called, where they are not set."""
EVERY = 5.0  # seconds between calls of the server
MOST = 1000  # metrics in a call
MOST_PARAMETERS = 100
STATUS = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
NOT_IN_NAMES = re.compile(r"[^\w\-. :/]")


class MLflow:
    """Sends parameters and metrics to the server in MLFLOW_TRACKING_URI, else to a folder; one run for each run folder."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        uri = os.environ.get("MLFLOW_TRACKING_URI") or (folder / FOLDER).resolve().as_uri()
        self._waiting: list[tuple[str, float, int, int]] = []
        self._sent = time.monotonic()
        with _environment():
            from mlflow import MlflowClient

            self._client = MlflowClient(tracking_uri=uri)
            self._run = self._known(folder, uri) or self._made(folder, uri, settings)

    def write(self, events: Sequence[Event]) -> None:
        now = int(time.time() * 1000)
        self._waiting += [(name, value, now, at) for event in events for name, value, at in curves(event)]
        if len(self._waiting) >= MOST or time.monotonic() - self._sent > EVERY:
            self._send()

    def close(self, how: str) -> None:
        self._send()
        with _environment():
            self._client.set_terminated(self._run, STATUS[how])

    def _send(self) -> None:
        from mlflow.entities import Metric

        while self._waiting:
            part, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
            metrics = [Metric(NOT_IN_NAMES.sub("_", name), value, when, at) for name, value, when, at in part]
            with _environment():
                self._client.log_batch(self._run, metrics=metrics)
        self._sent = time.monotonic()

    def _known(self, folder: Path, uri: str) -> str | None:
        """The folder's run, if the server still has it; it runs again."""
        from mlflow.exceptions import MlflowException

        path = folder / RUN
        kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if kept.get("tracking_uri") != uri:
            return None
        try:
            self._client.update_run(kept["run_id"], status="RUNNING")
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return str(kept["run_id"])

    def _made(self, folder: Path, uri: str, settings: Mapping[str, Any]) -> str:
        from mlflow.entities import Param

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        known = self._client.get_experiment_by_name(name)
        experiment = self._client.create_experiment(name) if known is None else known.experiment_id
        run = str(self._client.create_run(experiment, run_name=folder.resolve().name).info.run_id)
        parameters = [Param(NOT_IN_NAMES.sub("_", name), str(value)) for name, value in settings.items()]
        for first in range(0, len(parameters), MOST_PARAMETERS):
            self._client.log_batch(run, params=parameters[first : first + MOST_PARAMETERS])
        write_json(folder / RUN, {"tracking_uri": uri, "run_id": run})
        return run


@contextmanager
def _environment() -> Iterator[None]:
    unset = [name for name in DEFAULTS if name not in os.environ]
    os.environ.update({name: DEFAULTS[name] for name in unset})
    try:
        yield
    finally:
        for name in unset:
            os.environ.pop(name, None)
