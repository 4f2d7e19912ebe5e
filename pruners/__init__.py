"""Structured pruning of any PyTorch model that `torch.export` can trace, with a proof in every call."""

from pruners.config import CutConfig
from pruners.groups import Group
from pruners.prune import groups, load, prune
from pruners.repair import Repaired, least_squares_, noise, recalibrate_, remap_optimizer, synthetic
from pruners.result import PruneResult, Summary
from pruners.space import PrunableSpace
from pruners.surgery import PruningPlan, load_pretrained
from pruners.vocabulary import Vocabulary, smaller_vocabulary

__all__ = [
    "CutConfig", "Group", "PrunableSpace", "PruneResult", "PruningPlan", "Repaired", "Summary", "Vocabulary", "groups",
    "least_squares_", "load", "load_pretrained", "noise", "prune", "recalibrate_", "remap_optimizer",
    "smaller_vocabulary", "synthetic",
]  # fmt: skip
