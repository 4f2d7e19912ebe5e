"""Objectives with units and directions, Pareto fronts, and rank correlation."""

from nas.objectives import pareto
from nas.objectives.correlation import both_figures, gap, kendall, same_order
from nas.objectives.estimates import ESTIMATES, PATCHED, Estimate, Hardware, element_bytes, estimates
from nas.objectives.growth import Growth
from nas.objectives.objective import (
    DIRECTIONS,
    OBJECTIVES,
    Objective,
    losses,
    own_objective,
    parse_objectives,
    worst_if_nan,
)
from nas.objectives.pareto import Floats, check_losses, hypervolume, non_dominated, rank_and_crowding

__all__ = [
    "DIRECTIONS", "ESTIMATES", "OBJECTIVES", "PATCHED", "Estimate", "Floats", "Growth", "Hardware", "Objective", "both_figures",
    "check_losses", "element_bytes", "estimates", "gap", "hypervolume", "kendall", "losses", "non_dominated", "own_objective",
    "pareto", "parse_objectives", "rank_and_crowding", "same_order", "worst_if_nan",
]  # fmt: skip
