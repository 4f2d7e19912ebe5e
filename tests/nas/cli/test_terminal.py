"""What people see of tables."""

from __future__ import annotations

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
