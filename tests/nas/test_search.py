"""The whole search from Python: what it leaves, in every mode, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import nas
from estimators.counting.cost import CostModel
from nas import Study, search
from nas.data.dataset import ImageData
from nas.objectives.pareto import non_dominated
from nas.tasks import image_task
from search_spaces import Block, Integer, Network, SearchSpace, make_space
from tests.conftest import QUICK
from tests.made_up_studies import complete, try_

SMALL = {"epochs": 1, "alone_epochs": 1, "batch_size": 64, "limit": 200, "test_limit": 50}


def test_every_architecture_is_a_trial_with_exact_costs(finished: Study) -> None:
    trials = finished.trials
    assert sorted(trials["label"]) == sorted(map(finished.space.label, finished.space.enumerate()))
    model = CostModel(finished.space)
    for row in trials.itertuples():
        cost = model.cost(finished.find(row.architecture))
        assert (row.macs, row.params, row.activations) == (cost.macs, cost.params, cost.activations)
    assert trials["accuracy"].between(0, 1).all()
    supernets = trials[["accuracy_supernet0", "accuracy_supernet1"]]
    np.testing.assert_array_equal(trials["accuracy"], supernets.max(axis=1))


def test_the_fronts_are_what_nothing_dominates_before_and_after_training_alone(finished: Study) -> None:
    searched, trials = finished.searched_front, finished.trials
    on_front = non_dominated(np.column_stack([-trials["accuracy"], trials["macs"]]))
    assert set(searched["label"]) == set(trials["label"][on_front])
    assert set(finished.alone["label"]) == set(searched["label"])
    final = non_dominated(np.column_stack([-searched["accuracy_alone"], searched["macs"]]))
    assert list(finished.front["label"]) == list(searched["label"][final])
    for front in (searched, finished.front):
        assert front["macs"].is_monotonic_increasing
        assert front["accuracy_alone"].between(0, 1).all()
        assert (front["latency_p25_ms"] <= front["latency_ms"]).all() and (front["latency_ms"] > 0).all()


def test_the_run_folder_is_complete(finished: Study) -> None:
    names = {path.name for path in finished.folder.iterdir() if not path.name.startswith(".")}
    assert {
        "run.yaml",
        "record.json",
        "journal.log",
        "front.csv",
        "trials.csv",
        "report.html",
        "plots",
        "exports",
        "supernets",
    } <= names
    record = json.loads((finished.folder / "record.json").read_text())
    session = record["sessions"][0]
    assert session["ended"] and session["versions"]["torch"] and session["hardware"]["cores"]
    assert record["seed"] == 0
    assert not list(finished.folder.rglob("*.tmp")) and not list(finished.folder.rglob("*.checkpoint"))
    assert {path.name for path in (finished.folder / "exports").iterdir()} == set(finished.front["label"])


def test_a_finished_run_is_not_repeated(finished: Study) -> None:
    before = (finished.folder / "journal.log").read_bytes()
    again = search("resnet20-pooling", "digits", out=finished.folder, **QUICK)
    assert (finished.folder / "journal.log").read_bytes() == before
    assert len(again.trials) == 36


def test_same_seed_same_trials_in_another_process(finished: Study, tmp_path: Path) -> None:
    code = (
        "import sys, torch; torch.set_num_threads(1); import nas; from tests.conftest import QUICK\n"
        "s = nas.search('resnet20-pooling', 'digits', out=sys.argv[1], **QUICK)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], check=True, cwd=Path(__file__).parents[2])
    other = Study.open(tmp_path / "run")
    columns = ["label", "accuracy", "accuracy_supernet0", "accuracy_supernet1", "macs"]
    assert other.trials[columns].equals(finished.trials[columns])
    assert other.alone[["label", "accuracy"]].equals(finished.alone[["label", "accuracy"]])


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    search("resnet20-pooling", "digits", out=tmp_path / "run", strategy="random", trials=3, **SMALL)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "settings",
    [
        {"strategy": "one-shot", "retrain": "none", "space_options": {"bn": "affine"}},
        {"strategy": "random", "trials": 5, "retrain": "all", "objectives": ["accuracy", "params", "macs"]},
        {
            "strategy": "evolution",
            "trials": 12,
            "retrain": "none",
            "space_options": {"operators": ["max", "avg", "conv"]},
        },
        {"strategy": "nsga2", "trials": 60, "retrain": "none", "space_options": {"operators": ["max", "avg", "conv"]}},
        {"strategy": "coarse-to-fine", "trials": 40, "retrain": "none", "space_options": {"operators": ["max", "avg"]}},
        {"strategy": "exhaustive", "supernets": 2, "ranking": "assigned", "retrain": "none"},
        {"strategy": "random", "supernets": 0, "trials": 2, "retrain": "none"},
        {"strategy": "random", "objectives": ["macs", "activations"], "trials": 4, "retrain": "none"},
        {"strategy": "random", "objectives": ["accuracy", "latency_ms"], "trials": 3, "retrain": "none"},
        {"strategy": "random", "trials": 2, "seeds": 2},
    ],
    ids=[
        "one-shot affine",
        "random",
        "evolution",
        "nsga2",
        "coarse-to-fine",
        "assigned",
        "alone",
        "no accuracy",
        "latency",
        "two seeds",
    ],
)
def test_every_mode_runs_to_its_end(tmp_path: Path, settings: dict) -> None:
    study = search("resnet20-pooling", "digits", out=tmp_path / "run", **{**SMALL, **settings})
    expected = settings.get("trials", 36)
    assert len(study.trials) == expected
    assert study.trials["architecture"].is_unique
    assert 1 <= len(study.front) <= expected
    if settings.get("retrain") == "all":
        assert study.ranked["accuracy_alone"].notna().all()
    if settings.get("seeds"):
        assert study.front["accuracy_alone_std"].notna().all()


def test_a_budget_of_seconds_stops_the_search(tmp_path: Path) -> None:
    study = search(
        "resnet20-pooling",
        "digits",
        out=tmp_path / "run",
        strategy="random",
        supernets=0,
        seconds=0.01,
        retrain="none",
        **SMALL,
    )
    assert 1 <= len(study.trials) < 36


def test_a_space_and_data_of_ones_own(digits: ImageData, tmp_path: Path) -> None:
    def read(width):
        return width

    def alone(width, shape):
        import torch.nn as nn

        return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))

    class Shared:
        pass

    space = SearchSpace(
        "widths",
        (Integer("width", (4, 8, 16)),),
        network=Network((Block("net", ("width",), read, alone, Shared),), (1, 8, 8), 10),
    )
    study = search(space, digits, out=tmp_path / "run", strategy="exhaustive", supernets=0, epochs=2, batch_size=32)
    assert len(study.trials) == 3
    label = study.front["label"].iloc[0]
    module = nas.load(nas.export(study, label, tmp_path / "exported", task=image_task(digits)), space=space)
    assert sum(p.numel() for p in module.parameters()) == study.front["params"].iloc[0]


def test_a_space_that_does_not_fit_the_data_is_refused(digits: ImageData, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="takes images of .* but 'digits' has"):
        search(make_space("resnet20-pooling"), digits, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"space_options": {"bn": "affine"}}, "holds another run .*space.options.bn"),
        ({"limit": 250}, "holds another run .*data.limit: 300, not 250"),
        ({"seed": 3}, "holds another run .*seed: 0, not 3"),
    ],
)
def test_a_folder_of_another_run_is_refused(finished: Study, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        search("resnet20-pooling", "digits", out=finished.folder, **{**QUICK, **change})


def test_a_folder_whose_data_changed_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    search("resnet20-pooling", "digits", out=folder, strategy="random", trials=1, retrain="none", **SMALL)
    record = json.loads((folder / "record.json").read_text())
    record["data"]["fingerprint"] = "0" * 16
    (folder / "record.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="made with another data than 'digits' is now"):
        search("resnet20-pooling", "digits", out=folder, strategy="random", trials=1, retrain="none", **SMALL)
    with pytest.raises(ValueError, match="no longer holds the data"):
        Study.open(folder).task()


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match="is not empty and holds no run"):
        search("resnet20-pooling", "digits", out=tmp_path, **SMALL)


def test_a_second_process_is_refused(finished: Study) -> None:
    with finished.locked(), pytest.raises(ValueError, match="another process is running in"):
        search("resnet20-pooling", "digits", out=finished.folder, **QUICK)


def test_images_too_small_for_the_poolings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`image_size` must be at least 4 for 2 poolings, got 2"):
        search("resnet20-pooling", "digits", out=tmp_path / "run", image_size=2, **SMALL)


@pytest.fixture
def wide(finished: Study, tmp_path: Path) -> Study:
    """A run whose front is wide, before and after training alone."""
    made = Study.create(
        tmp_path / "wide", finished.config, finished.space, finished.task(), finished.record["space"]["options"]
    )
    return complete(made)


def test_any_architecture_of_a_supernets_space_can_be_picked(start: Callable[..., Study]) -> None:
    study = start()
    tried = [study.space.label(try_(study, number)) for number in range(3)]
    other = next(label for arch in study.space.enumerate() if (label := study.space.label(arch)) not in tried)
    assert list(nas.choose(study, other)["label"]) == [other]
    assert "macs" in nas.choose(study, tried[0])


def test_picks_respect_limits_in_their_direction(wide: Study) -> None:
    finished, front = wide, wide.front
    middle = front["accuracy"].median()
    assert (nas.choose(finished, limits={"accuracy": middle})["accuracy"] >= middle).all()
    cheap = nas.choose(finished, "best", {"macs": front["macs"].median()}).iloc[0]
    below = front[front["macs"] <= front["macs"].median()]
    assert cheap["accuracy_alone"] == below["accuracy_alone"].max()
    with pytest.raises(ValueError, match="accuracy of at least 2; the most is"):
        nas.choose(finished, limits={"accuracy": 2})
    with pytest.raises(ValueError, match="keeps all limits .* at once; loosen one"):
        nas.choose(finished, limits={"accuracy": front["accuracy"].max(), "macs": front["macs"].min()})
