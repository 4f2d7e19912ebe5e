"""The full configuration of a run: one YAML file that can be run again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import field_validator, model_validator

from estimators import METRICS
from estimators.zero_cost import ZERO_COST
from nas.data import DataConfig
from nas.engines import EngineConfig
from nas.events import known_logs
from nas.objectives import ESTIMATES, OBJECTIVES, PATCHED, Hardware, Objective, estimates, parse_objectives
from nas.pruning import functions_of, is_pruned
from nas.runtime import amount, check_trust, different, names_function, read_yaml, teaches_by_function
from nas.strategies import STRATEGIES, no_strategy
from nas.study.formats import FORMATS
from nas.study.parts import AloneConfig, BudgetConfig, HalvingConfig, RankingConfig, SharedConfig, SpaceConfig
from nas.study.worth import WorthConfig
from nas.supernets import SupernetConfig
from nas.tasks import class_metrics
from pruners.allocation import MILLISECONDS
from search_spaces.core import (
    Part,
    PathText,
    keywords,
    of_file,
    parse,
    put,
    setting,
    unknown_name,
)

KNOWN = {name: metric.objective for name, metric in class_metrics(2).items()}
"""Objectives beside `OBJECTIVES` that need no direction: metrics of a classification."""
UNTRAINED = {name for name in OBJECTIVES if name != "accuracy"}
"""Objectives that no task measures: exact costs, latency, estimates and scores of untrained networks."""
OBJECT = "object"
"""What stands in place of a task's function where the task itself was given."""
LOOP = "loop"
"""What stands in place of a function that evaluates where a loop of the user's own tells figures."""
LIMITED = (*METRICS, *MILLISECONDS, *ESTIMATES, *PATCHED)
"""What a search may be limited by."""
WITHOUT_DATA = tuple(name for name in OBJECTIVES if name not in ("accuracy", "activations", *PATCHED, *ZERO_COST))
"""Objectives of trained models that need no examples."""


