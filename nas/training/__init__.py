"""The one training loop, its configuration, and what learns in it."""

from nas.training.accuracy import (
    BatchNorm,
    accuracy,
    batch_norms,
    calibrate_,
    check_classifies,
    even_batches,
    module_accuracy,
)
from nas.training.alone import Alone, Distillation, Distilled, divergence
from nas.training.config import NotFinite, TrainingConfig
from nas.training.loop import Batch, Row, below, fit, under
from nas.training.range_test import RangeTest, safe_rate, trial_rate
from nas.training.sgd import check_weights, cross_entropy, momenta, restore_momenta_, set_rate_, sgd

__all__ = [
    "Alone", "Batch", "BatchNorm", "Distillation", "Distilled", "NotFinite", "RangeTest", "Row", "TrainingConfig",
    "accuracy", "batch_norms", "below", "calibrate_", "check_classifies", "check_weights", "cross_entropy",
    "divergence", "even_batches", "fit", "module_accuracy", "momenta", "restore_momenta_", "safe_rate", "set_rate_",
    "sgd", "trial_rate", "under",
]  # fmt: skip
