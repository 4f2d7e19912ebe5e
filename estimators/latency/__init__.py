"""Latency: measured, from tables of blocks, and carried over from other devices."""

from estimators.latency.measure import Latency, compare_latency, measure_latency
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
    "CONDITIONS", "KnownDevice", "Latency", "LatencyPredictor", "LatencyTable", "choose_samples", "compare_latency",
    "fit_latency", "known_device", "load_table", "measure_latency", "measure_table", "operation_counts",
]  # fmt: skip
