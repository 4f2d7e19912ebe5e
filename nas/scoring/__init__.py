"""What a trial is given: costs, latency, accuracy, and limits on them."""

from nas.scoring.accuracy import SupernetScorer
from nas.scoring.bounds import Remembered, within
from nas.scoring.contract import contract
from nas.scoring.costs import (
    Figures,
    LatencyScorer,
    NetworkScorer,
    Scorer,
    TableScorer,
    UntrainedScorer,
    latency_figures,
)
from nas.scoring.evaluated import Evaluate, EvaluatedScorer, taken_by

__all__ = [
    "Evaluate", "EvaluatedScorer",
    "Figures", "LatencyScorer", "NetworkScorer", "Remembered", "Scorer", "SupernetScorer", "TableScorer", "UntrainedScorer",
    "contract", "latency_figures", "taken_by", "within",
]  # fmt: skip
