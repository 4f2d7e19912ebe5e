"""Settings of pruning: each stands once, in Python, on the command line, in prune.yaml and in summary.json."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import BaseModel
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner

import pruners
from nas import prune
from nas.cli.app import app
from nas.cli.prune import prune as command
from nas.data import ImageData
from nas.pruning import PruneConfig, read_prune_config
from nas.runtime import Untrusted, as_yaml
from nas.study import configure, read_config
from pruners import CutConfig
from search_spaces.core import keywords, nested, parse
from tests.nas.test_prune import small
from tests.pruners import plain

SMALL = "tests.nas.test_prune:small"
NAMED = {"model": SMALL, "input": "1x1x8x8", "targets": {"macs": 0.5}}
OTHERS: dict[str, Any] = {
    "arguments": {"width": 12}, "targets": {"macs": 0.6, "params": 0.9}, "data": "digits", "limit": 300, "test_limit": 100,
    "image_size": 8, "flip": True, "crop": 2, "damaged": "leave-out", "mean": (0.4,), "std": (0.3,), "ignore": ("4",), "seed": 3,
    "tolerance": 1e-3, "importance": "l1",
    "aggregate": "max", "normalise": "sum", "allocation": "uniform", "steps": 2, "schedule": "linear", "round_to": 2, "min_kept": 2,
    "depth": False, "max_seconds": 100.0, "max_bytes": 10**9,
    "max_ratio": 0.8, "form": "module", "check": False, "milliseconds": False, "recover": ("calibrate", "finetune:1"),
    "learning_rate": 0.02, "batch_size": 64, "distill_weight": 0.5, "distill_temperature": 2.0, "device": "cpu",
}  # fmt: skip
ELSEWHERE = (
    "model", "input", "device_file", "synthetic", "check_dtype", "vocabulary", "tokenizer", "task", "stream",
    "workers", "log",  # not beside the others
)  # fmt: skip
RUNNER = CliRunner()


def at(data: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    for name in path:
        data = data[name]
    return data


def typed(settings: Mapping[str, Any]) -> list[str]:
    """Settings as options of the command."""
    words = []
    for name, value in settings.items():
        keyword = keywords(PruneConfig)[name]
        flag = f"--{keyword.flag}"
        if isinstance(value, bool):
            words += [flag if value else f"--no-{keyword.flag}"]
        elif isinstance(value, dict):
            words += [word for key, part in value.items() for word in (flag, f"{key}={part}")]
        elif keyword.repeated:
            words += [word for part in value for word in (flag, part)]
        else:
            words += [flag, ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
    return words


def of_command(*arguments: str | Path) -> Any:
    return RUNNER.invoke(app, ["prune", *map(str, arguments)])


def test_every_setting_is_in_the_summary_from_python_and_from_the_command_line(tmp_path: Path) -> None:
    weights = tmp_path / "small.safetensors"
    save_file(small(12).state_dict(), weights)
    settings = {**OTHERS, "weights": str(weights)}
    assert {*settings, *ELSEWHERE} == set(keywords(PruneConfig)), "a setting that this test does not know"
    _, summary = prune(SMALL, "1x1x8x8", out=tmp_path / "python", **settings)
    done = of_command(SMALL, "--input", "1x1x8x8", *typed(settings), "--out", tmp_path / "command", "--json")
    assert done.exception is None, done.exception
    for folder in ("python", "command"):
        written = json.loads((tmp_path / folder / "summary.json").read_text())
        assert written["command"] and written["settings"] == json.loads(json.dumps(summary["settings"]))
        for name, value in settings.items():
            for path in keywords(PruneConfig)[name].paths:
                found = at(written["settings"], path)
                assert found == (list(value) if isinstance(value, tuple) else value), name
    plans = [(tmp_path / folder / "plan.json").read_bytes() for folder in ("python", "command")]
    assert plans[0] == plans[1]


def test_the_configuration_that_was_written_gives_the_same_plan(tmp_path: Path) -> None:
    prune(
        SMALL,
        "1x1x8x8",
        {"macs": 0.5},
        importance="random",
        seed=5,
        round_to=2,
        milliseconds=False,
        out=tmp_path / "first",
    )
    config = tmp_path / "first" / "prune.yaml"
    done = of_command(SMALL, "--config", config, "--out", tmp_path / "again", "--json")
    assert done.exception is None, done.exception
    for name in ("plan.json", "prune.yaml"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "first" / name).read_bytes()


def squares(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.square() for name, tensor in tensors.items()}


def test_objects_are_recorded_by_their_names_and_are_no_configuration_to_run_again(
    digits: ImageData, tmp_path: Path
) -> None:
    _, summary = prune(
        small(),
        torch.randn(1, 1, 8, 8),
        {"macs": 0.5},
        data=digits,
        importance=squares,
        milliseconds=False,
        out=tmp_path / "out",
    )
    settings = summary["settings"]
    assert settings["model"] == "torch.nn.modules.container.Sequential" and settings["input"] == "1x1x8x8"
    assert settings["data"]["source"] == "digits"
    assert settings["cut"]["importance"]["criterion"] == f"{__name__}.squares"
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["settings"] == settings
    assert not (tmp_path / "out" / "prune.yaml").exists()


def test_a_configuration_survives_yaml(tmp_path: Path) -> None:
    device = tmp_path / "phone.yaml"
    device.write_text(
        "{name: phone, macs_per_second: 1e9, bytes_per_second: 1e8, joules_per_mac: 1e-12, joules_per_byte: 1e-10, bytes_per_word: 1}"
    )
    given = {**NAMED, **OTHERS, "weights": "w.th", "device_file": device, "check_dtype": torch.float64}
    config = parse(PruneConfig, nested(PruneConfig, {**given, "targets": {"energy_mj": 0.5}}))
    (tmp_path / "prune.yaml").write_text(as_yaml(config))
    assert read_prune_config(tmp_path / "prune.yaml", trust=True) == config
    assert config.seed == 3 and config.cut.checked_in == torch.float64


def test_a_default_stands_in_one_place() -> None:
    """On its field: what the command shows and what signatures say are made from it, and the command passes on nothing else."""
    config = parse(PruneConfig, NAMED)
    for name, keyword in keywords(PruneConfig).items():
        if name not in NAMED and keyword.paths[0][0] != "data":
            assert all(at_field(config, path) == keyword.default for path in keyword.paths), name
    for function, kind in ((prune, PruneConfig), (pruners.prune, CutConfig)):
        shown = inspect.signature(function).parameters
        for name, keyword in keywords(kind).items():
            assert name in (*NAMED, "data") or shown[name].default == keyword.default
    defaults = {name: p.default for name, p in inspect.signature(command).parameters.items()}
    assert all(defaults[name] is None for name in keywords(PruneConfig) if name != "model")


def test_this_machine_is_measured_where_no_file_tells_of_another(tmp_path: Path) -> None:
    device = tmp_path / "phone.yaml"
    device.write_text(
        "{name: phone, macs_per_second: 1e9, bytes_per_second: 1e8, joules_per_mac: 1e-12, joules_per_byte: 1e-10, bytes_per_word: 1}"
    )
    elsewhere = {**NAMED, "targets": {"energy_mj": 0.5}, "device_file": device}
    for given, asked, shown in (
        (NAMED, None, True),
        (NAMED, False, False),
        (elsewhere, None, False),
        (elsewhere, True, True),
    ):
        more = {} if asked is None else {"milliseconds": asked}
        assert parse(PruneConfig, nested(PruneConfig, {**given, **more})).shows_milliseconds is shown


def at_field(config: BaseModel, path: tuple[str, ...]) -> Any:
    for name in path:
        config = getattr(config, name)
    return config


def test_a_cut_takes_a_whole_configuration_or_keywords() -> None:
    model, example = small(), torch.randn(1, 1, 8, 8)
    config = parse(CutConfig, nested(CutConfig, {"importance": "l1", "round_to": 4, "check_dtype": torch.float64}))
    whole = plain.prune(model, example, {"macs": 0.5}, config=config)
    apart = plain.prune(model, example, {"macs": 0.5}, importance="l1", round_to=4, check_dtype=torch.float64)
    assert whole.plan.to_json() == apart.plan.to_json()
    with pytest.raises(ValueError, match="`config` brings all settings, got steps as well; leave out"):
        plain.prune(model, example, {"macs": 0.5}, config=config, steps=2)
    with pytest.raises(ValueError, match="setting .*'stepps'.*steps"):
        plain.prune(model, example, {"macs": 0.5}, stepps=2)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "prune.yaml"
    path.write_text(as_yaml(parse(PruneConfig, NAMED)))
    return path


def test_a_file_is_of_one_command(written: Path, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(as_yaml(configure("resnet20-pooling", "digits")))
    with pytest.raises(ValueError, match="run.yaml is a configuration of `nas search`; `nas prune` takes its own"):
        raise of_command("--config", tmp_path / "run.yaml").exception
    with pytest.raises(ValueError, match="prune.yaml is a configuration of `nas prune`; `nas search` takes its own"):
        read_config(written)


def test_the_search_refuses_a_file_of_pruning(written: Path) -> None:
    with pytest.raises(ValueError, match="prune.yaml is a configuration of `nas prune`; `nas search` takes its own"):
        raise RUNNER.invoke(app, ["search", "--config", str(written)]).exception


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cuts": {}}, "`cuts`: extra inputs are not permitted"),
        ({"targets": None}, "`targets` must be a mapping such as {'macs': 0.5}, got None"),
        ({"targets": {}}, "`targets` must name at least one of macs, .* got none"),
        ({"cut": {"importance": {"criterion": "taylor"}}}, "`importance` taylor needs images; give `data`"),
        ({"cut": {"limits": {"round_to": 0}}}, "`round_to` must be a whole number of at least 1, got 0"),
        ({"recovery": {"steps": ["magic"]}}, "`recover` must be none alone or among auto, .* got 'magic'"),
        ({"data": {"source": "digits", "std": [0.5]}}, "`mean` and `std` go together; give both, or neither"),
        ({"synthetic": 5, "data": {"source": "digits"}}, "`synthetic` is for those without data; leave it out, or `data`"),
    ],
)  # fmt: skip
def test_a_spoilt_file_is_refused(change: dict[str, Any], message: str, written: Path) -> None:
    written.write_text(yaml.safe_dump({**yaml.safe_load(written.read_text()), **change}))
    with pytest.raises(ValueError, match=message):
        read_prune_config(written, trust=True)


def test_targets_must_be_in_the_file(written: Path) -> None:
    data = yaml.safe_load(written.read_text())
    del data["targets"]
    written.write_text(yaml.safe_dump(data))
    with pytest.raises(ValueError, match="`--target` is missing; give it"):
        raise of_command("--config", written, "--trust").exception


def test_nothing_else_stands_beside_a_file(written: Path) -> None:
    with pytest.raises(
        ValueError, match="prune.yaml brings its own settings, got --steps, --distill-temperature as well"
    ) as told:
        raise of_command(SMALL, "--config", written, "--steps", "2", "--temperature", "3").exception
    assert "leave out one or the other" in str(told.value)


def test_a_function_in_a_file_is_imported_only_if_it_is_named_or_trusted(written: Path) -> None:
    with pytest.raises(Untrusted, match=re.escape(f"{written} names the function {SMALL!r}")):
        read_prune_config(written)
    assert read_prune_config(written, model=SMALL) == read_prune_config(written, trust=True)
    with pytest.raises(ValueError, match="is of model .*small', got 'other:model' as well; give the same, or none"):
        read_prune_config(written, model="other:model")
    plain = written.read_text()
    written.write_text(yaml.safe_dump({**yaml.safe_load(plain), "task": "mytasks:depth"}))
    with pytest.raises(Untrusted, match="names the function 'mytasks:depth'"):
        read_prune_config(written, model=SMALL)
    written.write_text(plain.replace("1x1x8x8", "tests.nas.test_prune:tokens"))
    with pytest.raises(Untrusted, match="names the function 'tests.nas.test_prune:tokens'"):
        read_prune_config(written, model=SMALL)
    with pytest.raises(Untrusted):
        raise of_command("--config", written).exception


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": "w.th"}, "`weights` must come with `model` by name, got a Sequential; leave out"),
        ({"mean": [0.5], "std": [0.5]}, "`mean`, `std` must come with `data` by name, got a ImageData"),
    ],
)
def test_settings_of_names_are_refused_beside_objects(
    settings: dict[str, Any], message: str, digits: ImageData
) -> None:
    with pytest.raises(ValueError, match=message):
        prune(small(), torch.randn(1, 1, 8, 8), {"macs": 0.5}, data=digits, **settings)
