"""What candidates of a trained model are worth: repaired, after steps of their own, or by one training that all share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nas
from nas.runtime import read_tensors
from nas.study import Study, configure
from nas.tasks import Task, task
from pruners.progress import Progress, silent

pytestmark = pytest.mark.usefixtures("hurried")
HERE = "tests.nas.test_worth"


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)
    ).eval()


def near(outputs: Tensor, target: Tensor) -> float:
    """How near outputs are to those of the trained model, the targets."""
    return float(1 - (outputs - target).square().mean() / target.var())


def towards() -> Task:
    """To compute what the trained model computes."""
    x = torch.randn(900, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        rows = (x, net()(x))
    parts = [tuple(each[at] for each in rows) for at in (slice(0, 500), slice(500, 700), slice(700, 900))]
    return task(
        parts[0], loss=nn.functional.mse_loss, metrics={"near": (near, "max")}, validation=parts[1], test=parts[2]
    )


def searched(folder: Path, progress: Progress = silent, **more: Any) -> Study:
    return nas.search(
        model=f"{HERE}:net", task=f"{HERE}:towards", objectives=("near", "macs"), strategy="random", trials=14, out=folder,
        device="cpu", trust=True, progress=progress, **more,
    )  # fmt: skip


def figures(study: Study) -> dict[str, float]:
    return {row["architecture"]: row["near"] for row in study.trials.to_dict("records")}


@pytest.fixture(scope="module")
def repaired(tmp_path_factory: pytest.TempPathFactory, hurried: None) -> dict[str, float]:
    return figures(searched(tmp_path_factory.mktemp("repaired") / "run"))


def better(found: dict[str, float], before: dict[str, float]) -> float:
    both = found.keys() & before.keys()
    assert len(both) == len(before)
    return sum(found[key] - before[key] for key in both) / len(both)


def test_steps_of_their_own_bring_candidates_nearer(tmp_path: Path, repaired: dict[str, float]) -> None:
    study = searched(tmp_path / "run", worth="steps", train_steps=40)
    assert better(figures(study), repaired) > 0.01
    assert "trained towards the trained model for 40 steps" in (tmp_path / "run" / "report.html").read_text()
    exported = nas.export(study, study.front["architecture"].iloc[-1], tmp_path / "subnet")
    assert nas.load(exported, trust=True)(torch.zeros(2, 8)).shape == (2, 3)


def test_one_training_brings_all_nearer_and_is_what_is_exported(tmp_path: Path, repaired: dict[str, float]) -> None:
    steps: list[str] = []
    study = searched(tmp_path / "run", lambda step, *_: steps.append(step), train_steps=150)
    assert better(figures(study), repaired) > 0.01 and "matching" in steps
    weights = tmp_path / "run" / "supernets" / "parent.safetensors"
    before = read_tensors(weights, "")
    assert any(not torch.equal(x, net().state_dict()[name]) for name, x in before.items())
    batch = next(iter(towards().test.evenly(200)))
    row = study.front.iloc[-2]
    exported = nas.load(nas.export(study, row["architecture"], tmp_path / "subnet"), trust=True)
    with torch.no_grad():
        ours = near(exported(batch.inputs), batch.target)
    assert ours == pytest.approx(row["near"], abs=0.1), "as it was judged: no training of its own"

    steps.clear()
    again = searched(tmp_path / "run", lambda step, *_: steps.append(step), train_steps=150)
    assert figures(again) == figures(study) and "matching" not in steps


def test_workers_take_the_shared_weights(tmp_path: Path) -> None:
    here = searched(tmp_path / "here", train_steps=30)
    there = searched(tmp_path / "there", train_steps=30, engine="processes", parallel=2)
    one, other = figures(here), figures(there)
    assert one.keys() == other.keys()
    assert all(other[key] == pytest.approx(value, abs=1e-5) for key, value in one.items())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"worth": "supernets"}, "no worth is named 'supernets'; did you mean supernet"),
        ({"worth": "repaired", "train_steps": 5}, "`worth` repaired trains nothing, got train_steps as well"),
        ({"train_seconds": 5, "train_steps": 5}, "takes `train_seconds` or `train_steps`, got 5 and 5; leave out one"),
        ({"worth": "steps", "train_seconds": 5}, "`worth` steps takes `train_steps`"),
    ],
)
def test_what_does_not_fit_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        configure(model=f"{HERE}:net", task=f"{HERE}:towards", objectives=("near:max", "macs"), **given)


def test_only_trained_models_have_a_worth_and_training_needs_examples(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`worth` supernet is of smaller models inside a trained one, got the space"):
        nas.search("resnet20-pooling", "digits", train_steps=5, out=tmp_path / "a", device="cpu")
    with pytest.raises(ValueError, match="`worth` steps trains on examples, got none"):
        nas.search(
            model=f"{HERE}:net", input="1x8", worth="steps", objectives=("macs", "params"), out=tmp_path / "b", device="cpu",
            trust=True,
        )  # fmt: skip
