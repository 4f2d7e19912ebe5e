"""What a record says of where a run was made."""

from __future__ import annotations

import subprocess
from pathlib import Path

from nas.runtime import environment

ROOT = Path(__file__).parents[3]


def test_the_commit_is_that_of_the_checkout() -> None:
    found = environment()["commit"]
    if not (ROOT / ".git").exists():  # a source archive
        assert found is None
        return
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert isinstance(found, str) and found.removesuffix("+changes") == head.strip()
