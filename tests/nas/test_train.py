"""Training supernets in a run folder, going on with it, and searching with what came out."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from torch import nn
from typer.testing import CliRunner

import nas
from nas.cli.app import app
from nas.data.dataset import ImageData
from nas.runtime import checkpoint
from nas.study.config import RunConfig, parse_config
from nas.study.defaults import configure
from nas.study.records import write_recorded
from nas.tasks import Task
from nas.train import load_supernets
from nas.training.alone import Distillation
from search_spaces import make_space
from tests.commands import lines, run
from tests.elastic_toy import elastic_space

QUICK = {"epochs": 2, "batch_size": 50}
TAUGHT = (
    "--momentum 0.8 --label-smoothing 0.1 --teacher module:function --distill-weight 0.5 --distill-temperature 2"
).split()
SMALL = "--epochs 2 --limit 200 --test-limit 50 --batch-size 50".split()


def seven_classes() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 7))


def checkpoint_of(folder: Path) -> Path:
    return folder / "supernets" / "checkpoint.safetensors"


def test_a_sandwich_is_trained_and_a_search_ranks_with_it_without_training(digits: ImageData, tmp_path: Path) -> None:
    space = elastic_space()
    study = nas.train(space, digits, out=tmp_path / "trained", sampler="sandwich", ema=0.9, **QUICK)
    history = pd.read_csv(tmp_path / "trained" / "supernets" / "history.csv")
    assert list(history["epoch"]) == [0, 1]
    assert {"loss", "loss_smallest", "loss_random", "loss_largest"} <= set(history.columns)
    kept = checkpoint_of(study.folder).read_bytes()
    found = nas.search(
        space,
        digits,
        out=tmp_path / "searched",
        supernet=str(study.folder),
        strategy="random",
        trials=4,
        retrain="none",
    )
    assert checkpoint_of(found.folder).read_bytes() == kept == checkpoint_of(study.folder).read_bytes()
    assert found.config.supernets.sampler == "sandwich" and found.config.supernets.source == str(study.folder)
    assert len(found.trials) == 4 and found.trials["accuracy"].between(0, 1).all()
    assert not (found.folder / "supernets" / "history.csv").exists()


def test_bf16_trains_and_ranks_and_leaves_weights_and_latencies_in_float32(
    digits: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    halves, measured_in = [], []
    forward = nn.Linear.forward

    def noted(self: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        halves.append(torch.is_autocast_enabled("cpu"))
        return forward(self, x)

    def measure(modules: Mapping[object, nn.Module], *args: object, **kwargs: object) -> dict[object, SimpleNamespace]:
        measured_in.append(torch.is_autocast_enabled("cpu"))
        return dict.fromkeys(modules, SimpleNamespace(median_ms=1.0, p25_ms=1.0, p75_ms=1.0))

    monkeypatch.setattr(nn.Linear, "forward", noted)
    monkeypatch.setattr("nas.scoring.costs.compare_latency", measure)
    settings = {"strategy": "random", "trials": 2, "retrain": "none", "objectives": ("accuracy", "latency_ms"), **QUICK}
    study = nas.search("resnet20-pooling", digits, out=tmp_path, bfloat16=True, **settings)
    found = checkpoint.load(checkpoint_of(study.folder))
    assert found is not None
    assert {t.dtype for t in found.tensors.values() if t.is_floating_point()} == {torch.float32}
    assert measured_in and not any(measured_in)
    assert any(halves) and not torch.is_autocast_enabled("cpu")


def test_the_average_of_the_weights_is_what_ranks(digits: ImageData, task: Task, tmp_path: Path) -> None:
    study = nas.train(elastic_space(), digits, out=tmp_path, ema=0.5, **QUICK)
    learner = load_supernets(study, task)
    found = checkpoint.load(checkpoint_of(tmp_path))
    assert learner is not None and found is not None
    for name, value in learner.members[0].supernet.named_parameters():
        assert (value == found.tensors[f"supernet0/averaged/{name}"]).all()
    assert any(
        (value != found.tensors[f"supernet0/weights/{name}"]).any()
        for name, value in learner.members[0].supernet.named_parameters()
    )


@pytest.mark.parametrize(
    "settings", [{"sampler": "performance"}, {"sampler": "uniform", "supernets": 2, "accumulate": 2}]
)
def test_stopped_and_called_again_it_ends_as_if_never_stopped(
    settings: dict, digits: ImageData, tmp_path: Path
) -> None:
    def stop(history: list) -> None:
        if history[-1]["epoch"] == 0:
            raise KeyboardInterrupt

    def train(name: str, **more: object) -> dict:
        nas.train(elastic_space(), digits, out=tmp_path / name, epochs=3, batch_size=50, **settings, **more)
        found = checkpoint.load(checkpoint_of(tmp_path / name))
        assert found is not None
        return found.tensors

    with pytest.raises(KeyboardInterrupt):
        train("stopped", on_epoch=stop)
    whole, resumed = train("whole"), train("stopped")
    assert whole.keys() == resumed.keys()
    assert all((whole[name] == resumed[name]).all() for name in whole)


@pytest.mark.parametrize("start", [nas.train, partial(nas.search, strategy="random", trials=2, retrain="none")])
def test_after_a_loss_that_is_not_finite_training_goes_on_at_a_lower_rate_until_it_is_done(
    start: Callable[..., nas.Study], digits: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nas.samplers.basic import Uniform

    settings = {"epochs": 3, "batch_size": 50, "out": tmp_path}
    draw = Uniform.draw

    def broken(self, epoch, rng):
        return [d._replace(weight=float("inf") if epoch == 1 else 1.0) for d in draw(self, epoch, rng)]

    with monkeypatch.context() as patch:
        patch.setattr(Uniform, "draw", broken)
        with pytest.raises(ValueError, match="in step 2 of epoch 2 for architecture .*keeps the state after 1 epochs"):
            start(elastic_space(), digits, learning_rate=0.1, **settings)
    with pytest.raises(ValueError, match="holds another run .*batch_size: 50, not 40"):
        start(elastic_space(), digits, **{**settings, "batch_size": 40})
    study = start(elastic_space(), digits, learning_rate=0.05, **settings)
    assert study.config.supernets.training.learning_rate == 0.05
    history = pd.read_csv(tmp_path / "supernets" / "history.csv")
    assert list(history["epoch"]) == [0, 1, 2] and np.isfinite(history["loss"]).all()
    with pytest.raises(ValueError, match="holds another run .*learning_rate: 0.05, not 0.01"):
        start(elastic_space(), digits, learning_rate=0.01, **settings)


def test_a_network_alone_whose_loss_is_not_finite_is_trained_in_another_folder_with_the_same_supernets(
    digits: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"strategy": "random", "trials": 1, "epochs": 1, "alone_epochs": 3, "batch_size": 50}
    said = f"1 of 1 networks failed .*a lower `learning_rate`, in another folder, where `supernet` {tmp_path / 'run'} keeps"
    with monkeypatch.context() as patch, pytest.raises(ValueError, match=said):
        patch.setattr("nas.training.alone.Alone.loss", lambda self, batch: torch.tensor(float("nan")))
        nas.search(elastic_space(), digits, out=tmp_path / "run", **settings)
    again = {**settings, "supernet": str(tmp_path / "run"), "learning_rate": 0.01}
    study = nas.search(elastic_space(), digits, out=tmp_path / "again", **again)
    assert study.config.alone.training.learning_rate == 0.01 and len(study.alone) == 1


def test_supernets_of_another_space_other_data_or_half_trained_are_refused(digits: ImageData, tmp_path: Path) -> None:
    nas.train(elastic_space(), digits, out=tmp_path / "toy", **QUICK)
    settings = {"supernet": str(tmp_path / "toy"), "retrain": "none"}
    with pytest.raises(ValueError, match="were trained for another space, 'toy' as it was then and not 'other'"):
        nas.search(elastic_space(name="other"), digits, out=tmp_path / "a", **settings)
    with pytest.raises(ValueError, match="were trained for another space, 'toy' as it was then and not 'toy'"):
        nas.search(elastic_space(3), digits, out=tmp_path / "b", **settings)
    fewer = nas.load_data("digits", limit=200, test_limit=50)
    with pytest.raises(
        ValueError, match="were trained for another data, 'digits'.*use the same data, options and seed"
    ):
        nas.search(elastic_space(), fewer, out=tmp_path / "c", **settings)
    file = tmp_path / "toy" / "run.yaml"
    longer = yaml.safe_load(file.read_text())
    longer["supernets"]["training"]["epochs"] = 5
    write_recorded(file.parent, file.name, yaml.safe_dump(longer))
    with pytest.raises(ValueError, match="must be trained to the end, got 2 of 5 epochs; go on with `nas train` first"):
        nas.search(elastic_space(), digits, out=tmp_path / "d", **settings)
    with pytest.raises(FileNotFoundError, match=r"no configuration at .*nowhere"):
        nas.search(elastic_space(), digits, out=tmp_path / "e", supernet=str(tmp_path / "nowhere"))


def test_a_teacher_of_other_classes_is_refused_before_training(digits: ImageData, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"of the space do, for each example \(10,\), got \(7,\); .* on the same classes"
    ):
        nas.train(elastic_space(), digits, out=tmp_path, teacher="tests.nas.test_train:seven_classes", **QUICK)
    with pytest.raises(
        ValueError, match="teacher 'tests.nas.supernets.test_slices:batch' must return a module, got Batch"
    ):
        nas.train(elastic_space(), digits, out=tmp_path / "b", teacher="tests.nas.supernets.test_slices:batch", **QUICK)


@pytest.mark.parametrize("settings", [{"supernets": 2, "sampler": "split"}, {"sampler": "fair"}])
def test_what_the_space_cannot_have_leaves_no_folder_in_the_way(
    settings: dict[str, Any], digits: ImageData, tmp_path: Path
) -> None:
    for verb in (nas.train, nas.search):
        space, out = make_space("nas-bench-macro", in_channels=1, image_size=8), tmp_path / verb.__name__
        with pytest.raises(ValueError, match="use strategy one-shot|use uniform"):
            verb(space, digits, out=out, **settings, **QUICK)
        assert not out.exists()


def test_an_exported_network_teaches(finished: nas.Study, digits: ImageData, task: Task, tmp_path: Path) -> None:
    folder = next((finished.folder / "exports").iterdir())
    study = nas.train(elastic_space(), digits, out=tmp_path, teacher=str(folder), **QUICK)
    assert load_supernets(study, task) is not None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampler": "sandwhich"}, r"no sampler is named 'sandwhich'; did you mean sandwich\?"),
        (
            {"teacher": "largest"},
            "teacher largest needs a sampler that trains the largest.*: sandwich or delayed; got uniform",
        ),
        ({"sampler": "fair", "subnets": 3}, "sampler fair has its own number of subnets; leave out `subnets`, got 3"),
        ({"sampler": "groups", "batch_size": 7}, "at least 2 images for each of its 4 subnets, got batch_size=7"),
        (
            {"schedule": "linear"},
            "`supernets.training.schedule`: input should be 'cosine', 'one-cycle' or 'exponential'",
        ),
        ({"ema": 1.0}, "`supernets.ema`: input should be less than 1, got 1"),
        ({"accumulate": 0}, "`supernets.accumulate`: input should be greater than 0, got 0"),
    ],
)
def test_a_setting_that_does_not_fit_is_named(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        configure("toy", "digits", strategy="one-shot", **settings)


def test_a_run_file_from_before_there_were_samplers_still_loads() -> None:
    old = {"space": {"name": "s"}, "data": {"source": "d"}, "supernets": {"count": 4, "training": {"epochs": 3}}}
    config = parse_config(old)
    assert (config.supernets.sampler, config.supernets.teacher, config.supernets.ema) == ("uniform", None, 0)


def test_no_supernets_cannot_be_trained(digits: ImageData) -> None:
    with pytest.raises(ValueError, match="`supernets` must be at least 1 to be trained, got 0"):
        nas.train(elastic_space(), digits, supernets=0)


@pytest.mark.parametrize("command", [["train", "resnet20-pooling"], ["search"]])
def test_both_commands_take_what_the_optimiser_and_a_teacher_need(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[RunConfig] = []

    def stop(config: RunConfig, *args: object, **settings: object) -> None:
        seen.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["nas.train"], "open_run", stop)
    monkeypatch.setattr("nas.cli.search.run", stop)
    assert CliRunner().invoke(app, [*command, *TAUGHT]).exit_code == 130
    (supernets,) = (config.supernets for config in seen)
    assert (supernets.training.momentum, supernets.training.label_smoothing) == (0.8, 0.1)
    assert supernets.distillation == Distillation(weight=0.5, temperature=2.0)


def test_from_the_command_line(tmp_path: Path) -> None:
    trained = tmp_path / "trained"
    command = ["train", "resnet20-pooling", "--sampler", "fair", *SMALL, "--out", trained, "--json"]
    rows = lines(run(*command))
    assert [row["epoch"] for row in rows] == [0, 1] and "loss_largest" in rows[0]
    found = run("search", "--supernet", trained, "--retrain", "none", "--out", tmp_path / "searched", "--json")
    assert lines(found) and json.loads((tmp_path / "searched" / "record.json").read_text())["data"]["train"] == 100
    assert nas.Study.open(tmp_path / "searched").config.supernets.sampler == "fair"
    other = run("search", "--supernet", trained, "--space", "resnet18-pooling", "--out", tmp_path / "other")
    assert other.returncode == 2 and "were trained for another space" in " ".join(other.stderr.split())
