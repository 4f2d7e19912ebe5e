"""What an architecture costs, and guesses of what it is worth."""

from estimators.cost import METRICS, CostModel, block_cost
from estimators.counters import COUNTERS, Count, compare, count_with
from estimators.counting import Cost, Profile, count
from estimators.latency import Latency, compare_latency, measure_latency

__all__ = [
    "COUNTERS",
    "METRICS",
    "Cost",
    "CostModel",
    "Count",
    "Latency",
    "Profile",
    "block_cost",
    "compare",
    "compare_latency",
    "count",
    "count_with",
    "measure_latency",
]