class RunConfig(Part):
    """Everything that decides what a run computes."""

    space: SpaceConfig
    data: DataConfig | None
    task: str | None = setting(
        None,
        help="Function, module:function, that returns a task of your own (see `nas.tasks`), in place of data; its metrics are "
        "objectives.",
    )
    evaluate: str | None = setting(
        None,
        help="Function, module:function, that gives a network its figures, score(model, arch), in place of data and training; "
        "bayesian proposes by default.",
    )
    strategy: str = setting("mixture", help="How architectures are proposed: see `nas list strategies`.")
    objectives: tuple[str, ...] = setting(
        ("accuracy", "macs"),
        help="What the front is made of, joined by commas: see `nas list objectives`; figures of `evaluate` with max or min, "
        "such as score:max.",
    )
    hardware: Hardware = setting(
        None,
        name="device_file",
        help="YAML file of the device that energy_mj and bound_ms are for; see docs/estimators.md.",
    )
    latency_table: PathText | None = setting(
        None, help="Saved table of block latencies that predicts latency_ms; see docs/estimators.md."
    )
    supernets: SupernetConfig = SupernetConfig(count=4)
    ranking: RankingConfig = RankingConfig()
    worth: WorthConfig = WorthConfig()
    budget: BudgetConfig = BudgetConfig()
    halving: HalvingConfig = HalvingConfig()
    engine: EngineConfig = EngineConfig()
    shared: SharedConfig = SharedConfig()
    limits: dict[str, float] = setting(
        {},
        flag="at-most",
        help="Try no architecture with more of a cost, latency_ms or an estimate, such as macs=60e6 or latency_ms=0.5ms. Can be "
        "repeated.",
    )
    start_from: PathText | None = setting(
        None, help="Run folder whose trials this search starts with, those that are architectures of its space."
    )
    alone: AloneConfig = AloneConfig()
    export: tuple[str, ...] = setting(
        ("safetensors",), help="Formats of the exported front, joined by commas: see `nas list formats`."
    )
    seed: int = setting(0, ge=0, help="Decides everything random.")
    device: str = setting("auto", help="auto, cpu or cuda.")
    bfloat16: bool = setting(False, help="Train and rank in bf16 on a CPU too: faster where it has the instructions.")
    log: tuple[str, ...] = setting(
        (), adjustable=True, help="Where progress goes beside events.jsonl, joined by commas: see `nas list logs`."
    )

    @field_validator("strategy")
    @classmethod
    def _known_strategy(cls, name: str) -> str:
        if name not in STRATEGIES:
            raise no_strategy(name)
        return name

    @field_validator("objectives", mode="before")
    @classmethod
    def _with_directions(cls, given: Any) -> Any:
        return tuple(f"{name}:{way}" for name, way in given.items()) if isinstance(given, Mapping) else given

    @field_validator("objectives")
    @classmethod
    def _known_objectives(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(
            known.name if known.name in KNOWN else name
            for known, name in zip(parse_objectives(names, KNOWN), names, strict=True)
        )

    @field_validator("export")
    @classmethod
    def _known_formats(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in FORMATS:
                raise unknown_name("format", name, FORMATS)
        return names

    @field_validator("log")
    @classmethod
    def _known_logs(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return known_logs(names)

    @model_validator(mode="after")
    def _supernets_fit(self) -> RunConfig:
        count, known = self.supernets.count, STRATEGIES[self.strategy]
        if count < known.fewest:
            raise ValueError(f"strategy {self.strategy} needs `supernets` of at least {known.fewest}, got {count}")
        if known.most and count > known.most:
            raise ValueError(
                f"strategy {self.strategy} trains exactly {known.most} supernet, got {count}; use mixture for more"
            )
        return self

    @model_validator(mode="after")
    def _evaluate_fits(self) -> RunConfig:
        own = [known.name for known in self.wanted if known.name not in OBJECTIVES]
        if self.evaluate is None:
            if self.data is None and self.task is None:
                self._check_without_data()
                return self
            if self.data is not None and self.task is not None:
                raise ValueError("`task` brings its own data, got `data` as well; leave out one or the other")
            unknown = [name for name in own if name not in KNOWN]
            if unknown and self.task is None:
                raise ValueError(
                    f"{', '.join(unknown)} must come from a `task` or from `evaluate`, got none; name it, or choose other objectives"
                )
            return self
        of_images = [name for name in self.objectives if name in ZERO_COST]
        for given, what in (
            (self.data is not None, "`data`"),
            (self.task is not None, "`task`"),
            (self.supernets.count, "`supernets`"),
            (self.alone.which != "none", f"`retrain` {self.alone.which}"),
            (of_images, f"{', '.join(of_images)}, which need images"),
        ):
            if given:
                raise ValueError(
                    f"`evaluate` takes the place of data and training, got {what} as well; leave out one or the other"
                )
        if not own and "accuracy" not in self.objectives:
            raise ValueError(
                f"`evaluate` must give an objective, got only {', '.join(self.objectives)}, which are known without it; name its "
                "figures with their directions, such as score:max"
            )
        return self

    def _check_without_data(self) -> None:
        """Only a trained model can be searched without examples, and only for what needs none."""
        if not is_pruned(self.space.name):
            raise ValueError(
                "a search needs `data`, a `task`, or `evaluate` that gives networks their figures; give one of them"
            )
        needing = [name for name in self.objectives if name not in WITHOUT_DATA]
        if needing:
            raise ValueError(
                f"{', '.join(needing)} must be measured on examples, got none; give `data` or a `task`, or choose `objectives` among "
                f"{', '.join(WITHOUT_DATA)}, which say nothing of what a smaller model still computes"
            )
        if self.alone.which != "none":
            raise ValueError(
                f"`retrain` {self.alone.which} needs examples, got none; give `data` or a `task`, or leave it out"
            )

    @model_validator(mode="after")
    def _halving_fits(self) -> RunConfig:
        if self.halving.way == "none":
            return self
        if not self.measured or self.supernets.count or is_pruned(self.space.name):
            raise ValueError(
                f"`early_stopping` is for trials that are trained alone, got {self.halving.way} for trials that are not; search data "
                "or a `task` with `supernets` 0, or leave it out"
            )
        if self.shared.storage is not None:
            raise ValueError(
                f"`early_stopping` compares trials in the order of one search, got {self.halving.way} with a `storage`; leave out one"
            )
        if self.halving.first >= self.supernets.training.epochs:
            raise ValueError(
                f"`first_rung` must come before the last of {self.supernets.training.epochs} epochs, got {self.halving.first}; give "
                "fewer, or leave out `early_stopping`"
            )
        return self

    @model_validator(mode="after")
    def _latency_has_quiet(self) -> RunConfig:
        if self.timed and self.engine.asynchronous:
            table = ", or give a `latency_table`" if self.timed == ["latency_ms"] else ""
            raise ValueError(
                f"{self.timed[0]} is measured while no worker computes, got `asynchronous`; leave it out{table}"
            )
        return self

    @model_validator(mode="after")
    def _sharing_fits(self) -> RunConfig:
        if self.shared.storage is None:
            if self.shared.study is not None:
                raise ValueError(
                    f"`study` {self.shared.study} needs the `storage` that holds it; give one, or leave out both"
                )
            return self
        if self.start_from is not None:
            raise ValueError(
                f"a search with a `storage` starts with the trials there, got `start_from` {self.start_from} as well; leave out one"
            )
        if self.evaluate == LOOP:
            raise ValueError("`storage` is for `nas.search`, and a loop of your own has none; leave it out")
        return self

    @property
    def timed(self) -> list[str]:
        """Milliseconds of this machine that are an objective or a limit, those of a table left out."""
        used = (*self.objectives, *self.limits)
        by_table = self.latency_table is not None
        return [name for name in MILLISECONDS if name in used and not (by_table and name == "latency_ms")]

    @property
    def wanted(self) -> tuple[Objective, ...]:
        """What the front is made of."""
        return parse_objectives(self.objectives, KNOWN)

    @property
    def measured(self) -> tuple[Objective, ...]:
        """Objectives that are metrics of the run's task, which a trained network has; none where a function evaluates."""
        return () if self.evaluate else tuple(known for known in self.wanted if known.name not in UNTRAINED)

    @model_validator(mode="after")
    def _estimates_fit(self) -> RunConfig:
        used = (*self.objectives, *self.limits)
        estimates(used, self.hardware)
        if self.latency_table is not None and "latency_ms" not in used:
            raise ValueError(
                f"a latency table is for the objective latency_ms, got {', '.join(self.objectives)}; name it, or leave out the table"
            )
        return self

    @field_validator("limits", mode="before")
    @classmethod
    def _limits_are_numbers(cls, given: Any) -> Any:
        return (
            {name: amount(str(name), value, "limits") for name, value in given.items()}
            if isinstance(given, Mapping)
            else given
        )

    @field_validator("limits")
    @classmethod
    def _known_limits(cls, limits: dict[str, float]) -> dict[str, float]:
        for name, most in limits.items():
            if name not in LIMITED:
                raise unknown_name("limit of a search", name, LIMITED)
            if not most > 0:
                raise ValueError(f"a limit of a search must be positive, got {name}={most:g}")
        return limits


def adjusted(config: RunConfig, settings: Mapping[str, Any]) -> RunConfig:
    """A configuration with other values of settings that may change when a run goes on."""
    data, known = config.model_dump(), keywords(RunConfig)
    for name, value in settings.items():
        for path in known[name].paths:
            put(data, path, value)
    return parse_config(data)


def parse_config(data: object) -> RunConfig:
    """Check a configuration; see `parse`."""
    return parse(RunConfig, data)


def check_functions(config: RunConfig, path: Path) -> None:
    """Refuse a configuration that a file holds, if to run it imports a function.

    A teacher counts only where there are supernets to train: those of another run are finished.

    Raises:
        Untrusted: a space, a task, a teacher or what evaluates is a function.
    """
    for _, function in named_functions(config):
        check_trust(function, path)


def named_functions(config: RunConfig) -> list[tuple[str, str]]:
    """The functions that a run of a configuration imports, each after what it is for."""
    teacher = config.supernets.teacher if config.supernets.source is None else None
    given = {"task": config.task, "evaluate": config.evaluate}
    named = [(what, name) for what, name in given.items() if name is not None and names_function(name)]
    found = [*functions_of(config.space.name, config.space.options), *named]
    return [*found, *([("teacher", teacher)] if teacher is not None and teaches_by_function(teacher) else [])]


def read_config(path: Path, *, trust: bool = False) -> RunConfig:
    """Read a configuration from a YAML file, to be run.

    Args:
        path: of the file.
        trust: take one whose space, task, teacher or evaluation is a function, which a run imports; see docs/trust.md.

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
    data = read_yaml(path, "nas search")
    with of_file(path, "mend it, or take that of another run"):
        return parse_config(data)


def differences(a: RunConfig, b: RunConfig) -> list[str]:
    """The settings in which two configurations differ, as `name: a, not b`."""
    return different(a.model_dump(mode="json"), b.model_dump(mode="json"))
