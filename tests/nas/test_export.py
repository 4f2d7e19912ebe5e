"""Exported subnets compute what their source computes, load without the run, and hold no pickle."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

import nas
from nas import Study
from nas.export import export
from nas.retrain import build
from nas.runtime.pt2 import read_pt2, refuse_pickle
from nas.scoring.weights import from_supernet
from nas.study.formats import FORMATS
from nas.supernets.splitting import Splitting
from nas.tasks import Task
from nas.train import load_supernets
from nas.training.measure import measure


@pytest.fixture(scope="module")
def task(finished: Study) -> Task:
    return finished.task()


@pytest.fixture(scope="module")
def exported(finished: Study, task: Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "subnet"
    return export(finished, finished.front["label"].iloc[-1], folder, tuple(FORMATS), task)


def test_the_loaded_subnet_is_the_network_trained_alone(finished: Study, task: Task, exported: Path) -> None:
    row = finished.front.iloc[-1]
    module = nas.load(exported)
    assert not module.training
    assert measure(module, task, task.test)["accuracy"] == row["accuracy_alone"]
    source = build(finished, finished.find(row["architecture"]))
    images = next(task.test.batches(len(task.test))).inputs
    with torch.no_grad():
        assert torch.equal(module(images), source(images))


def test_onnx_and_pt2_take_any_batch(task: Task, exported: Path) -> None:
    module = nas.load(exported)
    session = onnxruntime.InferenceSession(str(exported / "model.onnx"), providers=["CPUExecutionProvider"])
    program = read_pt2(exported / "model.pt2").module()
    for size in (1, 3, 50):
        images = next(task.test.batches(size)).inputs
        with torch.no_grad():
            expected = module(images).numpy()
            np.testing.assert_allclose(program(images).numpy(), expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(session.run(None, {"images": images.numpy()})[0], expected, rtol=1e-3, atol=1e-4)


def test_no_pickle_is_written(finished: Study, exported: Path) -> None:
    for path in [*finished.folder.rglob("*"), *exported.rglob("*")]:
        if not path.is_file():
            continue
        start = path.read_bytes()[:4]
        assert start[:2] not in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"), path
        if zipfile.is_zipfile(path):
            assert not [name for name in zipfile.ZipFile(path).namelist() if name.endswith(".pkl")], path


class Trap:
    """Leaves a file behind if it is ever unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def spoilt(source: Path, target: Path, changes: dict[str, bytes]) -> Path:
    """A copy of an archive with other contents; names are those inside its own folder."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        root = old.namelist()[0].split("/")[0]
        for name in old.namelist():
            if name.partition("/")[2] not in changes:
                new.writestr(name, old.read(name))
        for name, content in changes.items():
            new.writestr(f"{root}/{name}", content)
    return target


def pickled_weights(source: Path, pickled: bytes, **changes: Any) -> dict[str, bytes]:
    with zipfile.ZipFile(source) as archive:
        name = next(name for name in archive.namelist() if name.endswith("weights_config.json"))
        config = json.loads(archive.read(name))
    payload = next(iter(config["config"].values()))
    payload |= {"use_pickle": True, **changes}
    return {name.partition("/")[2]: json.dumps(config).encode(), f"data/weights/{payload['path_name']}": pickled}


def test_a_pt2_is_read_only_if_it_holds_no_pickle(exported: Path, tmp_path: Path) -> None:
    source, marker = exported / "model.pt2", tmp_path / "ran"
    buffer = io.BytesIO()
    torch.save(Trap(marker), buffer)
    archive, pickles = buffer.getvalue(), [pickle.dumps(Trap(marker), protocol) for protocol in range(2, 6)]
    spoil = [
        pickled_weights(source, archive),
        pickled_weights(source, pickle.dumps(Trap(marker), 0), path_name="opaque_obj_0", use_pickle=False),
        {"data/sample_inputs/model.pt": archive},
        {"data/sample_inputs/MODEL.PT": archive, "data/sample_inputs/model.pt": b""},
        {"data/weights/model.pt": archive},
        {"serialized_state_dict.pt": pickle.dumps(Trap(marker), 0)},
        *({"extra/more": pickled} for pickled in (archive, *pickles)),
        {"data/aotinductor/model/code.so": b"ELF"},
        {"Models/Model.json": b"{}"},
    ]
    for number, changes in enumerate(spoil):
        path = spoilt(source, tmp_path / f"{number}.pt2", changes)
        with pytest.raises(ValueError, match=r"must hold tensors and JSON alone, got .*, which can run code"):
            read_pt2(path)
        assert not marker.exists()
    with contextlib.suppress(Exception):
        torch.export.load(tmp_path / "0.pt2")
    assert marker.exists(), "what the check keeps from running does run without it"


@pytest.mark.parametrize("start", [b"PK", b"\x80\x02"])
def test_a_tensor_may_begin_as_a_pickle_does(exported: Path, tmp_path: Path, start: bytes) -> None:
    with zipfile.ZipFile(exported / "model.pt2") as archive:
        weight = next(name for name in archive.namelist() if name.endswith("/weight_0"))
        changed = {weight.partition("/")[2]: start + archive.read(weight)[2:]}
    refuse_pickle(spoilt(exported / "model.pt2", tmp_path / "a.pt2", changed))


def test_the_description_says_how_to_use_it(exported: Path) -> None:
    described = json.loads((exported / "architecture.json").read_text())
    assert described["space"]["name"] == "resnet20-pooling"
    assert described["classes"] == [str(digit) for digit in range(10)]
    assert described["input"]["shape"] == [1, 8, 8] and len(described["input"]["mean"]) == 1
    assert described["weights"] == "alone"


@pytest.mark.parametrize("bn", ["paper", "affine"])
def test_an_architecture_not_trained_alone_comes_from_its_best_supernet(bn: str, tmp_path: Path) -> None:
    study = nas.search(
        "resnet20-pooling",
        "digits",
        out=tmp_path / "run",
        supernets=2,
        epochs=6,
        batch_size=32,
        retrain="none",
        space_options={"bn": bn},
    )
    task = study.task()
    row = study.trials.sort_values("accuracy").iloc[-1]
    module = nas.load(export(study, row["label"], tmp_path / "exported", task=task))
    assert json.loads((tmp_path / "exported" / "architecture.json").read_text())["weights"] == "supernet"
    assert measure(module, task, task.validation)["accuracy"] == pytest.approx(row["accuracy"], abs=0.06)


def test_the_weights_of_the_better_supernet_are_taken(finished: Study, task: Task) -> None:
    row = finished.trials.iloc[0]
    better = int(row["accuracy_supernet1"] > row["accuracy_supernet0"])
    module = from_supernet(finished, finished.find(row["architecture"]), task, load_supernets(finished, task))
    tensors = nas.runtime.checkpoint.load(finished.folder / "supernets" / "checkpoint.safetensors").tensors
    weight = tensors[f"supernet{better}/weights/blocks.head.body.2.weight"]
    assert torch.equal(module.state_dict()["head.2.weight"], weight)


def test_after_a_split_each_architecture_has_the_weights_of_its_own_supernet(tmp_path: Path) -> None:
    study = nas.search(
        "resnet20-pooling",
        "digits",
        out=tmp_path / "run",
        strategy="one-shot",
        sampler="split",
        epochs=4,
        batch_size=32,
        limit=300,
        retrain="none",
    )
    task = study.task()
    learner = load_supernets(study, task)
    assert isinstance(learner, Splitting)
    archs = list(study.space.enumerate())
    for arch in (archs[0], archs[-1]):
        number = learner.assign([arch])[0]
        head = learner.members[number].supernet.state_dict()["blocks.head.body.2.weight"]
        assert number and torch.equal(from_supernet(study, arch, task, learner).state_dict()["head.2.weight"], head)


def test_a_model_that_differs_from_its_source_is_not_written(
    finished: Study, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = finished.space.net.build(finished.space.locals(finished.find("4-3-3")), seed=9).eval()
    monkeypatch.setattr(importlib.import_module("nas.export"), "load", lambda folder, space: wrong)
    with pytest.raises(ValueError, match=r"model\.safetensors differs from its source by .*nothing was written"):
        export(finished, finished.front["label"].iloc[0], tmp_path / "exported", task=task)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda folder: (folder / "model.safetensors").unlink(),
            "holds no exported subnet: model.safetensors is missing",
        ),
        (lambda folder: (folder / "architecture.json").write_text("{"), r"architecture\.json: must be JSON"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\x80\x02spam"), "is damaged"),
        (lambda folder: shutil.rmtree(folder), "holds no exported subnet: architecture.json is missing"),
    ],
)
def test_a_spoilt_folder_is_refused(exported: Path, tmp_path: Path, spoil, message: str) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(exported, folder)
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        nas.load(folder)


def test_weights_of_another_architecture_are_refused(exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(exported, folder)
    described = json.loads((folder / "architecture.json").read_text())
    described["space"]["options"]["in_channels"] = 3
    (folder / "architecture.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match=r"architecture\.json.* must be of (one export|the weights)"):
        nas.load(folder)


def test_bad_calls_are_refused(finished: Study, task: Task, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no format is named 'onx'; did you mean onnx\?"):
        export(finished, "4-3-3", tmp_path / "a", ["onx"], task)
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError, match="exists and holds no exported subnet"):
        export(finished, "4-3-3", tmp_path / "mine", task=task)
    with pytest.raises(ValueError, match="a label must be"):
        export(finished, "9-9-9", tmp_path / "b", task=task)
