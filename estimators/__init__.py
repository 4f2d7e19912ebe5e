"""What an architecture costs, and guesses of what it is worth."""

from estimators.cost import METRICS, CostModel, block_cost
from estimators.counters import COUNTERS, Count, compare, count_with
from estimators.counting import Cost, Profile, count
from estimators.latency import Latency, compare_latency, measure_latency
from estimators.latency_transfer import KnownDevice, LatencyPredictor, choose_samples, fit_latency

__all__ = [
    "COUNTERS",
    "METRICS",
    "Cost",
    "CostModel",
    "Count",
    "KnownDevice",
    "Latency",
    "LatencyPredictor",
    "Profile",
    "block_cost",
    "choose_samples",
    "compare",
    "compare_latency",
    "count",
    "count_with",
    "fit_latency",
    "measure_latency",
]
