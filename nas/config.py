"""The full configuration of a run: one YAML file that can be run again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from estimators import METRICS
from estimators.energy import Device, read_device
from nas.estimates import estimates
from nas.objectives import parse_objectives
from nas.settings import SupernetConfig
from nas.strategies import STRATEGIES
from nas.training import TrainingConfig
from nas.trust import check_trust, teaches_by_function
from search_spaces.naming import unknown_name

FORMATS = ("safetensors", "onnx", "pt2")
RANKERS = {"mixture": 4, "one-shot": 1}
PRUNED = (
    "pruned"  # the space of a trained model given as an object, and what its name starts with where it is given by name
)
Model = TypeVar("Model", bound=BaseModel)


class Part(BaseModel):
    """A part of the configuration: unknown keys are refused, values cannot change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SpaceConfig(Part):
    """A built-in space's name, or `module:function` for one's own; options go to its factory, and `paths` to `ensemble`."""

    name: str
    options: dict[str, Any] = {}

    @property
    def title(self) -> str:
        """The name, with the number of paths of an ensemble."""
        paths = self.options.get("paths", 1)
        return self.name if paths == 1 else f"{self.name}-paths{paths}"


class DataConfig(Part):
    """What `nas.data.load_data` is called with, and what the images are normalised by if not by their own statistics."""

    source: str
    limit: int | None = Field(default=None, gt=0)
    test_limit: int | None = Field(default=None, gt=0)
    validation_fraction: float = Field(default=0.5, gt=0, lt=1)
    image_size: int | None = Field(default=None, gt=0)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @model_validator(mode="after")
    def _normalised_by_both(self) -> DataConfig:
        if (self.mean is None) != (self.std is None):
            raise ValueError("`mean` and `std` go together; give both, or neither")
        return self


class RankingConfig(Part):
    """How supernets rank architectures.

    `supernet` is `best` to take the highest accuracy among the supernets, or `assigned` to ask only the supernet that the mixture
    gives an architecture to, which costs one evaluation instead of M.
    """

    batch_size: int = Field(default=250, gt=1)
    calibration_images: int = Field(default=2000, gt=1)
    supernet: Literal["best", "assigned"] = "best"


class BudgetConfig(Part):
    """When the search stops: after so many trials or so many seconds of evaluating trials, whichever comes first."""

    trials: int | None = Field(default=None, gt=0)
    seconds: float | None = Field(default=None, gt=0)


class AloneConfig(Part):
    """Which architectures are trained on their own afterwards, how, with how many seeds, and whether by `torch.compile`."""

    which: Literal["front", "all", "none"] = "front"
    training: TrainingConfig = TrainingConfig(epochs=100)
    seeds: int = Field(default=1, gt=0)
    compile: bool = False


