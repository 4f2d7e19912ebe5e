"""Exact costs: macs, params, activations and bytes of networks and of encoded architectures."""

from estimators.counting.cost import METRICS, CostModel, block_cost
from estimators.counting.count import (
    Cost,
    Inputs,
    Profile,
    Tally,
    count,
    device_of,
    dtype_of,
    example,
    is_shape,
    run_with,
    standing_in,
    without_fused_attention,
)
from estimators.counting.other_counters import COUNTERS, Count, compare, count_with

__all__ = [
    "COUNTERS", "METRICS", "Cost", "CostModel", "Count", "Inputs", "Profile", "Tally", "block_cost", "compare", "count",
    "count_with", "device_of", "dtype_of", "example", "is_shape", "run_with", "standing_in", "without_fused_attention",
]  # fmt: skip
