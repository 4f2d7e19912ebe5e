"""How the shared weights are trained: the part of a configuration that training and searching have in common."""

from __future__ import annotations

from pydantic import field_validator, model_validator

from nas.supernets.mixture import MixtureConfig
from nas.supernets.samplers import SAMPLERS, names_with
from nas.training import Distillation, TrainingConfig
from search_spaces.core import MOST_SUBNETS, MOST_SUPERNETS, Part, PathText, setting, unknown_name

LARGEST = "largest"


class SupernetConfig(Part):
    """How the shared weights are trained. With `count` 0 there are none, and each trial is a network trained alone.

    `distillation` is that of a given teacher. The moving average of the weights, if there is one, takes their place after training.
    """

    count: int = setting(
        1,
        name="supernets",
        ge=0,
        le=MOST_SUPERNETS,
        help="Supernets that share the architectures; 0 trains every trial alone.",
        otherwise="4 for mixture, 0 for a trained model, else 1",
    )
    source: PathText | None = setting(
        None,
        name="supernet",
        help="Run folder of `nas train` whose supernets are used; its training settings hold here too.",
    )
    sampler: str = setting("uniform", help="Which architectures a step trains: see `nas list samplers`.")
    subnets: int | None = setting(
        None,
        gt=0,
        le=MOST_SUBNETS,
        help="Architectures drawn at random per step.",
        otherwise="the sampler's own number",
    )
    teacher: PathText | None = setting(
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
        sampler = SAMPLERS[self.sampler]
        if self.teacher == LARGEST and not sampler.trains_largest:
            possible = " or ".join(names_with(lambda entry: entry.trains_largest))
            raise ValueError(
                f"teacher largest needs a sampler that trains the largest subnet in each step: {possible}; got {self.sampler}"
            )
        if self.teacher in (None, LARGEST) and self.distillation != Distillation():
            raise ValueError(
                f"`distill_weight` and `distill_temperature` are for a given teacher, module:function or a folder of `nas export`; "
                f"leave them out, or give one; got teacher {self.teacher}"
            )
        if self.subnets is not None and sampler.subnets is None:
            raise ValueError(
                f"sampler {self.sampler} has its own number of subnets; leave out `subnets`, got {self.subnets}"
            )
        subnets = self.subnets or sampler.subnets or 1
        if sampler.shares_batch and self.training.batch_size < 2 * subnets:
            raise ValueError(
                f"sampler {self.sampler} needs at least 2 images for each of its {subnets} subnets, got batch_size="
                f"{self.training.batch_size}; use a larger batch or fewer `subnets`"
            )
        return self
