"""A search among those of other workers: what figures of its study mean, and a strategy that is told what others find."""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from nas.runtime import environment
from nas.scoring.budget import Budget
from nas.scoring.costs import Figures
from nas.scoring.outcome import losses_of, new_trial, tried
from nas.scoring.weights import parent_path
from nas.strategies import Strategy
from nas.study import SEARCH, New, SharedStudy, Study, Trial, open_storage, study_name
from search_spaces import Architecture

LOOK_SECONDS = 0.5
"""How long a worker that has nothing to do waits before it looks again."""


@contextmanager
def sharing(study: Study) -> Iterator[SharedStudy | None]:
    """The study that a run shares with others while it goes on; None if it shares none.

    Raises:
        ValueError: its storage cannot be opened, or figures of the study there mean something else.
    """
    shared = study.config.shared
    if shared.storage is None:
        yield None
        return
    storage = open_storage(shared.storage, shared.grace)
    name = shared.study or study_name(study.config)
    with SharedStudy(storage, name, study.space, study.objectives, meaning(study), shared.grace) as found:
        yield found


def meaning(study: Study, *, trained: bool = False) -> dict[str, Any]:
    """What decides what figures of a run mean, by names of settings; with `trained` also its own supernets.

    Latency is measured on this machine, accuracies by these supernets or this training, and an evaluation may be one's own.
    """
    config, record = study.config, study.record
    found: dict[str, Any] = {
        "space": record["space"]["fingerprint"],
        "data": (record["data"] or {}).get("fingerprint"),
        "objectives": list(config.objectives),
        "at_most": dict(sorted(config.limits.items())),
        "evaluate": config.evaluate,
        "task": config.task,
        "device_file": None if config.hardware is None else asdict(config.hardware),
        "latency_table": None if config.latency_table is None else _digest(Path(config.latency_table)),
        "grace": config.shared.grace,
    }
    if config.evaluate is None:
        found |= {"seed": config.seed, "bfloat16": config.bfloat16}
    if config.timed:
        found["machine"] = environment()["hardware"]
    if not config.measured:
        return found
    found["ranking"] = config.ranking.model_dump(mode="json")
    if config.worth.used != "repaired":
        found["worth"] = config.worth.model_dump(mode="json")
        if trained and config.worth.used == "supernet":
            found["parent"] = _digest(parent_path(study.folder))
    if not config.supernets.count:
        return {**found, "training": config.supernets.training.model_dump(mode="json")}
    source = config.supernets.source
    if trained or source is not None:
        folder = study.folder if source is None else Path(source)
        found["supernets"] = _digest(folder / "supernets" / "checkpoint.safetensors")
    return found


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class SharedStrategy:
    """A strategy of one of several workers: what it asks for is claimed first, and it is told what the others find.

    Every finished trial of others is told before the next architecture is asked for, and written to the run's own journal. An answer
    without architectures means that the study is over, or that nothing is left but what this worker has asked for itself.

    Args:
        study: of this run.
        shared: the study that it shares.
        strategy: proposes; nothing else may tell it.
        start: architectures to try before any that it proposes.
        total: trials of the whole study that there may be.
        budget: told of the trials of others; ends the study where it is spent.

    Raises:
        ValueError: the supernets are not those of the others, or the run folder has trials that the shared study lacks.
    """

    def __init__(
        self,
        study: Study,
        shared: SharedStudy,
        strategy: Strategy,
        start: Sequence[Architecture],
        total: int,
        budget: Budget,
    ) -> None:
        shared.agree(meaning(study, trained=True))
        self._study, self._shared, self._strategy, self._total = study, shared, strategy, total
        self._budget = budget
        self._asked, self._lost = deque(start), set[str]()
        self._written = set(tried(study))
        self._take_over()
        if lacking := self._written - shared.over.keys():
            raise ValueError(
                f"{study.folder} holds {len(lacking)} trials that study {shared.name!r} of `storage` lacks; give the storage that "
                "it was searched with, or another folder"
            )

    @property
    def ahead(self) -> int:
        return self._strategy.ahead

    @property
    def told(self) -> int:
        """Trials of the whole study that are over."""
        return len(self._shared.over)

    def ask(self, n: int) -> list[Architecture]:
        """At most `n` architectures, claimed; waits for those of others, which may die, unless some of its own are to be told."""
        while True:
            self._take_over()
            if self.told >= self._total or self._budget.why is not None:
                return []
            if not self._asked:
                self._asked.extend(self._strategy.ask(n))
            left = bool(self._asked)
            if claimed := self._shared.claim(self._asked, n, self._total):
                return claimed
            if left and not self._asked:
                continue  # all of them are others'
            if self._shared.computing or not self._shared.pending:
                return []
            time.sleep(LOOK_SECONDS)

    def tell(self, archs: Sequence[Architecture], losses: ArrayLike) -> None:
        if kept := [row for row, arch in enumerate(archs) if arch.key not in self._lost]:
            self._strategy.tell([archs[row] for row in kept], np.asarray(losses)[kept])

    def add(self, archs: Sequence[Architecture], outcomes: Sequence[Figures]) -> list[Trial]:
        """Write down what became of claimed architectures, in the storage and then in the run's own journal."""
        added = []
        for arch, outcome in zip(archs, outcomes, strict=True):
            new = new_trial(self._study, arch, outcome)
            values = None if new.values is None else list(new.values)
            ours = Trial(values, {"architecture": arch.to_json(), "label": self._study.space.label(arch), **new.notes})
            finished = self._shared.finish(arch, ours)
            if finished is None:  # others took it over, and theirs counts
                self._lost.add(arch.key)
            added.append(finished or ours)
        self._write([trial for arch, trial in zip(archs, added, strict=True) if arch.key not in self._lost])
        return added

    def _take_over(self) -> None:
        """Tell and write down what others found."""
        if found := self._shared.fetch():
            self._write(found)
            archs = [self._study.architecture(trial) for trial in found]
            self._strategy.tell(archs, losses_of(found, self._study.objectives))
            self._budget.tell(found)

    def _write(self, trials: Sequence[Trial]) -> None:
        archs = [self._study.architecture(trial) for trial in trials]
        new = [(arch, trial) for arch, trial in zip(archs, trials, strict=True) if arch.key not in self._written]
        self._written |= {arch.key for arch, _ in new}
        if new:
            self._study.add_all(SEARCH, [New(arch, trial.values, _notes(trial)) for arch, trial in new])


def _notes(trial: Trial) -> dict[str, Any]:
    return {name: value for name, value in trial.user_attrs.items() if name not in ("architecture", "label")}
