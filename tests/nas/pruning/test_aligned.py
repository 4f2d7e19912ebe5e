"""The widths of a search follow from what is searched for: aligned where milliseconds are, and the same when it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import nas
from pruners.allocation import alignment as module

pytestmark = pytest.mark.usefixtures("hurried")
MODEL = "tests.nas.pruning.test_searched:classifier"
GIVEN: dict[str, Any] = {
    "model": MODEL, "arguments": {"width": 40}, "input": "1x1x8x8", "strategy": "random", "device": "cpu", "steps": 8, "trials": 2,
}  # fmt: skip


@pytest.fixture
def multiple(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """What the machine computes in, which may change under our feet."""
    now = {"eager": 8, "onnxruntime": 1}
    monkeypatch.setattr(module, "alignment", lambda kind, device="cpu", runtime="eager": now[runtime])
    return now


def widths(study: nas.Study) -> set[int]:
    """What widths of both groups of 40 may be, but for the whole."""
    return {n for c in study.space.choices for i in range(c.size) if isinstance(n := c.value(i), int) and n < 40}


def test_a_search_for_milliseconds_is_aligned_once(multiple: dict[str, int], tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="without examples"):
        timed = nas.search(out=tmp_path / "a", objectives=["latency_ms", "params"], **GIVEN)
        counted = nas.search(out=tmp_path / "b", objectives=["macs", "params"], **GIVEN)
        given = nas.search(out=tmp_path / "c", objectives=["latency_ms", "params"], **GIVEN, round_to=2)
    assert widths(timed) == {8, 16, 24, 32} and any(n % 8 for n in widths(counted))
    assert all(n % 2 == 0 for n in widths(given)) and any(n % 8 for n in widths(given))
    assert timed.record["space"]["options"]["round_to"] == "auto:8"
    multiple["eager"] = 4
    with pytest.warns(UserWarning, match="without examples"):
        again = nas.search(out=tmp_path / "a", objectives=["latency_ms", "params"], **{**GIVEN, "trials": 3})
    assert len(again.trials) == 3 and widths(again) == widths(timed)
    assert nas.Study.open(tmp_path / "a", trust=True).space.fingerprint == timed.space.fingerprint


def test_a_limit_in_milliseconds_aligns_as_well(multiple: dict[str, int], tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="without examples"):
        study = nas.search(out=tmp_path / "a", objectives=["macs", "params"], limits={"latency_ms": 1e4}, **GIVEN)
    assert widths(study) == {8, 16, 24, 32}
