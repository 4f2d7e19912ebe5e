"""The one training loop, its configuration, and what learns in it."""

from nas.training.alone import Alone, Distillation, Distilled
from nas.training.config import NotFinite, TrainingConfig
from nas.training.loop import Row, below, fit, under
from nas.training.measure import BatchNorm, batch_norms, calibrate_, measure, warn_of_chance
from nas.training.range_test import RangeTest, safe_rate, trial_rate
from nas.training.sgd import check_weights, momenta, restore_momenta_, set_rate_, sgd

__all__ = [
    "Alone", "BatchNorm", "Distillation", "Distilled", "NotFinite", "RangeTest", "Row", "TrainingConfig", "batch_norms",
    "below", "calibrate_", "check_weights", "fit", "measure", "momenta", "restore_momenta_", "safe_rate", "set_rate_",
    "sgd", "trial_rate", "under", "warn_of_chance",
]  # fmt: skip
