"""Objectives with units and directions, Pareto fronts, and rank correlation."""

from nas.objectives import pareto
from nas.objectives.correlation import both_accuracies, gap, kendall, same_order
from nas.objectives.estimates import ESTIMATES, Estimate, Hardware, estimates
from nas.objectives.objective import OBJECTIVES, Objective, losses, parse_objectives
from nas.objectives.pareto import Floats, check_losses, hypervolume, non_dominated, rank_and_crowding

__all__ = [
    "ESTIMATES", "OBJECTIVES", "Estimate", "Floats", "Hardware", "Objective", "both_accuracies", "check_losses",
    "estimates", "gap", "hypervolume", "kendall", "losses", "non_dominated", "pareto", "parse_objectives",
    "rank_and_crowding", "same_order",
]  # fmt: skip
