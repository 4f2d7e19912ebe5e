"""How long and how to train."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from search_spaces.core import Part, setting

FLOOR = 0.05
RISE = 0.3
ADAMW = {"learning_rate": 1e-3, "final_learning_rate": 1e-5}
"""Defaults where the optimiser is AdamW."""


class TrainingConfig(Part):
    """How long and how to train.

    The learning rate rises for `warm_up` of the epochs and then follows its `schedule` from `learning_rate` to `final_learning_rate`,
    step by step, see `learning_rate`. For AdamW these are 0.001 and 1e-5 by default. A batch size above the number of images means
    one batch of all of them.
    """

    epochs: int = setting(100, gt=0, help="Epochs of supernet training.")
    batch_size: int = setting(128, gt=1, help="Images per step.")
    optimizer: Literal["sgd", "adamw"] = setting("sgd", help="What takes the steps of training: sgd or adamw.")
    learning_rate: float = setting(
        0.1,
        gt=0,
        adjustable=True,
        help="Learning rate at its highest.",
        otherwise="0.1 for sgd, 0.001 for adamw; for a trained model a tenth",
    )
    final_learning_rate: float = Field(default=1e-3, ge=0)
    schedule: Literal["cosine", "one-cycle", "exponential"] = setting(
        "cosine", help="Of the learning rate of supernets: cosine, one-cycle or exponential."
    )
    warm_up: float = setting(
        0.0,
        ge=0,
        lt=1,
        help="Share of all epochs in which the learning rate rises from 0, before its schedule; 0 for none.",
    )
    momentum: float = setting(0.9, ge=0, lt=1, help="Momentum of SGD; beta1 of AdamW.")
    weight_decay: float = setting(
        0.0, ge=0, help="Weight decay; biases, norms, kernel transforms and pooling are spared."
    )
    clip: float | None = setting(
        None,
        gt=0,
        help="Largest norm of the gradient of all weights; a longer one is scaled down.",
        otherwise="no clipping",
    )
    label_smoothing: float = setting(
        0.0, ge=0, lt=1, help="Share of the labels that is spread over all classes; 0 for none."
    )
    augment: bool = True

    @model_validator(mode="before")
    @classmethod
    def _rates_of_adamw(cls, given: Any) -> Any:
        return {**ADAMW, **given} if isinstance(given, Mapping) and given.get("optimizer") == "adamw" else given

    @model_validator(mode="after")
    def _rises_once(self) -> TrainingConfig:
        if self.schedule == "one-cycle" and self.warm_up:
            raise ValueError(
                f"schedule one-cycle rises by itself, so `warm_up` must be 0, got {self.warm_up:g}; leave it out, or choose another "
                "schedule"
            )
        return self


class NotFinite(ValueError):
    """The loss is no longer a number, or the weights have run away."""


def learning_rate(config: TrainingConfig, epoch: float) -> float:
    """Learning rate at a (fractional) epoch.

    For `warm_up` of the epochs it rises linearly from 0 to `learning_rate`, then the schedule has the rest. `cosine` falls along half
    a cosine. `one-cycle` rises from a 25th of `learning_rate` for 30 % of the epochs, and then falls, both along half a cosine.
    `exponential` falls to a floor of 5 % in two thirds of the epochs and stays there, whatever `final_learning_rate` is, so that small
    subnets keep learning.

    Reference: for `one-cycle`, Smith, Topin, "Super-Convergence", 2018, arXiv:1708.07120; for the floor, Yu et al., "BigNAS",
    ECCV 2020, arXiv:2003.11142; for the warm-up, Goyal et al., "Accurate, Large Minibatch SGD", 2017, arXiv:1706.02677.
    Differs: the momentum has no cycle; the exponential's pace follows the number of epochs.
    """
    rise = config.warm_up * config.epochs
    if epoch < rise:
        return config.learning_rate * epoch / rise
    low, high, done = config.final_learning_rate, config.learning_rate, (epoch - rise) / (config.epochs - rise)
    if config.schedule == "exponential":
        return high * max(FLOOR, FLOOR ** (1.5 * done))
    if config.schedule == "one-cycle":
        if done < RISE:
            return _between(high / 25, high, done / RISE)
        return _between(high, low, (done - RISE) / (1 - RISE))
    return _between(high, low, done)


def _between(start: float, end: float, done: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2
