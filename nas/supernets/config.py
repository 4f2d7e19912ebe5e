"""How the shared weights are trained: the part of a configuration that training and searching have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from nas.supernets.mixture import MixtureConfig
from nas.training import Distillation, TrainingConfig
from search_spaces.core import unknown_name

SAMPLERS = {
    "uniform": "one architecture per step, every one equally likely",
    "fair": "every value of every choice once per step",
    "sandwich": "the largest, the smallest and two random ones; the largest teaches the others",
    "progressive": "the largest first, then kernels, depths and widths open one after another",
    "delayed": "the largest alone for half of the epochs, then a sandwich that fades in",
    "sorted": "four nested subnets of random sizes",
    "complexity": "three of similar macs and the cheapest near them; the budget walks",
    "performance": "as complexity, preferring those that did well",
    "groups": "four balanced ones, each on its part of the batch",
    "split": "one per step; supernets part by gradients until each architecture has its own",
    "narrowing": "one per step; values that do badly and make no difference are dropped on the way",
}
WITH_LARGEST = ("sandwich", "delayed")
OF_A_FIXED_NUMBER = ("fair", "progressive", "split", "narrowing")
LARGEST = "largest"


class SupernetConfig(BaseModel):
    """How the shared weights are trained. With `count` 0 there are none, and each trial is a network trained alone.

    `subnets` are those drawn at random per step, None for the sampler's own number. `teacher` is `largest`, `module:function` or a
    folder of `nas export`; None for the sampler's own way. `distillation` is that of a given teacher. `accumulate` batches make one
    step of the optimiser. `ema` is the decay of the moving average of the weights that is used in their place after training; 0 for
    none. `source` is the run folder whose trained supernets are used; None to train them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    count: int = Field(default=1, ge=0)
    training: TrainingConfig = TrainingConfig(epochs=100)
    mixture: MixtureConfig = MixtureConfig()
    sampler: str = "uniform"
    subnets: int | None = Field(default=None, gt=0)
    teacher: str | None = None
    distillation: Distillation = Distillation()
    accumulate: int = Field(default=1, gt=0)
    ema: float = Field(default=0.0, ge=0, lt=1)
    source: str | None = None

    @field_validator("sampler")
    @classmethod
    def _known_sampler(cls, name: str) -> str:
        if name not in SAMPLERS:
            raise unknown_name("sampler", name, SAMPLERS)
        return name

    @model_validator(mode="after")
    def _parts_fit(self) -> SupernetConfig:
        if self.teacher == LARGEST and self.sampler not in WITH_LARGEST:
            raise ValueError(
                f"teacher largest needs a sampler that trains the largest subnet in each step: {' or '.join(WITH_LARGEST)}; got "
                f"{self.sampler}"
            )
        if self.teacher in (None, LARGEST) and self.distillation != Distillation():
            raise ValueError(
                f"`distill_weight` and `distill_temperature` are for a given teacher, module:function or a folder of `nas export`; "
                f"leave them out, or give one; got teacher {self.teacher}"
            )
        if self.subnets is not None and self.sampler in OF_A_FIXED_NUMBER:
            raise ValueError(
                f"sampler {self.sampler} has its own number of subnets; leave out `subnets`, got {self.subnets}"
            )
        if self.sampler == "groups" and self.training.batch_size < 2 * (self.subnets or 4):
            raise ValueError(
                f"sampler groups needs at least 2 images for each of its {self.subnets or 4} subnets, got batch_size="
                f"{self.training.batch_size}; use a larger batch or fewer `subnets`"
            )
        return self
