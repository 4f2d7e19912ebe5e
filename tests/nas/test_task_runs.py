"""Searches, trainings and prunings of tasks of one's own: metrics are objectives, runs go on, and what does not fit is said."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nas
from examples.own_space import own_space
from examples.tasks import digits, language
from nas import Study, tasks
from nas.runtime import Untrusted
from nas.tasks import Batch, Task
from nas.training import measure
from tests.commands import run

SPACE = "examples.own_space:own_space"
TASK = "tests.nas.test_task_runs:ink"
QUICK = {
    "strategy": "one-shot", "epochs": 1, "alone_epochs": 1, "batch_size": 64, "learning_rate": 0.003, "trials": 3, "seed": 1,
}  # fmt: skip


def ink(metrics: dict[str, Any] | None = None, **more: Any) -> Task:
    """How much ink there is on a digit."""
    images = digits()[0][:300].unsqueeze(1)
    target = 10 * images.mean((1, 2, 3))
    given = metrics or {"error": (lambda out, y: (out.squeeze(1) - y).abs().mean(), "min"), "close": (close, "max")}
    return tasks.task((images, target), loss=loss, metrics=given, name="ink", outputs=1, **more)


def loss(outputs: Tensor, target: Tensor) -> Tensor:
    return F.huber_loss(outputs.squeeze(1), target)


def close(outputs: Tensor, target: Tensor) -> Tensor:
    return ((outputs.squeeze(1) - target).abs() < 1).float().mean()


def words() -> Task:
    return language.make()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    out = tmp_path_factory.mktemp("runs") / "ink"
    return nas.search(SPACE, task=TASK, objectives=["error", "macs", "close"], out=out, **QUICK)


def test_metrics_are_objectives_by_their_names(study: Study) -> None:
    assert study.config.objectives == ("error:min", "macs", "close:max")
    table = study.ranked
    assert {"error", "close", "error_alone", "close_alone"} <= set(table.columns) and "accuracy" not in table
    alone = table.dropna(subset=["error_alone"])
    assert len(alone) == len(study.searched_front) and (alone["close_alone"] <= 1).all()
    assert study.record["data"]["name"] == "ink" and study.worth.name == "error"


def test_the_front_is_of_the_metric_in_its_direction(study: Study) -> None:
    front, table = study.front, study.ranked.dropna(subset=["error_alone"])
    for row in front.itertuples():
        worse = (
            (table["macs"] <= row.macs)
            & (table["error_alone"] < row.error_alone)
            & (table["close_alone"] >= row.close_alone)
        )
        assert not worse.any()
    best = nas.choose(study, "best")
    assert best["error_alone"].iloc[0] == front["error_alone"].min()
    limit = float(front["error_alone"].median())
    assert (nas.choose(study, limits={"error_alone": limit})["error_alone"] <= limit).all()


def test_networks_alone_have_the_figures_that_are_written(study: Study) -> None:
    from nas.retrain import build

    task, row = study.task(), study.alone.iloc[0]
    found = measure(build(study, study.find(row["architecture"])), task, task.test, ["error", "close"])
    assert found == pytest.approx({"error": row["error"], "close": row["close"]})


def test_a_run_goes_on_and_its_function_needs_trust(study: Study) -> None:
    again = nas.search(
        SPACE, task=TASK, objectives=["error", "macs", "close"], out=study.folder, **{**QUICK, "trials": 4}
    )
    assert len(again.trials) == 4 and again.trials.iloc[:3]["error"].tolist() == study.trials.iloc[:3]["error"].tolist()
    done = run("search", "--resume", str(study.folder))
    assert done.returncode and "names the function" in done.stderr
    with pytest.raises(Untrusted, match="names the function"):
        Study.open(study.folder)


def test_exports_compute_what_was_measured(study: Study) -> None:
    folder = study.place("exports", study.find(study.front["architecture"].iloc[0]))
    described = json.loads((folder / "architecture.json").read_text())
    assert described["input"]["shape"] == [1, 8, 8] and "classes" not in described
    model = nas.load(folder, space=SPACE)
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 1)


def test_the_page_speaks_of_the_metric(study: Study) -> None:
    page = (study.folder / "report.html").read_text()
    assert "best error (trained alone, test examples)" in page and "accuracy" not in page and " images" not in page
    assert {path.stem for path in (study.folder / "plots").glob("*.png")} >= {"front", "curves", "rank"}


def test_the_command_line_takes_a_task(tmp_path: Path) -> None:
    options = [
        "--space",
        SPACE,
        "--strategy",
        "random",
        "--epochs",
        "1",
        "--supernets",
        "0",
        "--retrain",
        "none",
        "--trials",
        "2",
    ]
    done = run(
        "search",
        "--task",
        TASK,
        "--objectives",
        "close,params",
        *options,
        "--learning-rate",
        "0.003",
        "--out",
        str(tmp_path / "run"),
    )
    assert done.returncode == 0, done.stderr
    assert "close:max" in (tmp_path / "run" / "run.yaml").read_text() and "close" in done.stdout
    done = run("search", "--task", TASK, "--objectives", "closed,params", *options)
    assert done.returncode and "did you mean close?" in done.stderr
    done = run("search", "--task", TASK, "--data", "digits", *options)
    assert done.returncode and "`--task` brings its own data" in done.stderr


def test_supernets_are_trained_by_themselves_from_the_command_line(tmp_path: Path) -> None:
    done = run(
        "train", SPACE, "--task", TASK, "--epochs", "1", "--learning-rate", "0.003", "--out", str(tmp_path / "nets")
    )
    assert done.returncode == 0, done.stderr
    options = ["--retrain", "none", "--trials", "2", "--out", str(tmp_path / "run")]
    done = run("search", "--supernet", str(tmp_path / "nets"), "--space", SPACE, "--task", TASK, *options)
    assert done.returncode == 0, done.stderr
    assert Study.open(tmp_path / "run", trust=True).config.objectives == ("error:min", "macs")


def test_without_objectives_the_first_metric_and_macs_are_asked_for(tmp_path: Path) -> None:
    made = nas.search(own_space(num_classes=1), ink(), out=tmp_path / "run", **{**QUICK, "retrain": "none"})
    assert made.config.objectives == ("error:min", "macs")
    with pytest.raises(ValueError, match="given as an object"):
        Study.open(tmp_path / "run", own_space(num_classes=1)).task()


def test_what_networks_put_out_is_checked_before_training(tmp_path: Path) -> None:
    task = ink(metrics=None)
    with pytest.raises(ValueError, match="the loss of 'ink' must fit what the model returns, got outputs 2x3 float32"):
        nas.search(own_space(num_classes=3), task, out=tmp_path / "run", **QUICK)
    assert not (tmp_path / "run").exists()


def test_what_no_task_can_give_is_said_before_training(tmp_path: Path) -> None:
    space = own_space(num_classes=1)
    with pytest.raises(ValueError, match="no metric of the task is named 'accuracy'; known: error, close"):
        nas.search(space, ink(), objectives=["accuracy", "macs"], out=tmp_path / "run", **QUICK)
    with pytest.raises(ValueError, match="`evaluate` takes the place of data and training, got `task` as well"):
        nas.search(space, ink(), evaluate=lambda model: 1.0, objectives=["score:max"], out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_metric_that_is_nan_keeps_a_trial_off_the_front_and_is_counted(tmp_path: Path) -> None:
    calls = []

    def sometimes(outputs: Tensor, target: Tensor) -> float:
        calls.append(1)
        return math.nan if len(calls) == 2 else 1.0

    task = ink({"odd": (sometimes, "max")})
    with pytest.warns(UserWarning, match="1 of 3 architectures have no odd; they are left out of the front"):
        made = nas.search(own_space(num_classes=1), task, out=tmp_path / "run", retrain="none", supernets=1, **QUICK)
    assert made.trials["odd"].isna().sum() == 1


@pytest.mark.parametrize(
    ("sampler", "supernets"),
    [("groups", 2), ("sandwich", 1), ("complexity", 1), ("narrowing", 1), ("split", 1)],
)
def test_every_sampler_trains_values(sampler: str, supernets: int, tmp_path: Path) -> None:
    strategy = "mixture" if supernets > 1 else "one-shot"
    settings = {
        **QUICK,
        "strategy": strategy,
        "epochs": 5,
        "retrain": "none",
        "sampler": sampler,
        "supernets": supernets,
    }
    made = nas.search(own_space(num_classes=1), ink(), out=tmp_path / "run", **settings)
    assert made.trials["error"].notna().all()


def test_a_step_of_ones_own_trains_supernets(tmp_path: Path) -> None:
    seen: list[int] = []

    def step(call: Any, batch: Batch) -> Tensor:
        seen.append(batch.size)
        return loss(call(batch.inputs), batch.target)

    plain = nas.train(
        own_space(num_classes=1), ink(), out=tmp_path / "plain", epochs=2, batch_size=64, learning_rate=0.003
    )
    own = nas.train(
        own_space(num_classes=1), ink(step=step), out=tmp_path / "own", epochs=2, batch_size=64, learning_rate=0.003
    )
    assert seen
    from safetensors.torch import load_file

    found = [load_file(made.folder / "supernets" / "checkpoint.safetensors") for made in (plain, own)]
    assert all(found[0][name].equal(found[1][name]) for name in found[0])
    with pytest.raises(ValueError, match="a task with a step of its own is learnt by the samplers uniform"):
        nas.train(own_space(num_classes=1), ink(step=step), out=tmp_path / "no", epochs=3, sampler="sandwich")


def test_a_teacher_of_values_teaches(tmp_path: Path) -> None:
    settings = {**QUICK, "retrain": "none", "distill_weight": 1.0}
    made = nas.search(
        own_space(num_classes=1), ink(), out=tmp_path / "run", teacher="tests.nas.test_task_runs:teacher", **settings
    )
    assert made.trials["error"].notna().all()
    with pytest.raises(
        ValueError,
        match=r"the teacher must put out what the networks of the space do, for each example \(1,\), got \(7,\)",
    ):
        nas.search(
            own_space(num_classes=1),
            ink(),
            out=tmp_path / "no",
            teacher="tests.nas.test_task_runs:stranger",
            **settings,
        )


def teacher() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 1))


def stranger() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 7))


def test_images_have_more_metrics_than_accuracy(tmp_path: Path) -> None:
    settings = {**QUICK, "limit": 200, "test_limit": 60}
    made = nas.search(own_space(), "digits", objectives=["macro_f1", "macs"], out=tmp_path / "run", **settings)
    assert made.config.objectives == ("macro_f1", "macs") and "macro_f1_alone" in made.front
    assert "accuracy" not in made.trials


def test_a_model_of_named_inputs_is_pruned_on_its_task(tmp_path: Path) -> None:
    torch.manual_seed(0)
    result, summary = nas.prune(
        "examples.tasks.language:model", None, {"macs": 0.7}, task="tests.nas.test_task_runs:words", out=tmp_path / "out",
        recover=("auto", "finetune:1"), learning_rate=0.1,
    )  # fmt: skip
    assert list(summary["test"]) == ["before", "pruned", "auto", "finetune:1"]
    assert summary["test"]["finetune:1"]["perplexity"] < summary["test"]["before"]["perplexity"]
    task = words()
    found = measure(result.model, task, task.test, ["perplexity"])["perplexity"]
    assert summary["test"]["finetune:1"]["perplexity"] == pytest.approx(found)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "perplexity on test examples" in page and "next token" in page
    assert (tmp_path / "out" / "prune.yaml").exists()


def test_a_pruning_needs_an_example_or_examples(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`input` is missing; give it, or `data` or a `task`"):
        nas.prune("examples.tasks.language:model", None, {"macs": 0.7})
    with pytest.raises(ValueError, match="the model must take the inputs of 'ink'"):
        nas.prune("examples.tasks.language:model", None, {"macs": 0.7}, data=ink())
    with pytest.raises(ValueError, match="`task` must return a task"):
        nas.prune("examples.tasks.language:model", None, {"macs": 0.7}, task="tests.nas.test_task_runs:teacher")
