"""The card of an export: its code runs, its figures are the run's, and names in it command nothing."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from markdown import markdown

from nas import Study
from nas.report import CARD
from nas.report.markdown import plain, table
from tests.nas.report.test_format import percent

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def exported(finished: Study) -> Path:
    return next((finished.folder / "exports").iterdir())


def test_its_code_runs_in_its_folder(exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "copy")
    (code,) = re.findall(r"```python\n(.*?)```", (exported / CARD).read_text(), re.DOTALL)
    assert 'network = nas.load(".")' in code and "inputs = (inputs - mean) / std" in code
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nprint(*outputs.shape)"],
        cwd=tmp_path / "copy",
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.returncode) == ("1 10\n", 0), done.stderr


def test_it_says_what_the_run_knows(finished: Study, exported: Path) -> None:
    text, described = (exported / CARD).read_text(), json.loads((exported / "architecture.json").read_text())
    row = finished.ranked.set_index("label").loc[described["label"]]
    assert plain(percent(row["accuracy_alone"])) in text
    assert plain(finished.record["data"]["fingerprint"]) in text
    digest = hashlib.sha256((exported / "model.safetensors").read_bytes()).hexdigest()
    assert f"| {plain('model.safetensors')} | " in text and f" | {digest} |" in text
    matter = text.split("---\n")[1]
    assert yaml.safe_load(matter)["library_name"] == "nas-toolkit"


HOSTILE = [
    "a|b",
    "`code` ```",
    "<script>alert(1)</script>",
    "[x](javascript:alert(1))",
    "![x](https://example.org/x.png)",
    "https://example.org",
    "# head\n\n---\n* item",
    "\x1b[31mred\u202e",
    "&lt;b&gt;",
    "*a* _b_ ~~c~~",
    "x" * 5000,
]


@pytest.mark.parametrize("text", HOSTILE)
def test_names_stand_as_they_are(text: str) -> None:
    found = markdown(table(("what", "value"), [("name", text)]), extensions=["tables"])
    assert re.sub(r"<(?:/?(?:table|thead|tbody|tr|th|td))>|\s", "", found).count("<") == 0, found
    assert found.count("<td>") == 2 and "example.org</a>" not in found
    assert all(letter.isprintable() or letter == "\n" for letter in found)
    assert len(found) < 7000
