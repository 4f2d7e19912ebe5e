"""Structured pruning of any PyTorch model that `torch.export` can trace, with a proof in every call."""

from pruners.compensation import noise as noise
from pruners.compensation import recalibrate_ as recalibrate_
from pruners.groups import Group as Group
from pruners.least_squares import least_squares_ as least_squares_
from pruners.optimiser import remap_optimizer as remap_optimizer
from pruners.plan import PruningPlan as PruningPlan
from pruners.prune import PruneResult as PruneResult
from pruners.prune import Summary as Summary
from pruners.prune import groups as groups
from pruners.prune import load as load
from pruners.prune import prune as prune
from pruners.space import PrunableSpace as PrunableSpace
from pruners.synthetic import synthetic as synthetic
