"""Peak memory of activations: the order of operators, and inference in patches."""

from estimators.memory.patched_space import PatchModel
from estimators.memory.patches import PatchCost, choose_patches, patched_cost, run_patched
from estimators.memory.peak import PeakMemory, allocated_peak, peak_memory

__all__ = [
    "PatchCost",
    "PatchModel",
    "PeakMemory",
    "allocated_peak",
    "choose_patches",
    "patched_cost",
    "peak_memory",
    "run_patched",
]
