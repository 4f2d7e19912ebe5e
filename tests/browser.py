"""Pages in headless Chromium: a picture of them, and what a script finds in them, under the page's own Content-Security-Policy."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest

NEEDED = "NAS_NEEDS_CHROMIUM"
"""A variable of the environment: set, tests without Chromium fail; else they are skipped."""
NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--enable-logging=stderr",
    "--v=0",
)
RESULT = "result-of-the-test"


class Opened(NamedTuple):
    """What a script returned, and the lines that the page wrote to the console: errors, and what the policy refused."""

    result: Any
    console: list[str]


def chromium() -> str:
    """The program; without it the test is skipped, or fails where it has to run."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        how = "Chromium is missing: apt-get install -y --no-install-recommends chromium"
        if os.environ.get(NEEDED):
            pytest.fail(how)
        pytest.skip(how)
    return found


def with_script(page: str, script: str) -> str:
    """A page at whose end a script runs as well, which its policy is told of by a hash."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert page.count("script-src '") == page.count("</body>") == 1
    page = page.replace("script-src '", f"script-src 'sha256-{digest}' '", 1)
    return page.replace("</body>", f"<script>{script}</script></body>")


def open_page(page: str, body: str, *options: str, wait: int | None = 5000) -> Opened:
    """Run the body of an asynchronous function at the end of a page.

    Args:
        page: its text.
        body: of the function; what it returns has to be JSON.
        options: of Chromium.
        wait: milliseconds of a clock that stands still while anything is computed; None for the real one, and a body that waits for
            nothing.
    """
    script = (
        f"(async () => {{ let found; try {{ found = await (async () => {{\n{body}\n}})() }}\n"
        "catch (error) { found = 'failed: ' + error.stack }\n"
        f"const held = document.createElement('pre'); held.id = '{RESULT}'; held.textContent = JSON.stringify(found);\n"
        "document.body.append(held) })()"
    )
    with TemporaryDirectory() as folder:
        path = Path(folder) / "page.html"
        path.write_text(with_script(page, script), encoding="utf-8")
        clock = () if wait is None else (f"--virtual-time-budget={wait}",)
        done = _run(folder, "--dump-dom", *clock, *options, path.as_uri())
    found = re.search(rf'<pre id="{RESULT}">(.*?)</pre>', done.stdout, flags=re.S)
    assert found, f"the script did not end: {done.stderr[-2000:]}"
    return Opened(json.loads(unescape(found[1])), _console(done.stderr))


def screenshot(page: str, *options: str, width: int = 1200, height: int = 2000) -> tuple[bytes, list[str]]:
    """A PNG of the upper part of a page, and its console."""
    with TemporaryDirectory() as folder:
        path, image = Path(folder) / "page.html", Path(folder) / "page.png"
        path.write_text(page, encoding="utf-8")
        size = f"--window-size={width},{height}"
        done = _run(folder, f"--screenshot={image}", size, "--virtual-time-budget=3000", *options, path.as_uri())
        assert image.exists(), done.stderr[-2000:]
        return image.read_bytes(), _console(done.stderr)


def _run(folder: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [chromium(), *OPTIONS, f"--user-data-dir={folder}/profile", *words]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", errors="replace", timeout=120)


def _console(log: str) -> list[str]:
    return [line for line in log.splitlines() if "CONSOLE" in line]
