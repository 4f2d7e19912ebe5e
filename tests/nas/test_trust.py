"""A file cannot make anybody run code: functions that it names are imported only where the caller says so."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

import nas
from nas.cli.app import app
from nas.contents import contents
from nas.data.dataset import ImageData
from nas.runtime.trust import Untrusted
from nas.study.config import read_config
from nas.study.records import write_recorded
from nas.subnet import load_teacher
from tests.commands import run_alone

ROOT = Path(__file__).parents[2]
TRAP = """
from pathlib import Path
from torch import nn
from examples.own_space import own_space as space
Path(__file__).with_name("ran").touch()
def teacher(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
def model(): return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 10))
"""
SMALL = {"epochs": 1, "limit": 100, "test_limit": 40, "batch_size": 25}
QUICK = {**SMALL, "strategy": "random", "trials": 2, "alone_epochs": 1}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a module that leaves a file `ran` behind when it is imported, and runs that its functions were searched in."""
    folder = tmp_path_factory.mktemp("trap")
    (folder / "trap.py").write_text(TRAP)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        nas.search("trap:space", "digits", out=folder / "run", **QUICK)
        nas.search("trap:space", "digits", out=folder / "run", **QUICK)
        shutil.copytree(sorted((folder / "run" / "exports").iterdir())[0], folder / "alone")
        for graph in (folder / "run" / "exports").rglob("graph.json"):
            graph.unlink()  # such as of a network that no graph describes
        nas.train("resnet20-pooling", "digits", out=folder / "taught", teacher="trap:teacher", **SMALL)
    return folder


@pytest.fixture
def trap(made: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The same folder, as somebody else gets it: the module can be found, and has not run yet."""
    monkeypatch.syspath_prepend(made)
    monkeypatch.delitem(sys.modules, "trap", raising=False)
    (made / "ran").unlink(missing_ok=True)
    path = list(sys.path)
    yield made
    assert sys.path == path


def exported(folder: Path) -> Path:
    return sorted((folder / "run" / "exports").iterdir())[0]


def ran(folder: Path) -> bool:
    return (folder / "ran").exists()


def test_an_export_with_its_graph_imports_nothing(trap: Path) -> None:
    for network in (nas.load(trap / "alone"), load_teacher(str(trap / "alone"))):
        assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 10) and not ran(trap)
    assert not contents(trap / "alone").needs_trust and contents(exported(trap)).needs_trust
    assert type(nas.load(trap / "alone", space="trap:space").layer1.conv) is torch.nn.Conv2d and ran(trap)


OPEN = {
    "nas.load": lambda folder, **how: nas.load(exported(folder), **how),
    "Study.open": lambda folder, **how: nas.Study.open(folder / "run", **how),
}


@pytest.mark.parametrize("name", OPEN)
def test_a_function_in_a_file_is_imported_only_if_it_is_named_or_trusted(name: str, trap: Path) -> None:
    file = "architecture.json" if name == "nas.load" else "run.yaml"
    with pytest.raises(Untrusted, match=f"{file} names the function 'trap:space'.*if you trust it, give `trust=True`"):
        OPEN[name](trap)
    with pytest.raises(ValueError, match=f"{file} is of space 'trap:space', not of 'trap:other'; give the name"):
        OPEN[name](trap, space="trap:other", trust=True)
    assert not ran(trap)
    assert OPEN[name](trap, space="trap:space") and ran(trap)


@pytest.mark.parametrize("name", OPEN)
def test_a_space_that_is_given_needs_no_function(name: str, trap: Path) -> None:
    from examples.own_space import own_space

    assert OPEN[name](trap, space=own_space()) and not ran(trap)
    assert OPEN[name](trap, trust=True) and ran(trap)


@pytest.mark.parametrize("space", ["os:system", "trap:space", "pruned:trap:model", "pruned:os:system"])
def test_no_name_in_an_export_runs(space: str, trap: Path, tmp_path: Path) -> None:
    shutil.copytree(exported(trap), tmp_path / "export")
    described = json.loads((tmp_path / "export" / "architecture.json").read_text())
    described["space"] = {"name": space, "options": {"command": f"touch {trap}/ran"}}
    (tmp_path / "export" / "architecture.json").write_text(json.dumps(described))
    with pytest.raises(Untrusted, match=f"names the function '{space}'"):
        nas.load(tmp_path / "export")
    with pytest.raises(Untrusted, match=f"names the function '{space}'"):
        load_teacher(str(tmp_path / "export"))
    assert not ran(trap)


def test_a_configuration_of_a_file_says_what_it_would_import(trap: Path) -> None:
    for folder, name in (("run", "trap:space"), ("taught", "trap:teacher")):
        path = trap / folder / "run.yaml"
        with pytest.raises(Untrusted, match=f"run.yaml names the function '{name}'"):
            read_config(path)
        assert name in str(read_config(path, trust=True))


def test_the_folder_of_a_teacher_is_a_file_too(trap: Path, digits: ImageData, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"teacher": str(exported(trap)), "epochs": 1, "batch_size": 50}
    for verb in (nas.train, nas.search):
        with pytest.raises(Untrusted, match=r"architecture\.json names the function 'trap:space'"):
            verb("resnet20-pooling", digits, out=tmp_path / "run", **settings)
    assert not ran(trap) and not (tmp_path / "run").exists()
    assert nas.train("resnet20-pooling", digits, out=tmp_path / "run", trust=True, **settings) and ran(trap)


def test_finished_supernets_need_no_teacher(trap: Path, tmp_path: Path) -> None:
    settings = {"limit": 100, "test_limit": 40, "retrain": "none", "supernet": str(trap / "taught")}
    study = nas.search("resnet20-pooling", "digits", out=tmp_path / "run", **settings)
    assert study.config.supernets.teacher == "trap:teacher" and not ran(trap)
    assert read_config(tmp_path / "run" / "run.yaml") == study.config


COMMANDS = {
    "front": "front {trap}/run",
    "report": "report {trap}/run",
    "export": "export {trap}/run --pick knee --out {out}",
    "resume": "search --resume {trap}/run",
    "config": "search --config {trap}/run/run.yaml --out {out}",
    "supernet": "search --supernet {trap}/run --trials 2 --strategy random --retrain none --out {out}",
    "resumed teacher": "search --resume {trap}/taught",
    "teacher": "train resnet20-pooling --teacher {teacher} --epochs 1 --batch-size 50 --limit 100 --test-limit 40 --out {out}",
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on data that come with the package, in a built-in space."""
    return nas.search("resnet20-pooling", "digits", out=tmp_path_factory.mktemp("plain") / "run", **QUICK).folder


OF_TASKS = {
    "export": "export {run} --pick knee --out {out}",
    "resume": "search --resume {run}",
    "config": "search --config {run}/run.yaml --out {out}",
    "supernet": "search --supernet {run} --trials 2 --strategy random --retrain none --out {out}",
}


@pytest.mark.parametrize("name", OF_TASKS)
def test_no_command_imports_the_task_that_a_file_names(name: str, plain: Path, trap: Path, tmp_path: Path) -> None:
    shutil.copytree(plain, tmp_path / "run")
    config = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())
    write_recorded(tmp_path / "run", "run.yaml", yaml.safe_dump({**config, "data": None, "task": "trap:task"}))
    command = OF_TASKS[name].format(run=tmp_path / "run", out=tmp_path / "out").split()
    refused = CliRunner().invoke(app, command)
    assert isinstance(refused.exception, Untrusted) and not ran(trap), refused.exception
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_opened_imports_no_task_that_it_was_not_told_to(plain: Path, trap: Path, tmp_path: Path) -> None:
    shutil.copytree(plain, tmp_path / "run")
    config = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())
    write_recorded(tmp_path / "run", "run.yaml", yaml.safe_dump({**config, "data": None, "task": "trap:task"}))
    with pytest.raises(Untrusted, match=r"run\.yaml names the function 'trap:task'"):
        nas.Study.open(tmp_path / "run").task()
    assert not ran(trap)


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_imports_what_a_file_names_unless_told_to(name: str, trap: Path, tmp_path: Path) -> None:
    command = COMMANDS[name].format(trap=trap, out=tmp_path / "out", teacher=exported(trap)).split()
    refused = CliRunner().invoke(app, command)
    assert isinstance(refused.exception, Untrusted) and not ran(trap), refused.output
    assert not (tmp_path / "out").exists()
    if name != "resumed teacher":  # its training is finished, and a search would come next
        done = CliRunner().invoke(app, [*command, "--trust"])
        assert done.exit_code == 0 and ran(trap), done.output


