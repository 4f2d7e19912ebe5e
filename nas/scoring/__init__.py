"""What a trial is given: costs, latency, accuracy, and limits on them."""

from nas.scoring.accuracy import OneByOne, SupernetScorer, Terms, TrainedAlone
from nas.scoring.bounds import Remembered, within
from nas.scoring.budget import Budget
from nas.scoring.contract import Shared, contract
from nas.scoring.costs import (
    Figures,
    LatencyScorer,
    NetworkScorer,
    Scorer,
    TableScorer,
    UntrainedScorer,
    latency_figures,
)
from nas.scoring.evaluated import OURS, Evaluate, EvaluatedScorer, taken_by
from nas.scoring.halving import Halving
from nas.scoring.inherited import check_compares, inherit, inherited
from nas.scoring.known import known
from nas.scoring.outcome import add, losses_of, numbers, reason, score, tell_missing, tried
from nas.scoring.race import Race, Races
from nas.scoring.rungs import STOPPED, Bars
from nas.scoring.shared import SharedStrategy, sharing
from nas.scoring.trials import Scored, Trials
from nas.scoring.untrained import allowed, cost_scorers
from nas.scoring.weights import parent_path

__all__ = [
    "OURS", "STOPPED", "Bars", "Budget", "Evaluate", "EvaluatedScorer", "Figures", "Halving", "LatencyScorer", "NetworkScorer",
    "OneByOne", "Race", "Races", "Remembered", "Scored", "Scorer", "Shared", "SharedStrategy", "SupernetScorer", "TableScorer",
    "Terms", "TrainedAlone", "Trials", "UntrainedScorer", "add", "allowed", "check_compares", "contract", "cost_scorers", "inherit",
    "inherited", "known", "latency_figures", "losses_of", "numbers", "parent_path", "reason", "score", "sharing", "taken_by",
    "tell_missing", "tried", "within",
]  # fmt: skip
