"""What version 0.1.0 wrote still opens, and its options are still options.

`tests/data/of_0_1_0` was written by commit 865a2be: `run` by the command in its record.json, less checkpoints, plots and
page; `pruned` by that in its summary.json; `options.json` from its commands.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import typer
from safetensors.torch import load_file
from torch import nn

import nas
import pruners
from nas.cli.app import app
from tests.commands import run

ROOT = Path(__file__).parents[2]
OLD = ROOT / "tests" / "data" / "of_0_1_0"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLD / "run", tmp_path / "run"))


def nas_command(*arguments: object) -> str:
    done = run(*map(str, arguments))
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_its_runs_open(folder: Path) -> None:
    study = nas.Study.open(folder)
    assert len(study.trials) == 6 and len(study.front) == 1
    assert study.front["accuracy_alone"].notna().all() and study.front["latency_ms"].notna().all()
    assert nas.choose(study, "best")["label"].tolist() == study.front["label"].tolist()


def test_its_runs_are_shown_drawn_and_exported_again(folder: Path, tmp_path: Path) -> None:
    (row,) = map(json.loads, nas_command("front", folder, "--json").splitlines())
    assert row["macs"] == 61856
    nas_command("report", folder)
    assert (folder / "report.html").exists() and (folder / "plots" / "front.png").exists()
    exported = Path(nas_command("export", folder, "--pick", "best", "--out", tmp_path / "again").strip())
    (before,) = (OLD / "run" / "exports").iterdir()
    weights = [load_file(place / "model.safetensors") for place in (before, exported)]
    assert weights[0].keys() == weights[1].keys() and all(w.equal(weights[1][n]) for n, w in weights[0].items())


def test_its_exports_load() -> None:
    (exported,) = (OLD / "run" / "exports").iterdir()
    module = nas.load(exported).eval()
    assert module(torch.randn(2, 1, 8, 8)).shape == (2, 10)


def test_its_pruned_models_load() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    module = pruners.load(OLD / "pruned", layer).eval()
    assert module(torch.randn(1, 5, 16)).shape == (1, 5, 16)
    assert sum(p.numel() for p in module.parameters()) == 1125


@pytest.mark.parametrize(("command", "options"), json.loads((OLD / "options.json").read_text()).items())
def test_its_options_are_options(command: str, options: list[str]) -> None:
    parameters = typer.main.get_command(app).commands[command].params  # type: ignore[attr-defined]
    assert not set(options) - {name for each in parameters for name in (*each.opts, *each.secondary_opts)}
