"""What an architecture costs, and guesses of what it is worth."""

from estimators.counting import (
    COUNTERS,
    METRICS,
    Cost,
    CostModel,
    Count,
    Profile,
    block_cost,
    compare,
    count,
    count_with,
)
from estimators.design import (
    Multipliers,
    Stages,
    compound,
    deepmad_space,
    deepmad_stages,
    family,
    residual_cost,
    residual_space,
    resnet_rs,
    scaled,
    scaled_to,
    tinynet_to,
)
from estimators.energy import Device, Energy, GroupedLayer, best_group_size, estimate_energy, group_sizes, read_device
from estimators.latency import (
    KnownDevice,
    Latency,
    LatencyPredictor,
    LatencyTable,
    choose_samples,
    compare_latency,
    fit_latency,
    known_device,
    load_table,
    measure_latency,
    measure_table,
    onnxruntime_ms,
    operation_counts,
)
from estimators.memory import (
    PatchCost,
    PatchModel,
    PeakMemory,
    allocated_peak,
    choose_patches,
    patched_cost,
    peak_memory,
    run_patched,
)

__all__ = [
    "COUNTERS", "METRICS", "Cost", "CostModel", "Count", "Device", "Energy", "GroupedLayer", "KnownDevice",
    "Latency", "LatencyPredictor", "LatencyTable", "Multipliers", "PatchCost", "PatchModel", "PeakMemory", "Profile", "Stages",
    "allocated_peak", "best_group_size", "block_cost", "choose_patches", "choose_samples", "compare",
    "compare_latency", "compound", "count", "count_with", "deepmad_space", "deepmad_stages", "estimate_energy",
    "family", "fit_latency", "group_sizes", "known_device", "load_table", "measure_latency", "measure_table",
    "onnxruntime_ms", "operation_counts", "patched_cost", "peak_memory", "read_device", "residual_cost",
    "residual_space", "resnet_rs", "run_patched", "scaled", "scaled_to", "tinynet_to",
]  # fmt: skip
