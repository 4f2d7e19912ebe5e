"""The one training loop, its configuration, and what learns in it."""

from nas.training.alone import Alone, Distillation, Distilled
from nas.training.batch_norm import common_statistics
from nas.training.config import NotFinite, TrainingConfig
from nas.training.loop import Row, below, fit, under
from nas.training.measure import BatchNorm, as_large_as_fits, batch_norms, calibrate_, measure, warn_of_chance
from nas.training.optimizer import check_weights, clip_, make_optimizer, restore_state_, set_rate_, state_tensors
from nas.training.range_test import RangeTest, safe_rate, trial_rate

__all__ = [
    "Alone", "BatchNorm", "Distillation", "Distilled", "NotFinite", "RangeTest", "Row", "TrainingConfig", "as_large_as_fits",
    "batch_norms", "below", "calibrate_", "check_weights", "clip_", "common_statistics", "fit", "make_optimizer", "measure",
    "restore_state_", "safe_rate", "set_rate_", "state_tensors", "trial_rate", "under", "warn_of_chance",
]  # fmt: skip
