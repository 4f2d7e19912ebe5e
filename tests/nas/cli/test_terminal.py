"""What people see of tables."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from nas.cli import terminal


def test_long_labels_are_folded_and_leave_room_for_the_figures(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal.out, "width", 80)
    label = "8-0022122121-0121121011-1122002001-022002" * 3
    terminal.show_table(["architecture", "macs", "latency"], [[label, "968 k", "1.37 ms (1.26-1.61)"]])
    shown = capsys.readouterr().out
    lines = [line.split("│") for line in shown.splitlines() if line.startswith("│")]
    assert "".join(line[1].strip() for line in lines) == label
    assert "968 k" in shown and "1.37 ms (1.26-1.61)" in shown


def test_away_from_a_terminal_a_long_step_is_announced_and_its_end_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(terminal, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with terminal.bars() as listen:
        listen("curvature (about 80 s, 1.2 GB)", 0, 1000)
        for done in (100, 500, 1000):
            now[0] += 20
            listen("curvature (about 80 s, 1.2 GB)", done, 1000)
        for done in (1, 2, 3, 4):
            listen("least squares", done, 4)
            now[0] += 8
        listen("quick", 1, 2)
    assert capsys.readouterr().err.splitlines() == [
        "curvature (about 80 s, 1.2 GB): 0 of 1,000 done",
        "curvature (about 80 s, 1.2 GB): 1,000 done in 60 s",
        "least squares: 3 of 4 done, about 5 s left",
        "least squares: 4 done in 24 s",
    ]
