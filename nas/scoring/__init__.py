"""What a trial is given: costs, latency, accuracy, and limits on them."""

from nas.scoring.accuracy import SupernetScorer
from nas.scoring.bounds import within
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

__all__ = [
    "Figures", "LatencyScorer", "NetworkScorer", "Scorer", "SupernetScorer", "TableScorer", "UntrainedScorer",
    "contract", "latency_figures", "within",
]  # fmt: skip
