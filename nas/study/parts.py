"""What the configuration of a run is made of, but for what has rooms of its own."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from nas.training import TrainingConfig
from search_spaces.core import MOST_SEEDS, Part, PathText, setting


class SpaceConfig(Part):
    """A built-in space's name, or `module:function` for one's own; options go to its factory, and `paths` to `ensemble`."""

    name: str = setting(
        "resnet20-pooling",
        name="space",
        help="Search space (see `nas list spaces`), module:function, or pruned:module:function of a trained model.",
    )
    options: dict[str, Any] = setting(
        {},
        name="space_options",
        flag="option",
        help="Option of the space as name=value, such as operators=[max,conv]. Can be repeated.",
    )

    @property
    def title(self) -> str:
        """The name, with the number of paths of an ensemble."""
        paths = self.options.get("paths", 1)
        return self.name if paths == 1 else f"{self.name}-paths{paths}"


class RankingConfig(Part):
    """How supernets rank architectures.

    `supernet` is `best` for the highest accuracy among the M supernets, or `assigned` for the one that the mixture
    assigns an architecture to, which costs one evaluation instead of M.
    """

    batch_size: int = Field(default=250, gt=1)
    calibration_images: int = Field(default=2000, gt=1)
    supernet: Literal["best", "assigned"] = setting(
        "best", name="ranking", help="Which supernet ranks an architecture: best or assigned."
    )


class BudgetConfig(Part):
    """When the search stops, whichever comes first."""

    trials: int | None = setting(None, gt=0, adjustable=True, help="Most trials.")
    seconds: float | None = setting(
        None, gt=0, adjustable=True, help="Most seconds of evaluating trials, added up over workers."
    )
    macs: float | None = setting(
        None,
        name="macs_spent",
        gt=0,
        adjustable=True,
        help="Most multiply-accumulates of evaluating trials: those of each network times its examples, three times in training.",
    )
    patience: int | None = setting(
        None, gt=0, adjustable=True, help="End a search whose hypervolume has not grown by 0.1 % in so many trials."
    )
    max_failures: int = setting(10, gt=0, adjustable=True, help="End a search after so many failed trials in a row.")


HALVINGS = {
    "none": "every trial has all epochs",
    "asha": "a trial goes on at each rung only if few of those before were better there",
    "hyperband": "the same, for some trials from a later rung on, in turn",
}
"""Ways of giving bad trials fewer epochs."""


class HalvingConfig(Part):
    """Whether trials that are trained alone end before their last epoch; rungs are `first`, `first` x `reduction`, … epochs."""

    way: Literal["none", "asha", "hyperband"] = setting(
        "none",
        name="early_stopping",
        help="How trials that are trained alone end early: "
        + "; ".join(f"{way}, {what}" for way, what in HALVINGS.items())
        + ".",
    )
    reduction: int = setting(3, ge=2, help="At a rung of early stopping one of so many trials goes on.")
    first: int = setting(1, name="first_rung", ge=1, help="Epochs before the first rung of early stopping.")


class SharedConfig(Part):
    """A study that several workers search together; its budget counts the trials of all of them."""

    storage: PathText | None = setting(
        None,
        adjustable=True,
        help="Share the search with other workers by a journal file, sqlite:///FILE or postgresql://HOST/DATABASE; see "
        "docs/long_runs.md.",
    )
    study: str | None = setting(
        None, help="Name of the shared study.", otherwise="made of the space, the data and the objectives"
    )
    grace: int = setting(
        60, ge=2, help="Seconds without a sign of life after which the trials of a worker are given to others."
    )


class AloneTraining(TrainingConfig):
    """How networks are trained alone."""

    epochs: int = setting(
        100, name="alone_epochs", gt=0, help="Epochs of training a network alone.", otherwise="as epochs"
    )
    schedule: Literal["cosine", "one-cycle", "exponential"] = "cosine"


class AloneConfig(Part):
    """Which architectures are trained on their own afterwards, how, with how many seeds, and whether by `torch.compile`."""

    which: Literal["front", "all", "none"] = setting(
        "front", name="retrain", help="What is trained alone afterwards: front, all or none."
    )
    training: AloneTraining = AloneTraining()
    seeds: int = setting(1, gt=0, le=MOST_SEEDS, help="How often each network is trained alone.")
    compile: bool = setting(False, help="Train networks alone by torch.compile; it needs a C++ compiler or a GPU.")
