"""Networks trained alone: compiled or not, they are the same networks."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import nas
from nas.data.dataset import ImageData
from nas.retrain import Trained, build, train_one, weights_path
from search_spaces import Architecture
from tests.elastic_toy import elastic_space

QUICK = {"strategy": "random", "trials": 1, "epochs": 1, "alone_epochs": 2, "batch_size": 50}


def test_compiling_changes_how_a_network_runs_and_not_what_is_trained(
    digits: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[object] = []
    compile = partial(torch.compile, backend="eager")
    monkeypatch.setattr(torch, "compile", lambda module: (compiled.append(module), compile(module))[1])
    plain, fast = (
        nas.search(elastic_space(), digits, out=tmp_path / str(on), compile=on, **QUICK) for on in (False, True)
    )
    assert len(compiled) == 1
    assert fast.alone["accuracy"].tolist() == plain.alone["accuracy"].tolist()
    (arch,) = (fast.find(key) for key in fast.alone["architecture"])
    ours, theirs = build(fast, arch).state_dict(), build(plain, arch).state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], msg=name)


def test_one_network_that_fails_does_not_end_the_run(
    digits: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {**QUICK, "trials": 4, "retrain": "all", "out": tmp_path}
    train = train_one
    asked: list[str] = []

    def second_fails(study: nas.Study, arch: Architecture, *rest: Any) -> Trained:
        asked.append(arch.key)
        if len(asked) == 2:
            raise RuntimeError("out of memory")
        return train(study, arch, *rest)

    monkeypatch.setattr("nas.worker.train_one", second_fails)
    with pytest.warns(
        UserWarning, match="1 of 4 networks failed .*with seed 0: RuntimeError: out of memory; they are left out"
    ):
        study = nas.search(elastic_space(), digits, **settings)
    assert study.failed_alone["architecture"].tolist() == [asked[1]] and len(study.alone) == 3
    assert asked[1] not in set(study.front["architecture"]) and study.front["accuracy_alone"].notna().all()
    with pytest.warns(UserWarning, match="1 of 4 networks failed"):
        nas.search(elastic_space(), digits, **settings)
    assert len(asked) == 4


def test_a_network_whose_weights_are_damaged_is_trained_again_once_they_are_removed(
    digits: ImageData, tmp_path: Path
) -> None:
    study = nas.search(elastic_space(), digits, out=tmp_path, **QUICK)
    before, (key,) = study.alone, study.alone["architecture"]
    path = weights_path(study, study.find(key))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"{path.name} is damaged .*digest.*remove it, and resume the search"):
        build(study, study.find(key))
    path.unlink()
    again = nas.search(elastic_space(), digits, out=tmp_path, **QUICK)
    assert len(again.alone) == 1 and again.alone["accuracy"].tolist() == before["accuracy"].tolist()
    assert path.read_bytes() == bytes([*data[:-1], data[-1] ^ 1])
