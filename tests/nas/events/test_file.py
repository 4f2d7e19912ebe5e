"""The event file: whole lines, a bounded size, and a tail that survives what happens to it."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.events import Tail, file, parse
from nas.events.event import make_event
from nas.events.file import EARLIER, FILE, EventFile


def event(number: int) -> dict[str, object]:
    return make_event("trial", 1.0, "main", {"label": str(number)}, {"number": number})


@given(
    st.lists(st.binary(max_size=20).filter(lambda line: not set(line) & set(b"\n\r\x0b\x0c\x1c\x1d\x1e\x85"))),
    st.data(),
)
def test_a_tail_gives_every_line_once_however_they_are_written(lines: list[bytes], data: st.DataObject) -> None:
    text = b"".join(line + b"\n" for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    with TemporaryDirectory() as folder:
        tail, found = Tail(Path(folder)), []
        for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
            with open(Path(folder) / FILE, "ab") as written:
                written.write(text[start:end])
            found += tail.lines()
    assert [line for line in found if line] == [
        line for line in (line.decode(errors="replace") for line in lines) if line
    ]


def test_a_tail_starts_again_with_a_file_that_was_cut_or_replaced(tmp_path: Path) -> None:
    tail, path = Tail(tmp_path), tmp_path / FILE
    assert tail.lines() == []
    path.write_text("1\n2\n3\n")
    assert tail.lines() == ["1", "2", "3"]
    path.write_text("4\n")
    assert tail.lines() == ["4"]
    (tmp_path / "new").write_text("5\n6\n7\n8\n")
    (tmp_path / "new").replace(path)
    assert tail.lines() == ["5", "6", "7", "8"]


def test_a_line_without_end_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "AT_ONCE", 8)
    (tmp_path / FILE).write_text("x" * 20 + "\nlast\n")
    assert Tail(tmp_path).lines()[-1] == "last"


def test_what_a_killed_process_left_of_a_line_spoils_no_other(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b'{"kind": "tri')
    EventFile(tmp_path, {}).write([event(1)])
    assert [parse(line) for line in Tail(tmp_path).lines()] == [
        None,
        json.loads(json.dumps(event(1))) | {"time": any_time(tmp_path)},
    ]


def any_time(folder: Path) -> str:
    return json.loads((folder / FILE).read_text().splitlines()[-1])["time"]


def test_a_full_file_makes_room_and_the_next_starts_with_the_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "LARGEST", 2000)
    writer, tail = EventFile(tmp_path, {}), Tail(tmp_path)
    writer.write([make_event("session started", 0, "main", {}, {})])
    seen = []
    for number in range(100):
        writer.write([event(number)])
        seen += [parse(line)["figures"].get("number") for line in tail.lines()]  # type: ignore[index]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 4000
    assert {path.name for path in tmp_path.iterdir()} == {FILE, EARLIER}
    assert json.loads((tmp_path / FILE).read_text().splitlines()[0])["kind"] == "session started"
    assert [number for number in seen if number is not None] == list(range(100))


@pytest.mark.parametrize(
    "line", ["", "3", "[]", "{", '{"kind": "trial"}', '{"kind": 3, "figures": {}, "seconds": 1}', "[" * 100_000]
)
def test_other_lines_hold_no_event(line: str) -> None:
    assert parse(line) is None
