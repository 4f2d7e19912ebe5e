"""Peak memory, energy and a bound on time as objectives of a search and as targets of pruning."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch
from torch import nn

from estimators import Device, estimate_energy, peak_memory
from nas import prune, search
from nas.objectives.estimates import ESTIMATES, estimates
from nas.objectives.objective import OBJECTIVES
from nas.runtime import as_yaml
from nas.scoring.costs import NetworkScorer
from nas.study.config import differences, read_config
from nas.study.defaults import configure
from pruners.progress import silent
from search_spaces import make_space

PHONE = Device("phone", 2e9, 1e9, 1e-12, 1e-10, 2)
NAMES = ("accuracy", *ESTIMATES)
SEARCH = {"strategy": "random", "trials": 3, "epochs": 1, "limit": 100, "test_limit": 50, "retrain": "none"}


def small() -> nn.Module:
    layers = nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(16 * 6 * 6, 5)).eval()


@pytest.fixture
def device_file(tmp_path: Path) -> Path:
    path = tmp_path / "phone.yaml"
    path.write_text(
        "name: phone\nmacs_per_second: 2e9\nbytes_per_second: 1e9\njoules_per_mac: 1e-12\njoules_per_byte: 1e-10\nbytes_per_word: 2\n"
    )
    return path


def test_they_are_those_of_the_estimators_in_the_unit_of_their_names() -> None:
    found = {name: of(small(), (3, 8, 8)) for name, of in estimates(NAMES, PHONE).items()}
    energy = estimate_energy(small(), (3, 8, 8), PHONE)
    assert found["energy_mj"] == pytest.approx(1e3 * energy.joules)
    assert found["bound_ms"] == pytest.approx(1e3 * energy.bound_s)
    assert found["peak_memory_bytes"] == peak_memory(small(), (3, 8, 8), element_bytes=2).peak_bytes
    alone = estimates(["peak_memory_bytes"], None)["peak_memory_bytes"](small(), (3, 8, 8))
    assert alone == 2 * found["peak_memory_bytes"]
    assert [OBJECTIVES[name].unit for name in ESTIMATES] == ["bytes", "mJ", "ms"]


def test_a_device_is_asked_for_where_it_is_needed_and_nowhere_else(device_file: Path) -> None:
    with pytest.raises(ValueError, match="energy_mj and bound_ms must be told the device's costs; give `device_file`"):
        configure("s", "d", objectives=NAMES)
    with pytest.raises(
        ValueError, match="a device file is for peak_memory_bytes, .*, got only accuracy, macs; name one"
    ):
        configure("s", "d", device_file=device_file)
    with pytest.raises(ValueError, match="energy_mj must be told the device's costs"):
        prune(small(), torch.randn(1, 3, 8, 8), {"energy_mj": 0.5})


def test_the_configuration_holds_the_device_and_not_its_file(device_file: Path, tmp_path: Path) -> None:
    config = configure("s", "d", objectives=NAMES, device_file=device_file)
    assert config.hardware == PHONE
    (tmp_path / "run.yaml").write_text(as_yaml(config))
    assert read_config(tmp_path / "run.yaml") == config
    (tmp_path / "run.yaml").write_text(as_yaml(config).replace("name: phone", "name: other"))
    assert differences(config, read_config(tmp_path / "run.yaml")) == ["hardware.name: phone, not other"]
    (tmp_path / "run.yaml").write_text(as_yaml(config).replace("  bytes_per_word: 2\n", ""))
    with pytest.raises(ValueError, match="`hardware.bytes_per_word` is missing; give it"):
        read_config(tmp_path / "run.yaml")


def test_a_search_estimates_every_architecture_once(
    device_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = []

    def watched(module: nn.Module, *args: object, **settings: object) -> object:
        networks.append(module)
        return peak_memory(module, *args, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(importlib.import_module("nas.objectives.estimates"), "peak_memory", watched)
    for trials in (2, 3):
        settings = {**SEARCH, "trials": trials, "objectives": NAMES, "device_file": device_file}
        study = search("resnet20-pooling", "digits", out=tmp_path / str(trials), **settings)
    assert len(networks) == 5
    search("resnet20-pooling", "digits", out=tmp_path / "3", **settings)
    assert len(networks) == 5
    row = study.front.iloc[0]
    network = study.space.net.build(study.space.locals(study.find(row["architecture"])))
    for name, of in estimates(NAMES, PHONE).items():
        assert row[name] == pytest.approx(of(network, study.space.net.input_shape))
    assert all(f">{name}<" in (study.folder / "report.html").read_text() for name in ESTIMATES)


@pytest.mark.parametrize("name", ESTIMATES)
def test_pruning_keeps_to_them(name: str, device_file: Path) -> None:
    torch.manual_seed(0)
    result, summary = prune(small(), torch.randn(1, 3, 8, 8), {name: 0.7}, device_file=device_file)
    of = estimates([name], PHONE)[name]
    assert of(result.model, (torch.zeros(1, 3, 8, 8),)) <= 0.7 * of(small(), (3, 8, 8))
    assert summary["after"][name] == pytest.approx(of(result.model, (3, 8, 8)))


def test_a_run_in_bf16_says_the_same() -> None:
    space = make_space("resnet20-pooling")
    scorer, archs = NetworkScorer(space, estimates(["peak_memory_bytes"], None)), [space.parse("4-3-3")]
    with torch.autocast("cpu", torch.bfloat16):
        inside = scorer(archs, silent)
    assert inside == scorer(archs, silent)
