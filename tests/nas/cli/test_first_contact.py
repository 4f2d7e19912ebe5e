"""What someone types first: the version, and Tab."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.commands import run

ROOT = Path(__file__).parents[3]


def nas(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `nas` as its script does."""
    code = f"import sys; sys.argv = {['nas', *arguments]}; from nas.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True
    )


def test_the_version() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"nas-toolkit {version('nas-toolkit')}\n", "")


@pytest.mark.parametrize(("typed", "completed"), [("nas pro", "profile"), ("nas front --li", "--limit")])
def test_tab_completes_commands_and_options(typed: str, completed: str) -> None:
    at = str(len(typed.split()) - 1)
    done = nas(COMP_WORDS=typed, COMP_CWORD=at, _NAS_COMPLETE="complete_bash")
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, [completed], "")


def test_the_script_is_the_function_that_runs_commands() -> None:
    script = re.search(r'^nas = "(.*):(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert script is not None and script.groups() == ("nas.__main__", "main")


@pytest.mark.parametrize("command", ["front", "watch", "inspect", "list", "spaces"])
def test_what_only_reads_waits_for_nothing_that_only_others_need(command: str) -> None:
    code = (
        "import sys; from nas.cli.app import app; import typer; typer.main.get_command(app).commands[sys.argv[1]]\n"
        "print(*sorted({'matplotlib', 'scipy', 'sklearn', 'sympy', 'onnx', 'torch._dynamo'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code, command], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")
