"""How long and how to train."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from search_spaces.core import Part, setting

FLOOR = 0.05
WARM_UP = 0.3


class TrainingConfig(Part):
    """How long and how to train with SGD.

    The learning rate follows its `schedule` from `learning_rate` to `final_learning_rate`, step by step, see `learning_rate`. A batch
    size above the number of images means one batch of all of them.
    """

    epochs: int = setting(100, gt=0, help="Epochs of supernet training.")
    batch_size: int = setting(128, gt=1, help="Images per step.")
    learning_rate: float = setting(0.1, gt=0, adjustable=True, help="Learning rate of SGD at its highest.")
    final_learning_rate: float = Field(default=1e-3, ge=0)
    schedule: Literal["cosine", "one-cycle", "exponential"] = setting(
        "cosine", help="Of the learning rate of supernets: cosine, one-cycle or exponential."
    )
    momentum: float = setting(0.9, ge=0, lt=1, help="Momentum of SGD.")
    weight_decay: float = setting(
        0.0, ge=0, help="Weight decay of SGD; biases, norms, kernel transforms and pooling are spared."
    )
    label_smoothing: float = setting(
        0.0, ge=0, lt=1, help="Share of the labels that is spread over all classes; 0 for none."
    )
    augment: bool = True


class NotFinite(ValueError):
    """The loss is no longer a number, or the weights have run away."""


def learning_rate(config: TrainingConfig, epoch: float) -> float:
    """Learning rate at a (fractional) epoch.

    `cosine` falls along half a cosine. `one-cycle` rises from a 25th of `learning_rate` for 30 % of the epochs, and then falls, both
    along half a cosine. `exponential` falls to a floor of 5 % in two thirds of the epochs and stays there, whatever
    `final_learning_rate` is, so that small subnets keep learning.

    Reference: for `one-cycle`, Smith, Topin, "Super-Convergence", 2018, arXiv:1708.07120; for the floor, Yu et al., "BigNAS",
    ECCV 2020, arXiv:2003.11142.
    Differs: the momentum has no cycle; the exponential's pace follows the number of epochs.
    """
    low, high, done = config.final_learning_rate, config.learning_rate, epoch / config.epochs
    if config.schedule == "exponential":
        return high * max(FLOOR, FLOOR ** (1.5 * done))
    if config.schedule == "one-cycle":
        if done < WARM_UP:
            return _between(high / 25, high, done / WARM_UP)
        return _between(high, low, (done - WARM_UP) / (1 - WARM_UP))
    return _between(high, low, done)


def _between(start: float, end: float, done: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2
