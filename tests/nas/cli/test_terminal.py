"""What people see of tables."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from io import BytesIO, StringIO, TextIOWrapper
from types import SimpleNamespace

import pytest
from rich.console import Console

from nas import Study
from nas.cli import main, terminal
from search_spaces import SearchSpace
from tests.made_up_studies import complete, try_


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


NASTY = "[/x0][bold]\x1b]0;mine\x07 4-3-3…\udcff\u202e"
HARMLESS = "[/x0][bold]?]0;mine? 4-3-3…??"


@pytest.mark.parametrize("where", ["cell", "column", "title", "say", "error", "show", "step"])
def test_text_of_others_is_no_markup_and_commands_no_terminal(where: str, capsys: pytest.CaptureFixture[str]) -> None:
    if where == "say":
        terminal.say(NASTY)
    elif where == "error":
        terminal.say_error(NASTY)
    elif where == "show":
        terminal.show(NASTY)
    elif where == "step":
        with terminal.bars() as listen:
            listen(NASTY, 1, 1)
    else:
        texts = {name: NASTY if name == where else "plain" for name in ("cell", "column", "title")}
        terminal.show_table([texts["column"]], [[texts["cell"]]], title=texts["title"])
    written = capsys.readouterr()
    assert HARMLESS in written.out + written.err


@pytest.mark.parametrize("draws", [True, False])
def test_a_step_is_no_markup_in_a_bar(draws: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    written = StringIO()
    monkeypatch.setattr(terminal, "err", Console(file=written, force_terminal=draws, width=200, color_system=None))
    with terminal.bars() as listen:
        listen(NASTY, 1, 2)
        listen(NASTY, 2, 2)
    assert HARMLESS in written.getvalue() and "\x1b]0" not in written.getvalue()


def test_warnings_command_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings(), terminal.plain():
        warnings.simplefilter("always")
        said = warnings.formatwarning(NASTY, UserWarning, "file.py", 1, "")  # type: ignore[arg-type]
    assert HARMLESS in said and "\n" in said
    assert "\x1b" in warnings.formatwarning(NASTY, UserWarning, "file.py", 1, "")  # type: ignore[arg-type]


def test_what_an_encoding_lacks_is_replaced_and_the_stream_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = BytesIO()
    stream = TextIOWrapper(raw, encoding="ascii", write_through=True)
    monkeypatch.setattr(sys, "stdout", stream)
    with terminal.plain():
        terminal.show("1.31 ms (1.28–1.40), 93.25 ± 0.31 %, τ, 10 µs… 中")
    assert raw.getvalue() == b"1.31 ms (1.28-1.40), 93.25 +- 0.31 %, tau, 10 us... ?\n"
    with pytest.raises(UnicodeEncodeError):
        stream.write("…")


@pytest.mark.parametrize("columns", [24, 160])
def test_a_front_with_any_label_shows_in_ascii(
    columns: int, start: Callable[..., Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = complete(start(), trials=3)
    monkeypatch.setattr(SearchSpace, "label", lambda self, arch: "[/x0]\x1b]0;…")
    try_(study, 0)
    raw = BytesIO()
    monkeypatch.setattr(sys, "stdout", TextIOWrapper(raw, encoding="ascii", write_through=True))
    monkeypatch.setattr(sys, "argv", ["nas", "front", str(study.folder)])
    monkeypatch.setattr(terminal, "out", Console(width=columns))
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert b"..." in raw.getvalue() and b"\x1b" not in raw.getvalue()
    assert columns == 24 or b"[/x0]?]0;..." in raw.getvalue()
