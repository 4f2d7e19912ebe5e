"""Files are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from nas.runtime.files import replacing, sweep, write_json, write_text


def test_a_file_takes_its_name_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "file.json"
    write_json(target, {"a": 1})
    assert json.loads(target.read_text()) == {"a": 1}
    assert [path.name for path in target.parent.iterdir()] == ["file.json"]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("bug"), KeyboardInterrupt()]
)
def test_a_failure_leaves_what_was_there(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "file"
    write_text(target, "old")
    with pytest.raises(type(error)), replacing(target) as temporary:
        temporary.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_is_named_with_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="could not write .*file: No space left") as caught, replacing(tmp_path / "file"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.errno == errno.ENOSPC


def test_a_read_only_file_system_is_named_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It refuses to remove even what is not there."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("os.unlink", refuse)
    with pytest.raises(OSError, match="could not write .*file: Read-only"), replacing(tmp_path / "file"):
        refuse()


def test_a_folder_replaces_a_folder(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    (target / "old").touch()
    with replacing(target) as temporary:
        temporary.mkdir()
        (temporary / "new").write_text("1")
    assert [path.name for path in target.iterdir()] == ["new"]


def test_leftovers_of_a_killed_process_are_swept(tmp_path: Path) -> None:
    (tmp_path / "kept").touch()
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / ".file.12345678.tmp").touch()
    (tmp_path / ".folder.12345678.tmp").mkdir()
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["deep", "kept"]
