"""Searches for `benchmarks.faults` to disturb: commands in processes that have imported everything, and functions that evaluate."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import pandas as pd
import torch

from nas import Study
from nas.cli import main
from search_spaces import Architecture

ROOT = Path(__file__).parents[1]
SLOW = ("torch._dynamo", "torch.export._trace", "torchmetrics", "sklearn.datasets", "sklearn.model_selection")
"""What commands import only when they need it."""
MARKS = "FAULTS_MARKS"
"""The variable that names a folder for what is to happen once."""
UNEQUAL = ("seconds", "worker", "started", "latency_ms", "latency_p25_ms", "latency_p75_ms")
"""Columns of tables that no two runs share."""


# --- what evaluates ---


def number(arch: Architecture) -> int:
    """One that looks random, and is always that of the architecture."""
    return crc32(arch.key.encode())


def score(arch: Architecture) -> float:
    """A figure after a few milliseconds."""
    time.sleep(0.005)
    return float(number(arch) % 97)


def slower(arch: Architecture) -> float:
    """Time enough for something to happen meanwhile."""
    time.sleep(0.05)
    return score(arch)


def dies_once(arch: Architecture) -> float:
    """Ends its process for every fourth architecture or so, the first time."""
    mark = Path(os.environ[MARKS]) / str(number(arch))
    if number(arch) % 4 == 0 and not mark.exists():
        mark.touch()
        os._exit(9)
    return score(arch)


def goes_wrong(arch: Architecture) -> float:
    """Hangs for some, raises for others, gives NaN for others."""
    match number(arch) % 11:
        case 0:
            time.sleep(60)
        case 1:
            raise RuntimeError("no luck")
        case 2:  # NAN
            return math.nan
    return score(arch)


def goes_wrong_or_dies(arch: Architecture) -> float:
    """Beside what `goes_wrong` does, it ends its process for some."""
    if number(arch) % 11 == 3:
        os._exit(9)
    return goes_wrong(arch)


NAN = 2
REASONS = {0: "Late", 1: "RuntimeError: no luck", 3: "Died"}
"""What stands in the reasons of trials that went wrong, by their number modulo 11."""


# --- commands ---


class Session:
    """A `nas` command at work.

    Args:
        context: starts its process.
        words: of the command.
        said: the file that what it prints goes to.
        marks: the folder of `MARKS`.
    """

    def __init__(self, context: ForkServerContext, words: list[str], said: Path) -> None:
        self.said = said
        self.process: ForkServerProcess = context.Process(target=_command, args=(words, said))
        self.begun = time.monotonic()
        self.process.start()

    def end(self, by: signal.Signals | None = None) -> int:
        """Its exit status when it is over, as `subprocess` gives it; a signal may end it."""
        if by is not None and self.process.is_alive():
            os.kill(self.process.pid or 0, by)
        self.process.join(120)
        if self.process.is_alive():
            self.process.kill()
            raise SystemExit(f"a session did not end in 120 s, see {self.said}")
        assert self.process.exitcode is not None
        return self.process.exitcode

    def wait(self, for_what: Callable[[], bool]) -> bool:
        """Wait until a function of no arguments gives True; False if the session ends before."""
        while self.process.is_alive():
            if for_what():
                return True
            time.sleep(0.001)
        return False

    @property
    def words(self) -> str:
        """What it printed."""
        return self.said.read_text()


def warmed() -> ForkServerContext:
    """Makes processes that start in a moment."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*SLOW, "nas.cli", "nas.report", "benchmarks.fault_sessions"])
    return context


def _command(words: list[str], said: Path) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the benchmark itself may run in the background
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ |= {"COLUMNS": "400", MARKS: str(said.parent)}
    os.chdir(ROOT)
    torch.set_num_threads(1)
    sys.argv = ["nas", *words]
    main()


# --- what came out ---


class Outcome(NamedTuple):
    """What must not depend on what happened meanwhile: rows of tables, in a common order."""

    trials: list[tuple[Any, ...]]
    front: list[tuple[Any, ...]]
    alone: list[tuple[Any, ...]]


def outcome(folder: Path) -> Outcome:
    """That of a run folder."""
    study = Study.open(folder)
    return Outcome(*(_rows(table) for table in (study.trials, study.front, study.alone)))


def _rows(table: pd.DataFrame) -> list[tuple[Any, ...]]:
    kept = table.drop(columns=list(UNEQUAL), errors="ignore")
    return sorted(map(tuple, kept[sorted(kept)].astype(str).to_numpy().tolist()))


def half_written(folder: Path) -> list[str]:
    """Files that are left half-written, but for the end of a journal and of events, which the next session drops."""
    found = [path.name for path in folder.rglob("*.tmp")]
    for path in folder.rglob("*.json"):
        try:
            json.loads(path.read_text())
        except ValueError:
            found.append(path.name)
    return found


def flip(path: Path, at: int, rng: random.Random) -> None:
    """Change a bit of the byte at a place."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << rng.randrange(7)
    path.write_bytes(data)
