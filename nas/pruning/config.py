"""The full configuration of a pruning: one YAML file that can be run again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator, model_validator

from nas.data import DataConfig
from nas.events import known_logs
from nas.objectives import Hardware, estimates
from nas.pruning.inputs import NO_INPUT, read_targets
from nas.pruning.recovery import RECOVERIES, RecoveryConfig
from nas.pruning.vocabulary import VocabularyConfig
from nas.runtime import check_trust, names_function, read_yaml
from pruners import CutConfig
from pruners.allocation import ALLOCATIONS
from pruners.importance import AUTO, criterion_entry
from search_spaces.core import MOST_SYNTHETIC, Part, of_file, parse, quoted, setting


class PruningData(DataConfig):
    """Images to repair and measure on. Part of the training images is set aside, then put behind the others."""

    source: str = setting(name="data", help="Images to repair and measure on, as for `nas search`.", otherwise="none")
    validation_fraction: float = Field(0.1, gt=0, lt=1)


class GivenModel(Part):
    """A model that is there, its weights and what it is called with."""

    model: str = setting(
        help="module:function that returns the model, or timm:NAME, torchvision:NAME, hf:NAME or hf:FOLDER."
    )
    arguments: dict[str, Any] = setting(
        {}, flag="option", help="Argument of the function, name=value. Can be repeated."
    )
    weights: Path | None = setting(None, help="Its weights: safetensors, or torch.save of a state_dict.")
    input: str | None = setting(
        None,
        help="Shape of an example input, batch first, such as 1x3x32x32; or module:function that returns example inputs: a tensor, "
        "several in a tuple, or a dict by name.",
        otherwise="an example of the task or the data",
    )


class PruneConfig(GivenModel):
    """Everything that decides what a pruning computes."""

    targets: Annotated[dict[str, float | str], BeforeValidator(read_targets)] = setting(
        flag="target",
        help="What may remain of macs, params, weight_bytes, latency_ms (milliseconds, measured here on the example input), "
        "onnxruntime_ms (the same in ONNX Runtime), peak_memory_bytes, energy_mj or bound_ms: a fraction up to 1 (macs=0.5), a larger "
        "number (params=1e6), or milliseconds (latency_ms=0.8ms). Can be repeated.",
    )
    hardware: Hardware = setting(
        None,
        name="device_file",
        help="YAML file of the device that energy_mj and bound_ms are for; see docs/estimators.md.",
    )
    data: PruningData | None = None
    task: str | None = setting(
        None,
        help="Function, module:function, that returns what the model is for: examples, loss and metrics (see `nas.tasks`), in "
        "place of data.",
    )
    synthetic: int = setting(
        0,
        ge=0,
        le=MOST_SYNTHETIC,
        help="Without data: so many inputs made from the model's batch norms, for least-squares, calibrate, obs, activation and "
        "distortion; 500 are good.",
    )
    words: VocabularyConfig = VocabularyConfig()
    cut: CutConfig = CutConfig()
    recovery: RecoveryConfig = RecoveryConfig()
    device: str = setting("auto", help="auto, cpu or cuda, for fine-tuning and measuring.")
    log: tuple[str, ...] = setting(
        (), help="Where progress goes beside events.jsonl, joined by commas: see `nas list logs`."
    )

    @field_validator("log")
    @classmethod
    def _known_logs(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return known_logs(names)

    @field_validator("data", mode="before")
    @classmethod
    def _data_have_a_source(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and data.get("source") is None:
            given = ", ".join(f"`{name}`" for name in data)
            raise ValueError(f"{given} must be of images, got none; give `data`, such as digits")
        return data

    @model_validator(mode="after")
    def _estimates_fit(self) -> PruneConfig:
        estimates(self.targets, self.hardware)
        return self

    @model_validator(mode="after")
    def _data_suffice(self) -> PruneConfig:
        if self.data is not None and self.task is not None:
            raise ValueError("`task` brings its own data, got `data` as well; leave out one or the other")
        there = self.data is not None or self.task is not None
        if self.synthetic and there:
            raise ValueError("`synthetic` is for those without data; leave it out, or `data` and `task`")
        if self.input is None and not there:
            raise ValueError(NO_INPUT)
        if not there:
            for setting, value in self._over_data():
                labels = " and labels" if self.synthetic else ""
                repair = "" if self.synthetic or setting != "recover" else "; `synthetic` 500 repairs without training"
                raise ValueError(
                    f"`{setting}` {value} needs images{labels}; give `data`, such as digits, or a `task`, or leave it out{repair}"
                )
        return self

    def _over_data(self) -> Iterator[tuple[str, str]]:
        """Settings that pass over images; with synthetic inputs only those that need labels or training, which these have not."""
        criterion, allocation = self.cut.importance.criterion, self.cut.allocation
        there = ("", "inputs") if self.synthetic else ("",)
        if criterion != AUTO and criterion_entry(criterion).needs not in there:
            yield "importance", str(criterion)
        if allocation != AUTO and ALLOCATIONS[allocation].needs not in there:
            yield "allocation", allocation
        steps = [step for step in self.recovery.steps if RECOVERIES[step.partition(":")[0]].needs not in there]
        if steps:
            yield "recover", ",".join(steps)

    @property
    def shows_milliseconds(self) -> bool:
        """Whether the milliseconds of this machine are measured: as asked, else where no device file tells of another."""
        return self.hardware is None if self.cut.milliseconds is None else self.cut.milliseconds

    @property
    def seed(self) -> int:
        """What decides everything random; it stands with the cut."""
        return self.cut.seed


def read_prune_config(path: Path, *, model: str | None = None, trust: bool = False) -> PruneConfig:
    """Read a configuration from a YAML file, to be run.

    Args:
        path: of the file.
        model: the model's function, if the caller names it.
        trust: take a file whose functions, of the model, its inputs and its task, the caller did not name; see docs/trust.md.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no configuration of pruning, is of another model, or names a function that is not trusted.
    """
    config = peek_prune_config(path)
    if model is not None and model != config.model:
        raise ValueError(
            f"{path} is of model {quoted(config.model)}, got {quoted(model)} as well; give the same, or none"
        )
    check_trust(config.model, path, named=model, trust=trust)
    for function in (config.input, config.task):
        if function is not None and names_function(function):
            check_trust(function, path, trust=trust)
    return config


def peek_prune_config(path: Path) -> PruneConfig:
    """Read a configuration from a YAML file, to look at it: what it names is not known to be trusted."""
    data = read_yaml(path, "nas prune")
    with of_file(path, "mend it, or take that of another pruned model"):
        return parse(PruneConfig, data)
