"""Architectures designed by formula: compound scaling and DeepMAD."""

from estimators.design.residual_stages import residual_cost, residual_space
from estimators.design.scaling import Multipliers, Stages, compound, family, scaled, scaled_to

__all__ = ["Multipliers", "Stages", "compound", "family", "residual_cost", "residual_space", "scaled", "scaled_to"]
