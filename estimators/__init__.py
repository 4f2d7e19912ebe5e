"""What an architecture costs, and guesses of what it is worth."""

from estimators.counting.cost import METRICS, CostModel, block_cost
from estimators.counting.count import Cost, Profile, count
from estimators.counting.other_counters import COUNTERS, Count, compare, count_with
from estimators.design.residual_stages import residual_cost, residual_space
from estimators.design.scaling import Multipliers, Stages, compound, family, scaled, scaled_to
from estimators.energy import Device, Energy, GroupedLayer, best_group_size, estimate_energy, group_sizes, read_device
from estimators.latency.measure import Latency, compare_latency, measure_latency
from estimators.latency.table import LatencyTable, load_table, measure_table
from estimators.latency.transfer import (
    KnownDevice,
    LatencyPredictor,
    choose_samples,
    fit_latency,
    known_device,
    operation_counts,
)
from estimators.memory.patches import PatchCost, choose_patches, patched_cost, run_patched
from estimators.memory.peak import PeakMemory, allocated_peak, peak_memory

__all__ = [
    "COUNTERS",
    "METRICS",
    "Cost",
    "CostModel",
    "Count",
    "Device",
    "Energy",
    "GroupedLayer",
    "KnownDevice",
    "Latency",
    "LatencyPredictor",
    "LatencyTable",
    "Multipliers",
    "PatchCost",
    "PeakMemory",
    "Profile",
    "Stages",
    "allocated_peak",
    "best_group_size",
    "block_cost",
    "choose_patches",
    "choose_samples",
    "compare",
    "compare_latency",
    "compound",
    "count",
    "count_with",
    "estimate_energy",
    "family",
    "fit_latency",
    "group_sizes",
    "known_device",
    "load_table",
    "measure_latency",
    "measure_table",
    "operation_counts",
    "patched_cost",
    "peak_memory",
    "read_device",
    "residual_cost",
    "residual_space",
    "run_patched",
    "scaled",
    "scaled_to",
]
