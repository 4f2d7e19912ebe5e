"""How the shared weights are trained: the part of a configuration that training and searching have in common."""

from __future__ import annotations

from pydantic import field_validator, model_validator

from nas.supernets.mixture import MixtureConfig
from nas.training import Distillation, TrainingConfig
from search_spaces.core import Part, setting, unknown_name

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


class SupernetConfig(Part):
    """How the shared weights are trained. With `count` 0 there are none, and each trial is a network trained alone.

    `distillation` is that of a given teacher. The moving average of the weights, if there is one, takes their place after training.
    """

    count: int = setting(
        1,
        name="supernets",
        ge=0,
        help="Supernets that share the architectures; 0 trains every trial alone.",
        otherwise="4 for mixture, 0 for a trained model, else 1",
    )
    source: str | None = setting(
        None,
        name="supernet",
        help="Run folder of `nas train` whose supernets are used; its training settings hold here too.",
    )
    sampler: str = setting("uniform", help="Which architectures a step trains: see `nas list samplers`.")
    subnets: int | None = setting(
        None, gt=0, help="Architectures drawn at random per step.", otherwise="the sampler's own number"
    )
    teacher: str | None = setting(
        None,
        help="What supernets learn from beside the labels: largest, module:function or a folder of `nas export`.",
        otherwise="the sampler's own way",
    )
    distillation: Distillation = Distillation()
    training: TrainingConfig = TrainingConfig(epochs=100)
    accumulate: int = setting(1, gt=0, help="Batches per step of the optimiser of supernets.")
    ema: float = setting(0.0, ge=0, lt=1, help="Decay of the moving average of supernet weights; 0 for none.")
    mixture: MixtureConfig = MixtureConfig()

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
