"""Ask and tell: a search whose loop is one's own."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from nas.report import write_report, write_tables
from nas.runtime import stream
from nas.scoring import (
    OURS,
    add,
    allowed,
    contract,
    cost_scorers,
    inherit,
    known,
    losses_of,
    numbers,
    reason,
    score,
    tried,
)
from nas.strategies import make_strategy
from nas.study import LOOP, configure, run_folder
from nas.train import open_run
from pruners.progress import silent
from search_spaces import Architecture, SearchSpace


class Loop:
    """A search that is asked for architectures and told what they are worth.

    It is used in a `with` statement, which locks the run folder. Everything told is on disk at once, and a loop that is opened again
    goes on with it; what was asked and not told is forgotten. Tables, plots and the page are written when the statement ends.

    Args:
        space: a built-in space's name, `module:function`, or a SearchSpace.
        objectives: names, those of one's own with a direction: `["score:max", "macs"]`, or `{"score": "max", "macs": "min"}`. Costs,
            latency and estimates among them are not told but known.
        out: the run folder.
        settings: by keyword, as of `nas.search`: strategy (bayesian), seed, limits, start_from and so on.

    Raises:
        ValueError: a setting or the folder do not fit.

    Example:
        >>> with nas.Loop("resnet20-pooling", {"score": "max"}, out="runs/own") as loop:
        ...     for arch in loop.ask(8):
        ...         loop.tell(arch, {"score": train_and_measure(loop.study.space.build(arch))})
    """

    def __init__(
        self,
        space: str | SearchSpace,
        objectives: Sequence[str] | Mapping[str, str],
        *,
        out: str | Path | None = None,
        **settings: Any,
    ) -> None:
        name = space if isinstance(space, str) else space.name
        config = configure(name, None, evaluate=LOOP, objectives=objectives, **settings)
        folder = run_folder(config, config.strategy) if out is None else Path(out)
        self.study, _, device = open_run(config, folder, space=None if isinstance(space, str) else space)
        self._costs = cost_scorers(self.study, device)
        self._wanted = [objective.name for objective in self.study.objectives if objective.name not in OURS]
        self._asked: dict[str, float] = {}
        self._open = ExitStack()

    def __enter__(self) -> Loop:
        study = self.study
        self._open.enter_context(study.locked())
        self._open.enter_context(study.session())
        space = allowed(study, study.space, self._costs)
        rng = stream(study.config.seed, "strategy")
        self._strategy = make_strategy(study.config.strategy, space, rng, known(study, self._costs))
        inherit(study, space, contract(study.space).costs)
        self._tried = tried(study)
        if self._tried:
            archs = [study.architecture(trial) for trial in self._tried.values()]
            self._strategy.tell(archs, losses_of(list(self._tried.values()), study.objectives))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tried:
            write_tables(self.study)
            write_report(self.study)
        self._open.__exit__(kind, error, trace)

    def ask(self, n: int = 1) -> list[Architecture]:
        """At most `n` architectures that were not asked or told before; none when nothing is left to propose."""
        archs = self._strategy.ask(n)
        self._asked |= dict.fromkeys((arch.key for arch in archs), time.perf_counter())
        return archs

    def tell(self, arch: Architecture, figures: Mapping[str, float] | float) -> None:
        """What an architecture, asked here or not, is worth: numbers by name, or one number where one objective is to be told.

        Others than objectives are kept as notes; an objective that is missing or NaN keeps the architecture off the front.

        Raises:
            ValueError: they are no numbers, or the architecture is of another space or was told before.
        """
        found = numbers(figures, self._wanted, "`figures`")
        self._check(arch)
        (costs,) = score([arch], self._costs, silent)
        self._tell(arch, costs | found)

    def fail(self, arch: Architecture, why: str | BaseException) -> None:
        """An architecture failed: it is not proposed again, and named in tables and on the page with its reason."""
        self._check(arch)
        self._tell(arch, {"reason": reason(why)})

    def _check(self, arch: Architecture) -> None:
        self.study.space.check(arch)
        if arch.key in self._tried:
            raise ValueError(f"{self.study.space.label(arch)} was told before; tell each architecture once")

    def _tell(self, arch: Architecture, outcome: dict[str, Any]) -> None:
        begun = self._asked.pop(arch.key, None)
        outcome["seconds"] = 0.0 if begun is None else round(time.perf_counter() - begun, 4)
        (trial,) = add(self.study, [arch], [outcome])
        self._tried[arch.key] = trial
        self._strategy.tell([arch], losses_of([trial], self.study.objectives))
