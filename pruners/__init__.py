"""Structured pruning of any PyTorch model that `torch.export` can trace, with a proof in every call."""

from pruners.config import CutConfig as CutConfig
from pruners.groups import Group as Group
from pruners.prune import groups as groups
from pruners.prune import load as load
from pruners.prune import prune as prune
from pruners.repair import least_squares_ as least_squares_
from pruners.repair import noise as noise
from pruners.repair import recalibrate_ as recalibrate_
from pruners.repair import remap_optimizer as remap_optimizer
from pruners.repair import synthetic as synthetic
from pruners.result import PruneResult as PruneResult
from pruners.result import Summary as Summary
from pruners.space import PrunableSpace as PrunableSpace
from pruners.surgery import PruningPlan as PruningPlan
