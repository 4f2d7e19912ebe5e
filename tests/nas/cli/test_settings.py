"""Settings stand once: what a command is given is what Python is given, from one source at a time."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest

import nas
from nas.cli.options import in_options
from nas.runtime import as_yaml
from nas.study import RunConfig, configure
from search_spaces.core import keywords, nested
from tests.commands import run

KNOWN = keywords(RunConfig)
TYPED: dict[str, tuple[list[str], Any]] = {
    "space": (["nas-bench-macro"], "nas-bench-macro"),
    "space_options": (["depth=32"], {"depth": 32}),
    "data": (["torchvision:CIFAR10"], "torchvision:CIFAR10"),
    "mean": (["0.5,0.25"], [0.5, 0.25]),
    "std": (["1,2"], [1.0, 2.0]),
    "strategy": (["random"], "random"),
    "objectives": (["accuracy,latency_ms,energy_mj"], ["accuracy", "latency_ms", "energy_mj"]),
    "latency_table": (["t.json"], "t.json"),
    "start_from": (["runs/first"], "runs/first"),
    "supernet": (["runs/other"], "runs/other"),
    "supernets": (["2"], 2),
    "sampler": (["sandwich"], "sandwich"),
    "teacher": (["runs/teacher"], "runs/teacher"),
    "damaged": (["leave-out"], "leave-out"),
    "flip": ([], True),
    "limits": (["macs=60e6", "params=1e6"], {"macs": 60e6, "params": 1e6}),
    "schedule": (["exponential"], "exponential"),
    "optimizer": (["adamw"], "adamw"),
    "warm_up": (["0.1"], 0.1),
    "clip": (["0.5"], 0.5),
    "reduction": (["4"], 4),
    "ranking": (["assigned"], "assigned"),
    "worth": (["steps"], "steps"),
    "retrain": (["all"], "all"),
    "export": (["onnx,pt2"], ["onnx", "pt2"]),
    "device": (["cpu"], "cpu"),
    "log": (["mlflow,tensorboard"], ["mlflow", "tensorboard"]),
    "engine": (["ray"], "ray"),
    "address": (["auto"], "auto"),
    "validation_fraction": (["0.25"], 0.25),
    "temperature": (["7"], 7.0),
    "distill_weight": (["0.5"], 0.5),
    "momentum": (["0.5"], 0.5),
    "weight_decay": (["0.01"], 0.01),
    "label_smoothing": (["0.1"], 0.1),
    "ema": (["0.9"], 0.9),
    "learning_rate": (["0.02"], 0.02),
}
DEVICE = "{name: phone, macs_per_second: 1e9, bytes_per_second: 1e8, joules_per_mac: 1e-12, joules_per_byte: 1e-10, bytes_per_word: 1}"


def other(name: str) -> tuple[list[str], Any]:
    """What a setting is typed as, and what it is in Python; never its default."""
    if name in TYPED:
        return TYPED[name]
    return ([], True) if KNOWN[name].kind is bool else (["3"], 3)


def test_an_option_is_a_keyword_is_a_field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = tmp_path / "phone.yaml"
    device.write_text(DEVICE)
    given: dict[str, Any] = {}
    words = ["search"]
    for name, keyword in KNOWN.items():
        if name in (
            "evaluate",
            "task",
            "storage",
            "study",
            "early_stopping",
            "train_seconds",
        ):  # take the place of others
            continue
        typed, value = ([str(device)], device) if name == "device_file" else other(name)
        assert value != keyword.default, name
        words += [part for each in typed for part in (f"--{keyword.flag}", each)] or [f"--{keyword.flag}"]
        given[name] = value
    seen: list[RunConfig] = []
    monkeypatch.setattr("nas.cli.search.adopt", lambda config, **_: config)
    monkeypatch.setattr("nas.cli.search.run", lambda config, *_, **__: seen.append(config) or exit(0))  # type: ignore[func-returns-value]
    done = run(*words, "--out", tmp_path / "run")
    assert seen, done.stderr
    assert seen[0] == configure(**given)
    written = nested(RunConfig, given)
    assert written and RunConfig.model_validate(seen[0].model_dump(mode="json")) == seen[0]


def test_help_and_signatures_have_every_setting_with_its_default() -> None:
    shown = " ".join(run("search", "--help", columns=400).stdout.split())
    parameters = inspect.signature(nas.search).parameters
    for name, keyword in KNOWN.items():
        assert f"--{keyword.flag}" in shown and keyword.help.replace("`", "")[:40] in shown.replace("`", ""), name
        assert name in parameters
        own = ("space", "data", "evaluate", "task")
        assert name in own or parameters[name].default == keyword.default
        assert name in own or f"{name}: {keyword.help}" in (nas.search.__doc__ or "")
    assert "trials" not in inspect.signature(nas.train).parameters


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = configure("resnet20-pooling", "digits", strategy="random", trials=2, epochs=2, retrain="none")
    (tmp_path / "run.yaml").write_text(as_yaml(config))
    space = {"name": "resnet20-pooling", "options": {}, "fingerprint": ""}
    (tmp_path / "record.json").write_text(json.dumps({"space": space, "data": None, "sessions": []}))
    return tmp_path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--resume", "{run}", "--seed", "9"],
            "got --seed as well; only --learning-rate, --trials, --seconds, --macs-spent, --patience, --max-failures, --engine, "
            "--parallel, --address, --gpus, --asynchronous, --trial-seconds, --storage, --log may change",
        ),
        (["--resume", "{run}", "--epochs", "3", "--no-compile"], "got --epochs, --compile as well"),
        (["--resume", "{run}", "--out", "other"], "names the run folder and its settings, got --out other as well"),
        (["--resume", "{run}", "--config", "{run}/run.yaml"], "got --config"),
        (["--resume", "{run}", "--choices", "width"], "got --option as well"),
        (["--config", "{run}/run.yaml", "--seed", "1"], "brings its own settings, got --seed as well"),
        (
            ["--config", "{run}/run.yaml", "--learning-rate", "1"],
            "brings its own settings, got --learning-rate as well",
        ),
        (
            ["--choices", "width", "--option", "choices=depth"],
            "`--choices` and `--option choices` are the same setting",
        ),
        (["--mean", "0.5"], "`--mean` and `--std` go together"),
        (["--epochs", "0"], "`--epochs`: input should be greater than 0, got 0"),
    ],
)
def test_two_sources_of_a_setting_are_refused(words: list[str], message: str, folder: Path) -> None:
    done = run("search", *(word.format(run=folder) for word in words))
    assert done.returncode == 2 and message in " ".join(done.stderr.split()), done.stderr


def test_a_run_goes_on_at_another_learning_rate(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[RunConfig] = []
    monkeypatch.setattr("nas.cli.search.run", lambda config, *_, **__: seen.append(config) or exit(0))  # type: ignore[func-returns-value]
    run("search", "--resume", folder, "--learning-rate", "0.02")
    assert seen[0].supernets.training.learning_rate == seen[0].alone.training.learning_rate == 0.02
    assert seen[0].budget.trials == 2


def test_an_unknown_key_of_a_file_is_named(folder: Path) -> None:
    text = (folder / "run.yaml").read_text()
    (folder / "run.yaml").write_text(text.replace("strategy:", "strategie:"))
    done = run("search", "--config", folder / "run.yaml")
    assert done.returncode == 2 and "`strategie`: extra inputs are not permitted" in " ".join(done.stderr.split())


def test_settings_of_a_search_are_none_of_training() -> None:
    with pytest.raises(ValueError, match="`trials` is a setting of a search, not of training supernets"):
        nas.train("resnet20-pooling", "digits", trials=3)
    with pytest.raises(ValueError, match="no setting is named 'epoch'; did you mean epochs"):
        nas.search("resnet20-pooling", "digits", epoch=3)


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("`depth` and `a.depth` and `other=1`", "`--depth` and `a.depth` and `other=1`"),
        ("`depth=True`, `depth=False`", "`--depth`, `--no-depth`"),
        ("`form=\"module\"` or `form='graph'`", "`--form module` or `--form graph`"),
    ],
)
def test_settings_in_messages_are_written_as_options(said: str, shown: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(shown)}$"), in_options({"depth": "depth", "form": "form"}):
        raise ValueError(said)
