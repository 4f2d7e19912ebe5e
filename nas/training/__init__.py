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
from nas.training.optimizer import (
    check_weights,
    clip_,
    cross_entropy,
    make_optimizer,
    restore_state_,
    set_rate_,
    state_tensors,
)
from nas.training.range_test import RangeTest, safe_rate, trial_rate

__all__ = [
    "Alone", "Batch", "BatchNorm", "Distillation", "Distilled", "NotFinite", "RangeTest", "Row", "TrainingConfig",
    "accuracy", "batch_norms", "below", "calibrate_", "check_classifies", "check_weights", "clip_", "cross_entropy",
    "divergence", "even_batches", "fit", "make_optimizer", "module_accuracy", "restore_state_", "safe_rate", "set_rate_",
    "state_tensors", "trial_rate", "under",
]  # fmt: skip
