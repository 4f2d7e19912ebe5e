"""Where the trials of a shared study stand: an Optuna storage, with a lock and signs of life that end with their process."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import optuna
from filelock import FileLock
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from nas.runtime import quiet_optuna
from search_spaces.core import first_line

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

BUSY_SECONDS = 60
"""How long a write to SQLite waits for those of others."""
TRY_AGAIN_SECONDS = 0.01
"""How long to wait before trying again for the lock of a file."""
LOCK = 0x6E6173
"""The number of our advisory lock in a PostgreSQL database."""
ALIVE = "alive "
"""Before a worker's name: the attribute of a study in a journal file that counts its signs of life."""
PASSWORD = re.compile(r"(postgres\w*(?:\+\w+)?://[^:/@\s]*):[^@\s]*(?=@)|(?<=[?&])password=[^&\s]*")


class Storage(Protocol):
    """An Optuna storage that several processes write to.

    Attributes:
        optuna: the storage itself.
    """

    optuna: BaseStorage

    def locked(self) -> AbstractContextManager[Any]:
        """Keep other workers from claiming. The lock of a process that dies is free."""

    def changed(self, study: int, unfinished: Collection[int]) -> list[FrozenTrial]:
        """Trials that are new since the last call, and those with the ids `unfinished`."""

    def beat(self, study: int, worker: str, trials: Collection[int]) -> None:
        """A sign of life of a worker that computes trials with these ids."""

    def fail_stale(self, study: int, name: str, running: Mapping[int, str]) -> None:
        """Give up trials whose worker gave no sign of life for the time of grace; `running` are those of others, with their workers."""

    def close(self) -> None:
        """Close connections."""


