"""What a run's strategy knows of architectures before they are tried."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from nas.objectives import Floats
from nas.scoring.costs import Figures, Scorer, TableScorer
from nas.strategies import Knowledge
from nas.study import Study
from pruners.progress import silent
from search_spaces import Architecture

LEFT_OUT = ("weight_bytes",)
"""Figures that are no signals unless they are objectives: params tell the same."""


def known(study: Study, costs: Sequence[Scorer]) -> Knowledge:
    """The figures that cost a moment as signals: exact costs, the damage to a trained model, and latency by a table.

    Objectives among them are known exactly. An architecture whose costs fail has none, and fails as a trial.

    Args:
        study: the run.
        costs: those of `cost_scorers`, exact costs first.
    """
    quick = [costs[0], *(scorer for scorer in costs[1:] if isinstance(scorer, TableScorer))]
    objectives = [objective.name for objective in study.objectives]
    names: list[str] = []

    def figures(archs: Sequence[Architecture]) -> list[Figures]:
        try:
            found = [scorer(archs, silent) for scorer in quick]
        except Exception:
            return [{}] if len(archs) == 1 else [each for arch in archs for each in figures([arch])]
        return [dict(pair for each in those for pair in each.items()) for those in zip(*found, strict=True)]

    def signals(archs: Sequence[Architecture]) -> Floats:
        found = figures(archs)
        return np.array([[float(each.get(name, math.nan)) for name in names] for each in found]).reshape(len(archs), -1)

    sample = figures([study.space.sample(np.random.default_rng(0))])[0]
    names += [name for name in sample if name in objectives or name not in LEFT_OUT]
    exact = {at: names.index(name) for at, name in enumerate(objectives) if name in names}
    return Knowledge(signals, exact, tuple(names))
