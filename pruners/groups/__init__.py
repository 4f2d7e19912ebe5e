"""Which indices of which tensors can only go together."""

from pruners.groups.analysis import analyse, prunable, refuse_nothing, several_names, split_inputs, uncompiled
from pruners.groups.cuts import Cut, Keep, cuts, host_place, kept_per_row
from pruners.groups.dependency import dependency_groups, tie_axes
from pruners.groups.graph import AxisGraph, Group, Member
from pruners.groups.ragged import curve, keep_highest

__all__ = [
    "AxisGraph", "Cut", "Group", "Keep", "Member", "analyse", "curve", "cuts", "dependency_groups", "host_place",
    "keep_highest", "kept_per_row", "prunable", "refuse_nothing", "several_names", "split_inputs", "tie_axes", "uncompiled",
]  # fmt: skip