class JournalFile:
    """A journal file on a file system that has locks.

    Signs of life are counted, and a worker whose count does not grow while an observer waits is dead: no clock is compared with
    another, so one that is wrong or jumps neither loses a trial nor doubles it.
    """

    def __init__(self, path: Path, grace: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock, self._grace = FileLock(f"{path}.claims"), grace
        with self._lock:
            self.optuna: BaseStorage = JournalStorage(JournalFileBackend(str(path), _AppendLock(path)))
        self._next, self._beats = 0, 0
        self._seen: dict[str, tuple[int | None, float]] = {}  # by worker: its count, and since when

    def locked(self) -> AbstractContextManager[Any]:
        return self._lock.acquire(poll_interval=TRY_AGAIN_SECONDS)

    def changed(self, study: int, unfinished: Collection[int]) -> list[FrozenTrial]:
        found = [self.optuna.get_trial(trial) for trial in unfinished]
        with suppress(KeyError):
            while True:
                trial = self.optuna.get_trial_id_from_study_id_trial_number(study, self._next)
                found.append(self.optuna.get_trial(trial))
                self._next += 1
        return found

    def beat(self, study: int, worker: str, trials: Collection[int]) -> None:
        self._beats += 1
        self.optuna.set_study_system_attr(study, ALIVE + worker, self._beats)

    def fail_stale(self, study: int, name: str, running: Mapping[int, str]) -> None:
        counts, now = self.optuna.get_study_system_attrs(study), time.monotonic()
        for worker in set(running.values()):
            count = counts.get(ALIVE + worker)
            if worker not in self._seen or self._seen[worker][0] != count:
                self._seen[worker] = count, now
        for trial, worker in running.items():
            if now - self._seen[worker][1] > self._grace:
                with suppress(UpdateFinishedTrialError):
                    self.optuna.set_trial_state_values(trial, TrialState.FAIL)

    def close(self) -> None:
        pass


class _AppendLock(JournalFileOpenLock):
    """A journal's lock that ends with its process; a line that a process left unfinished when it died is dropped by the next."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, FileLock(f"{path}.appends")

    def acquire(self) -> bool:
        self._lock.acquire(poll_interval=TRY_AGAIN_SECONDS)
        with open(self._path, "rb+") as file:
            if file.seek(0, 2) and file.seek(-1, 2) >= 0 and file.read(1) != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        self._lock.release()


class Database:
    """SQLite or PostgreSQL, with Optuna's heartbeats: they go by the clock of the database."""

    def __init__(self, url: URL, grace: int) -> None:
        from optuna.storages import RDBStorage

        sqlite = url.get_backend_name() == "sqlite"
        self._lock = _FileLock(url) if sqlite else _ServerLock(url)
        with self.locked(), quiet_optuna():  # of several that start at once, one makes the tables
            self._database = RDBStorage(
                url.render_as_string(hide_password=False),
                {"connect_args": {"timeout": BUSY_SECONDS}} if sqlite else {"pool_pre_ping": True},
                heartbeat_interval=max(1, grace // 4),
                grace_period=grace,
            )
        self.optuna: BaseStorage = self._database
        self._last = -1
        self._study: optuna.Study | None = None

    def locked(self) -> AbstractContextManager[Any]:
        return self._lock.held()

    def changed(self, study: int, unfinished: Collection[int]) -> list[FrozenTrial]:
        # What Optuna's own cache asks for; `get_all_trials` would read all of them each time.
        found = self._database._get_trials(study, None, set(unfinished), self._last)
        self._last = max([self._last, *(trial._trial_id for trial in found)])
        return found

    def beat(self, study: int, worker: str, trials: Collection[int]) -> None:
        for trial in trials:
            self._database.record_heartbeat(trial)

    def fail_stale(self, study: int, name: str, running: Mapping[int, str]) -> None:
        with quiet_optuna():
            self._study = self._study or optuna.load_study(study_name=name, storage=self._database)
            optuna.storages.fail_stale_trials(self._study)

    def close(self) -> None:
        self._lock.close()
        self._database.remove_session()
        self._database.engine.dispose()


class _FileLock:
    """A lock beside the file of SQLite."""

    def __init__(self, url: URL) -> None:
        if url.database in (None, "", ":memory:"):
            raise ValueError("SQLite in memory is of one process")
        path = Path(str(url.database))
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(f"{path}.claims")

    def held(self) -> AbstractContextManager[Any]:
        return self._lock.acquire(poll_interval=TRY_AGAIN_SECONDS)

    def close(self) -> None:
        pass


class _ServerLock:
    """An advisory lock of PostgreSQL, which ends with the transaction or the connection."""

    def __init__(self, url: URL) -> None:
        from sqlalchemy import create_engine

        self._engine = create_engine(url, pool_pre_ping=True)

    @contextmanager
    def held(self) -> Iterator[None]:
        from sqlalchemy import text

        with self._engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": LOCK})
            yield

    def close(self) -> None:
        self._engine.dispose()


def open_storage(place: str, grace: int) -> Storage:
    """The storage at a path of a journal file, or at a URL `sqlite:///…` or `postgresql://…`; made if it is not there.

    Args:
        place: the path or URL.
        grace: seconds without a sign of life after which a worker counts as dead.

    Raises:
        ValueError: it is of another kind, lacks a package, or cannot be opened.
    """
    shown = without_password(place)
    try:
        if "://" not in place:
            return JournalFile(Path(place), grace)
        from sqlalchemy.engine import make_url

        url = make_url(place)
        kind = url.get_backend_name()
        if kind not in ("sqlite", "postgresql"):
            raise ValueError("its kind must be sqlite or postgresql")
        if kind == "postgresql" and "+" not in url.drivername:
            if find_spec("psycopg") is None:
                raise ValueError("PostgreSQL needs psycopg, `pip install nas-toolkit[postgresql]`")
            url = url.set(drivername="postgresql+psycopg")
        return Database(url, grace)
    except Exception as error:  # whatever Optuna, the driver or a damaged line leads to
        said = without_password(first_line(error))
        raise ValueError(
            f"`storage` {shown} cannot be opened ({said}); give a journal file, sqlite:///file.db or postgresql://host/database"
        ) from error


def without_password(text: str) -> str:
    """A text with URLs as they may be written down: without their passwords."""
    return PASSWORD.sub(lambda found: found[1] or "", text)
