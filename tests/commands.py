"""The commands as a person or a script uses them: what they print, and their exit codes."""

from __future__ import annotations

import io
import json
import os
import resource
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from rich.console import Console

from nas.cli import main, terminal

ROOT = Path(__file__).parents[1]


def run(*arguments: str | Path, columns: int = 160, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """`nas` with these arguments, in this process: one of its own imports for seconds. It is left as it was."""
    words = ["nas", *map(str, arguments)]
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(io.StringIO()) as out,
        redirect_stderr(io.StringIO()) as err,
    ):
        patch.setattr(sys, "argv", words)
        patch.setattr(sys, "path", [*sys.path])
        patch.setenv("COLUMNS", str(columns))
        patch.chdir(folder)
        patch.setattr(terminal, "out", Console(width=columns))
        patch.setattr(terminal, "err", Console(width=columns, stderr=True))
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def run_alone(*arguments: str | Path, limit_file_size: int | None = None) -> subprocess.CompletedProcess[str]:
    """The same in a process of its own, as `python -m nas`; it cannot write files of more bytes than the limit."""

    def limit() -> None:
        if limit_file_size:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_file_size, limit_file_size))

    return subprocess.run(
        [sys.executable, "-m", "nas", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "160"},
        capture_output=True,
        text=True,
        preexec_fn=limit,
    )


def lines(done: subprocess.CompletedProcess[str]) -> list[dict]:
    """What a command with `--json` printed."""
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]
