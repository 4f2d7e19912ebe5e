"""Architectures designed by formula: compound scaling and DeepMAD."""

from estimators.design.residual_stages import deepmad_space, deepmad_stages, residual_cost, residual_space
from estimators.design.scaling import (
    Multipliers,
    Stages,
    compound,
    family,
    resnet_rs,
    scaled,
    scaled_to,
    tinynet_to,
)

__all__ = [
    "Multipliers", "Stages", "compound", "deepmad_space", "deepmad_stages", "family", "residual_cost", "residual_space",
    "resnet_rs", "scaled", "scaled_to", "tinynet_to",
]  # fmt: skip
