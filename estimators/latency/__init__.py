"""Latency: measured, from tables of blocks, and carried over from other devices."""

from estimators.latency.measure import (
    Latency,
    compare_latency,
    compare_on_example,
    measure_latency,
    onnxruntime_ms,
)
from estimators.latency.runtimes import check_onnx
from estimators.latency.staircase import alignment
from estimators.latency.table import CONDITIONS, LatencyTable, load_table, measure_table
from estimators.latency.transfer import (
    KnownDevice,
    LatencyPredictor,
    choose_samples,
    fit_latency,
    known_device,
    operation_counts,
)

__all__ = [
    "CONDITIONS", "KnownDevice", "Latency", "LatencyPredictor", "LatencyTable", "alignment", "check_onnx", "choose_samples",
    "compare_latency", "compare_on_example", "fit_latency", "known_device", "load_table", "measure_latency", "measure_table",
    "onnxruntime_ms", "operation_counts",
]  # fmt: skip
