"""Searching the smaller models inside a trained one: `nas search` from the trained weights to exported files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import nas
from nas.data.dataset import ImageData
from nas.pruning.space import PrunedNetwork, searchable
from nas.scoring.weights import candidate
from nas.tasks import Images, Task
from nas.training.alone import Alone
from nas.training.config import TrainingConfig
from nas.training.loop import fit
from nas.training.measure import measure
from pruners import PrunableSpace
from tests.commands import lines, run

CPU = torch.device("cpu")
NAME = "pruned:tests.nas.pruning.test_space:residual"


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner, self.norm = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.outer = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(self.norm(self.inner(x)).relu())


def residual(width: int = 8) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, stride=2), nn.ReLU(), Block(width), Block(width), nn.Flatten(), nn.Linear(16 * width, 10)
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(task: Task) -> nn.Module:
    torch.manual_seed(0)
    config = TrainingConfig(epochs=15, batch_size=32)
    learner = Alone(residual(), task, config, CPU)
    fit(learner, task.training, config, seed=0, device=CPU)
    return learner.module.eval()


def space_of(model: nn.Module, **settings):
    return searchable(PrunableSpace(model, torch.zeros(1, 1, 8, 8), steps=4, **settings))


SETTINGS = {"strategy": "nsga2", "trials": 30, "retrain": "none", "device": "cpu"}


@pytest.fixture(scope="module")
def study(trained: nn.Module, digits: ImageData, tmp_path_factory: pytest.TempPathFactory) -> nas.Study:
    return nas.search(space_of(trained), digits, out=tmp_path_factory.mktemp("runs") / "a", **SETTINGS)


def test_a_search_finds_a_front_of_costs_and_accuracies_as_they_are(study: nas.Study, task: Task) -> None:
    front = study.front
    assert len(study.trials) == 30 and len(front) >= 3 and front["accuracy"].max() > 0.7
    network = study.space.net
    assert isinstance(network, PrunedNetwork)
    first = study.trials["architecture"].head(4).tolist()
    assert first == [network.source.uniform(step).key for step in (4, 3, 2, 1)] and first[0] == network.source.whole.key
    for row in front.to_dict("records"):
        arch = study.find(row["architecture"])
        module = candidate(network, arch, task, study.config.seed)
        assert sum(p.numel() for p in module.parameters()) == row["params"] == network.source.costs(arch)["params"]
        assert measure(module, task, task.validation)["accuracy"] == row["accuracy"]
    assert (study.folder / "report.html").exists() and (study.folder / "plots" / "front.png").exists()
    page = (study.folder / "report.html").read_text()
    assert (
        "the weights that are left" in page and "supernet" not in page.split("How it was made")[0].split("</style>")[1]
    )


def test_the_whole_architecture_scores_as_the_model(study: nas.Study, trained: nn.Module, task: Task) -> None:
    network = study.space.net
    assert isinstance(network, PrunedNetwork)
    module = network.build(study.space.locals(network.source.whole))
    assert measure(module, task, task.validation)["accuracy"] == measure(trained, task, task.validation)["accuracy"]


def test_a_stopped_search_goes_on_and_ends_the_same(
    study: nas.Study, trained: nn.Module, digits: ImageData, tmp_path: Path
) -> None:
    seen = 0

    def stop(step: str, done: float, total: float) -> None:
        nonlocal seen
        seen += 1
        if seen == 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        nas.search(space_of(trained), digits, out=tmp_path / "run", progress=stop, **SETTINGS)
    again = nas.search(space_of(trained), digits, out=tmp_path / "run", **SETTINGS)
    columns = ["label", "accuracy", "macs"]
    assert again.trials[columns].equals(study.trials[columns])


@pytest.mark.parametrize("strategy", ["nsga2", "coarse-to-fine"])
def test_limits_leave_out_the_whole_model_and_all_that_is_as_large(
    study: nas.Study, trained: nn.Module, digits: ImageData, tmp_path: Path, strategy: str
) -> None:
    most = study.trials["params"].max() * 0.4
    settings = {**SETTINGS, "strategy": strategy, "trials": 12, "limits": {"params": most}}
    limited = nas.search(space_of(trained), digits, out=tmp_path / "run", **settings)
    assert len(limited.trials) == 12 and limited.trials["params"].max() <= most


def test_other_weights_are_another_space(study: nas.Study, digits: ImageData) -> None:
    with pytest.raises(ValueError, match="another space"):
        nas.search(space_of(residual()), digits, out=study.folder, **SETTINGS)


def test_the_command_searches_trains_on_and_exports(trained: nn.Module, tmp_path: Path) -> None:
    save_file(trained.state_dict(), tmp_path / "w.safetensors")
    done = run(
        "search", "--space", NAME, "--option", f"weights={tmp_path / 'w.safetensors'}",
        "--option", "steps=2", "--data", "digits", "--strategy", "random", "--trials", "6", "--epochs", "1",
        "--limit", "300", "--test-limit", "100", "--mean", "0.3", "--std", "0.4", "--out", tmp_path / "run", "--json",
    )  # fmt: skip
    rows = lines(done)
    assert all(row["accuracy_alone"] > 0.2 and row["latency_ms"] > 0 for row in rows)
    study = nas.Study.open(tmp_path / "run", space=NAME)
    exported = nas.load(study.place("exports", study.find(rows[0]["architecture"])), space=NAME)
    task = study.task()
    assert isinstance(task.test, Images) and task.test.data.mean == (0.3,)
    assert measure(exported, task, task.test)["accuracy"] == pytest.approx(rows[0]["accuracy_alone"])
    bad = run(
        "search", "--space", NAME, "--option", "wait=1", "--data", "digits", "--trials", "1",
        "--strategy", "random", "--out", tmp_path / "other",
    )  # fmt: skip
    assert bad.returncode == 2 and "options of" in bad.stderr and "Traceback" not in bad.stderr


def test_an_untrained_on_subnet_is_exported_repaired(study: nas.Study, task: Task, tmp_path: Path) -> None:
    row = study.front.iloc[0]
    folder = nas.export(study, row["architecture"], tmp_path / "e", ("safetensors", "onnx"), task)
    assert json.loads((folder / "architecture.json").read_text())["weights"] == "trained model"
    module = nas.load(folder, study.space)
    assert measure(module, task, task.validation)["accuracy"] >= row["accuracy"] - 0.02  # it is repaired layer by layer


def test_what_does_not_fit_is_refused(trained: nn.Module, digits: ImageData, tmp_path: Path) -> None:
    for settings in ({"supernets": 2}, {"objectives": ["accuracy", "activations"]}, {"limits": {"activations": 1}}):
        with pytest.raises(ValueError, match="is a trained model: search it by a strategy that needs no supernets"):
            nas.search(space_of(trained), digits, out=tmp_path / "run", **{**SETTINGS, **settings})
    with pytest.raises(ValueError, match="`mean` and `std` go together"):
        nas.configure(NAME, "digits", strategy="random", mean=[0.5])
