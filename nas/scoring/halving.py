"""Fewer epochs for bad trials: which of them go on at each rung of their training.

A rung is a number of epochs. A trial that is trained alone is measured there, and goes on only where fewer than one in `reduction` of
the trials known at that rung are better. Better is a front before its own, of the metric at the rung and of the objectives that are
known before training, so that a small network is not stopped for being small.

Reference: Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020, arXiv:1810.05934; brackets: Li et al.,
"Hyperband", JMLR 18, 2018, arXiv:1603.06560; several objectives: Schmucker et al., "Multi-objective Asynchronous Successive Halving",
2021, arXiv:2106.12639.
Differs: a trial that is not promoted when it reaches a rung is stopped for good, and none is paused, so no weights wait on a disk. In
generations, trials come in blocks of eight, each of which is compared with those of earlier blocks, so that trials are the same
whoever scores them. Brackets take turns, one trial each; the last one stops nobody. Of several fronts only ranks count, not distances.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Sequence

import numpy as np

from nas.objectives import Objective, pareto
from nas.scoring.costs import Figures
from nas.scoring.evaluated import OURS
from nas.scoring.rungs import Bars, at_rung, rungs
from nas.study import Study, Trial
from search_spaces import Architecture

BLOCK = 8
LATEST = 256
"""Trials that a rung compares with at most."""


class Halving:
    """Decides what trials have to reach at each rung.

    Args:
        study: of the run, whose trials are trained alone.
    """

    def __init__(self, study: Study) -> None:
        config = study.config
        self.config, self.at_once = config.halving, config.engine.asynchronous
        self.rungs = rungs(config.halving.first, config.halving.reduction, config.supernets.training.epochs)
        self.metric = study.metrics[0]
        self.before = [(at, known) for at, known in enumerate(study.objectives) if known.name in OURS]
        self._asked = 0
        self._bracket: dict[str, int] = {}
        self._known: dict[tuple[int, int], deque[list[float]]] = defaultdict(lambda: deque(maxlen=LATEST))
        self._waiting: list[tuple[str, Trial]] = []
        self._bars: dict[str, Bars] = {}

    @property
    def ahead(self) -> float:
        """Trials that may be asked for before the next block."""
        return math.inf if self.at_once else BLOCK - self._asked % BLOCK

    def ask(self, archs: Sequence[Architecture]) -> None:
        """Architectures are tried, in this order; what was told before is known to those that begin a block."""
        brackets = len(self.rungs) + 1 if self.config.way == "hyperband" else 1
        for arch in archs:
            if self.at_once or self._asked % BLOCK == 0:
                self._learn()
            self._bracket[arch.key] = self._asked % brackets
            self._asked += 1

    def tell(self, archs: Sequence[Architecture], trials: Sequence[Trial]) -> None:
        """What became of architectures, in the order that the strategy is told of them."""
        self._waiting += ((arch.key, trial) for arch, trial in zip(archs, trials, strict=True))

    def bars(self, arch: Architecture, figures: Figures) -> Bars:
        """What an architecture, asked for before, has to reach; `figures` are known before it is trained."""
        if arch.key not in self._bars:
            bracket = self._bracket[arch.key]
            mine = [_loss(known, figures[known.name]) for _, known in self.before]
            self._bars[arch.key] = {
                epochs: self._bar(self._known[bracket, epochs], mine) if number >= bracket else None
                for number, epochs in enumerate(self.rungs)
            }
        return self._bars[arch.key]

    def _learn(self) -> None:
        for key, trial in self._waiting:
            if trial.values is None:
                continue
            others = [_loss(known, trial.values[at]) for at, known in self.before]
            for epochs in self.rungs:
                found = trial.user_attrs.get(at_rung(self.metric.name, epochs))
                if found is not None and math.isfinite(found):
                    self._known[self._bracket.get(key, 0), epochs].append([_loss(self.metric, found), *others])
        self._waiting = []

    def _bar(self, known: Sequence[Sequence[float]], mine: Sequence[float]) -> float | None:
        """The largest loss that goes on, of one with `mine` of the other objectives; found by halving."""
        if len(known) < self.config.reduction:
            return None
        losses = sorted({row[0] for row in known})
        low, high = -1, len(losses)  # the first goes on, as if it were better than all; the last does not
        while high - low > 1:
            middle = (low + high) // 2
            rank = pareto.non_dominated_rank([*known, [losses[middle], *mine]])
            if (rank[:-1] < rank[-1]).sum() * self.config.reduction < len(rank):
                low = middle
            else:
                high = middle
        return losses[low] if low >= 0 else float(np.nextafter(losses[0], -math.inf))


def _loss(objective: Objective, value: float) -> float:
    return -value if objective.higher_is_better else value
