"""What a trial is given: costs, latency, accuracy, and limits on them."""

from nas.scoring.accuracy import AloneScorer, PrunedScorer, SupernetScorer, recalibrated
from nas.scoring.bounds import check_kept, within
from nas.scoring.costs import (
    CostScorer,
    Figures,
    LatencyScorer,
    NetworkScorer,
    PrunedCostScorer,
    Scorer,
    TableScorer,
    UntrainedScorer,
    latency_figures,
)

__all__ = [
    "AloneScorer",
    "CostScorer",
    "Figures",
    "LatencyScorer",
    "NetworkScorer",
    "PrunedCostScorer",
    "PrunedScorer",
    "Scorer",
    "SupernetScorer",
    "TableScorer",
    "UntrainedScorer",
    "check_kept",
    "latency_figures",
    "recalibrated",
    "within",
]