def test_the_command_line_says_how_to_trust(trap: Path) -> None:
    done = run_alone("front", trap / "run")
    text = re.sub(r"\s+", " ", done.stderr)
    assert done.returncode == 2 and done.stdout == "" and "Traceback" not in text
    assert "names the function 'trap:space'" in text and text.strip().endswith("on the command line `--trust`")


def test_a_function_that_is_typed_needs_no_trust(trap: Path, tmp_path: Path) -> None:
    command = ["search", "--space", "trap:space", "--strategy", "random", "--trials", "1", "--epochs", "1", "--retrain",
               "none", "--limit", "100", "--test-limit", "40", "--out", str(tmp_path / "run"), "--json"]  # fmt: skip
    for _ in range(2):
        assert CliRunner().invoke(app, command).exit_code == 0 and ran(trap)


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["spaces"], False),
        (["front", "run"], False),
        (["front", "run", "--trust"], True),
        (["profile", "trap:space", "--arch", "1"], True),
    ],
)
def test_modules_of_the_current_folder_are_found_only_for_a_function(
    arguments: list[str], found: bool, made: Path
) -> None:
    (made / "ran").unlink(missing_ok=True)
    code = "import sys; from nas.cli import main\ntry: main()\nfinally: print('here' if sys.argv.pop() in sys.path else 'not')"
    code = code.replace("sys.argv.pop()", repr(str(made)))
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *arguments],
        cwd=made,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1] == ("here" if found else "not"), done.stderr
    assert ran(made) == found


def test_a_run_file_that_was_changed_by_hand_is_refused(trap: Path, tmp_path: Path) -> None:
    shutil.copytree(trap / "run", tmp_path / "run")
    config = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())
    config["space"] = {"name": "os:system", "options": {"command": f"touch {trap}/ran"}}
    write_recorded(tmp_path / "run", "run.yaml", yaml.safe_dump(config))
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    record["space"] |= config["space"]
    (tmp_path / "run" / "record.json").write_text(json.dumps(record))
    with pytest.raises(Untrusted, match="'os:system'"):
        nas.Study.open(tmp_path / "run")
    assert not ran(trap)
