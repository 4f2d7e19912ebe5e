"""What the documents show can be run."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.utils import Bunch

from tests.commands import run

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TUTORIAL = ROOT / "docs" / "from_your_model.md"


def blocks(language: str) -> list[tuple[Path, str]]:
    pattern = re.compile(rf"^```{language}\n(.*?)^```", re.DOTALL | re.MULTILINE)
    return [(page, code) for page in PAGES for code in pattern.findall(page.read_text())]


@cache
def help_of(command: str) -> str:
    done = run(command, "--help")
    assert done.returncode == 0, f"nas {command} --help failed: {done.stderr}"
    return done.stdout


def commands() -> list[str]:
    joined = [code.replace("\\\n", " ") for _, code in blocks("bash")]
    return [line.split("  #")[0] for code in joined for line in code.splitlines() if line.startswith("nas ")]


@pytest.mark.parametrize("command", commands())
def test_every_option_shown_exists(command: str) -> None:
    words = command.split()
    for option in (word for word in words[2:] if word.startswith("--")):
        assert option in help_of(words[1]), f"{option} of `{command}`"


def test_make_has_the_two_commands_that_readme_leads_with() -> None:
    first = blocks("bash")[0][1]
    assert re.findall(r"^make (\w+)", first, re.MULTILINE) == ["demo", "test"]
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"demo", "test"} <= set(targets)


@pytest.fixture
def few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """That documents run is the question, not how well they train."""
    digits = load_digits()
    few = Bunch(images=digits.images[:400], target=digits.target[:400])
    monkeypatch.setattr("sklearn.datasets.load_digits", lambda: few)


@pytest.mark.filterwarnings("ignore:measured networks take no longer")  # where the machine is busy
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page in {where for where, _ in blocks("python")} - {TUTORIAL}],
    ids=lambda p: p.name,
)
def test_python_blocks_run(page: Path, tmp_path: Path, few_digits: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, as a reader goes through a page."""
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng(devices=[]):
        names: dict[str, object] = {"__name__": "__main__"}
        for number, (where, code) in enumerate(blocks("python")):
            if where == page:
                exec(compile(code, f"{page.name}-{number}", "exec"), names)


@pytest.mark.usefixtures("hurried")
@pytest.mark.filterwarnings("ignore:measured networks take no longer")
def test_the_tutorial_goes_from_a_model_to_an_onnx_file(
    tmp_path: Path, few_digits: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a reader saves and types, in order, in a folder of their own; the last step in another program."""
    saved, last = (code for where, code in blocks("python") if where == TUTORIAL)
    (tmp_path / "mymodel.py").write_text(saved)
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng(devices=[]):
        runpy.run_path("mymodel.py", run_name="__main__")
    for line in (line for where, code in blocks("bash") if where == TUTORIAL for line in code.splitlines()):
        done = run(*line.split()[1:], folder=tmp_path)
        assert done.returncode == 0, f"{line}: {done.stderr}"
    monkeypatch.delitem(sys.modules, "mymodel")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", last], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("code", [pytest.param(c, id=p.name) for p, c in blocks("console")])
def test_console_blocks_show_what_commands_print(code: str) -> None:
    for shown in code.split("$ ")[1:]:
        command, _, printed = shown.partition("\n")
        done = run(*command.removeprefix("nas ").split(), columns=100)
        assert done.returncode == 0, done.stderr
        assert done.stdout == printed, command


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#]+)\)", prose):
            assert target.startswith("http") or (page.parent / target).exists(), f"{page.name}: {target}"
