"""Shared weights: one supernet, several, and how they learn and predict."""

from nas.supernets.config import LARGEST, SupernetConfig
from nas.supernets.make import Supernets, make_learner, make_sampler
from nas.supernets.mixture import Mixture, MixtureConfig
from nas.supernets.predict import predict, ranked
from nas.supernets.rules import Labels
from nas.supernets.samplers import SAMPLERS
from nas.supernets.splitting import Splitting
from nas.supernets.team import OneSupernet, Team

__all__ = [
    "LARGEST", "SAMPLERS", "Labels", "Mixture", "MixtureConfig", "OneSupernet", "Splitting", "SupernetConfig",
    "Supernets", "Team", "make_learner", "make_sampler", "predict", "ranked",
]  # fmt: skip