class RunConfig(Part):
    """Everything that decides what a run computes."""

    space: SpaceConfig
    data: DataConfig
    strategy: str = "mixture"
    objectives: tuple[str, ...] = ("accuracy", "macs")
    hardware: Device | None = None
    latency_table: str | None = None
    supernets: SupernetConfig = SupernetConfig(count=4)
    ranking: RankingConfig = RankingConfig()
    budget: BudgetConfig = BudgetConfig()
    limits: dict[str, float] = {}
    alone: AloneConfig = AloneConfig()
    export: tuple[str, ...] = ("safetensors",)
    seed: int = Field(default=0, ge=0)
    device: str = "auto"
    bfloat16: bool = False

    @field_validator("strategy")
    @classmethod
    def _known_strategy(cls, name: str) -> str:
        names = [*RANKERS, *STRATEGIES]
        if name not in names:
            raise unknown_name("strategy", name, names)
        return name

    @field_validator("objectives")
    @classmethod
    def _known_objectives(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        parse_objectives(names)
        return names

    @field_validator("export")
    @classmethod
    def _known_formats(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in FORMATS:
                raise unknown_name("format", name, FORMATS)
        return names

    @model_validator(mode="after")
    def _supernets_fit(self) -> RunConfig:
        count = self.supernets.count
        if self.strategy == "mixture" and count < 1:
            raise ValueError(f"strategy mixture needs `supernets` of at least 1, got {count}")
        if self.strategy == "one-shot" and count != 1:
            raise ValueError(f"strategy one-shot trains exactly 1 supernet, got {count}; use mixture for more")
        return self

    @model_validator(mode="after")
    def _estimates_fit(self) -> RunConfig:
        estimates(self.objectives, self.hardware)
        if self.latency_table is not None and "latency_ms" not in self.objectives:
            raise ValueError(
                f"a latency table is for the objective latency_ms, got {', '.join(self.objectives)}; name it, or leave out the table"
            )
        return self

    @field_validator("limits")
    @classmethod
    def _known_limits(cls, limits: dict[str, float]) -> dict[str, float]:
        for name, most in limits.items():
            if name not in METRICS:
                raise unknown_name("limit of a search", name, METRICS)
            if not most > 0:
                raise ValueError(f"a limit of a search must be positive, got {name}={most:g}")
        return limits

    @property
    def proposer(self) -> str:
        """The ask/tell strategy behind the name: a ranking of everything visits everything."""
        return "exhaustive" if self.strategy in RANKERS else self.strategy


def configure(
    space: str,
    data: str,
    *,
    strategy: str = "mixture",
    objectives: Sequence[str] = ("accuracy", "macs"),
    device_file: str | Path | None = None,
    latency_table: str | Path | None = None,
    space_options: dict[str, Any] | None = None,
    supernets: int | None = None,
    epochs: int = 100,
    alone_epochs: int | None = None,
    batch_size: int = 128,
    learning_rate: float | None = None,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    label_smoothing: float = 0.0,
    temperature: float = 100.0,
    sampler: str = "uniform",
    subnets: int | None = None,
    teacher: str | None = None,
    distill_weight: float = 0.9,
    distill_temperature: float = 4.0,
    schedule: Literal["cosine", "one-cycle", "exponential"] = "cosine",
    accumulate: int = 1,
    ema: float = 0.0,
    supernet: str | None = None,
    ranking: Literal["best", "assigned"] = "best",
    trials: int | None = None,
    seconds: float | None = None,
    limits: Mapping[str, float] | None = None,
    retrain: Literal["front", "all", "none"] = "front",
    seeds: int = 1,
    compile: bool = False,
    limit: int | None = None,
    test_limit: int | None = None,
    validation_fraction: float = 0.5,
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    export: Sequence[str] = ("safetensors",),
    seed: int = 0,
    device: str = "auto",
    bfloat16: bool = False,
) -> RunConfig:
    """The complete configuration behind the settings that most runs change.

    Args:
        space: a built-in space or `module:function`.
        data: see `nas.data.load_data`.
        strategy: `mixture` and `one-shot` rank every architecture; the others propose some of them.
        objectives: what the front is made of, such as accuracy and macs.
        device_file: describes the device that energy_mj and bound_ms are for, see `estimators.read_device`.
        latency_table: file of `estimators.LatencyTable.save` that predicts latency_ms; without one it is measured here.
        space_options: keyword arguments of the space's factory.
        supernets: how many share the architectures; 0 trains every trial alone. Default: 4 for `mixture`, 0 for the space of a
            trained model, else 1.
        epochs: of supernet training.
        alone_epochs: of training a network alone; as `epochs` by default.
        batch_size: of both trainings.
        learning_rate: of both trainings, at their start. Default: 0.01 for the space of a trained model, else 0.1.
        momentum: of SGD in both trainings.
        weight_decay: of both trainings; biases, normalisations, kernel transforms and pooling have none.
        label_smoothing: share of the labels that is spread over all classes, in both trainings.
        temperature: the mixture's final temperature.
        sampler: which architectures a step of supernet training takes, one of `nas.settings.SAMPLERS`.
        subnets: drawn at random per step; the sampler's own number by default.
        teacher: what supernets learn from beside the labels: `largest`, `module:function` or a folder of `nas export`.
        distill_weight: a given teacher's part of the loss of supernets, from 0 to 1; labels have the rest.
        distill_temperature: what the logits of a given teacher and of supernets are divided by.
        schedule: of the learning rate in supernet training.
        accumulate: batches per step of the optimiser in supernet training.
        ema: decay of the moving average of supernet weights; 0 for none.
        supernet: run folder whose trained supernets are used, in place of training some; see `nas.train`.
        ranking: `best` or `assigned` supernet.
        trials: most trials.
        seconds: most seconds of evaluating trials.
        limits: the most macs, params, activations or weight_bytes of an architecture that is tried, such as `{"macs": 60e6}`.
        retrain: which architectures are trained alone afterwards.
        seeds: how often each of them is.
        compile: train them by `torch.compile`.
        limit: training and validation images to use.
        test_limit: test images to use.
        validation_fraction: part of the training images that ranks architectures.
        image_size: resize images to this many pixels a side.
        mean, std: of each channel, what images are normalised by; the data's own by default.
        export: formats of the exported front.
        seed: decides everything random.
        device: `auto`, `cpu` or `cuda`.
        bfloat16: train and rank in bf16 on a CPU too, as on CUDA; faster on processors that have the instructions. Weights stay
            float32, and latency is measured in it.

    Raises:
        ValueError: a setting is out of its range; the message names it.
    """
    trained = space.partition(":")[0] == PRUNED
    if learning_rate is None:
        learning_rate = 0.01 if trained else 0.1
    if supernets is None:
        supernets = RANKERS.get(strategy, 0 if trained else 1)
    training = {
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "momentum": momentum,
        "weight_decay": weight_decay,
        "label_smoothing": label_smoothing,
    }
    return parse_config(
        {
            "space": {"name": space, "options": space_options or {}},
            "data": {
                "source": data,
                "limit": limit,
                "test_limit": test_limit,
                "validation_fraction": validation_fraction,
                "image_size": image_size,
                "mean": mean,
                "std": std,
            },
            "strategy": strategy,
            "objectives": list(objectives),
            "hardware": None if device_file is None else read_device(device_file),
            "latency_table": None if latency_table is None else str(latency_table),
            "supernets": {
                "count": supernets,
                "training": {"epochs": epochs, "schedule": schedule, **training},
                "mixture": {"temperature": temperature},
                "sampler": sampler,
                "subnets": subnets,
                "teacher": teacher,
                "distillation": {"weight": distill_weight, "temperature": distill_temperature},
                "accumulate": accumulate,
                "ema": ema,
                "source": supernet,
            },
            "ranking": {"supernet": ranking},
            "budget": {"trials": trials, "seconds": seconds},
            "limits": dict(limits or {}),
            "alone": {
                "which": retrain,
                "training": {"epochs": epochs if alone_epochs is None else alone_epochs, **training},
                "seeds": seeds,
                "compile": compile,
            },
            "export": list(export),
            "seed": seed,
            "device": device,
            "bfloat16": bfloat16,
        }
    )


def parse_config(data: object) -> RunConfig:
    """Check a configuration; see `parse`."""
    return parse(RunConfig, data)


def parse(kind: type[Model], data: object) -> Model:
    """Check settings; ValueError names each one that is wrong, what it is, and the rule it breaks."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise ValueError("; ".join(_sentence(dict(problem)) for problem in error.errors())) from None


def check_functions(config: RunConfig, path: Path) -> None:
    """Refuse a configuration that a file holds, if to run it imports a function.

    A teacher counts only where there are supernets to train: those of another run are finished.

    Raises:
        Untrusted: a space or teacher is a function.
    """
    check_trust(config.space.name, path)
    teacher = config.supernets.teacher if config.supernets.source is None else None
    if teacher is not None and teaches_by_function(teacher):
        check_trust(teacher, path)


def read_config(path: Path, *, trust: bool = False) -> RunConfig:
    """Read a configuration from a YAML file, to be run.

    Args:
        path: of the file.
        trust: take one whose space or teacher is a function, which a run imports; see docs/trust.md.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no configuration, or names a function that is not trusted.
    """
    config = peek_config(path)
    if not trust:
        check_functions(config, path)
    return config


def peek_config(path: Path) -> RunConfig:
    """Read a configuration from a YAML file, to look at it: what it names is not known to be trusted."""
    try:
        return parse_config(yaml.safe_load(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise FileNotFoundError(f"no configuration at {path}; a run folder keeps its own as run.yaml") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} must be a YAML file: {error}") from error


def dump_config(config: RunConfig) -> str:
    """The configuration as YAML, defaults included."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def differences(a: RunConfig, b: RunConfig) -> list[str]:
    """The settings in which two configurations differ, as `name: a, not b`."""
    left, right = _flat(a.model_dump(mode="json")), _flat(b.model_dump(mode="json"))
    return [
        f"{name}: {left.get(name)}, not {right.get(name)}"
        for name in {**left, **right}
        if left.get(name) != right.get(name)
    ]


def _flat(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in data.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _sentence(problem: dict[str, Any]) -> str:
    where = ".".join(map(str, problem["loc"]))
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return message
    return f"`{where}`: {message[0].lower()}{message[1:]}, got {problem['input']!r}"
