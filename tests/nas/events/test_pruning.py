"""The events of a pruning, whose folder is replaced as a whole when it ends."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from nas import prune
from nas.data.dataset import ImageData
from nas.events.file import FILE
from nas.pruning import UNFINISHED
from tests.commands import run
from tests.nas.events.test_log import events
from tests.nas.test_prune import small

EXAMPLE = torch.zeros(1, 1, 8, 8)
QUICK = {"importance": "l2", "allocation": "global", "recover": ("calibrate",), "milliseconds": False}


def test_its_events_stay_in_the_folder_that_it_leaves(digits: ImageData, tmp_path: Path) -> None:
    folder = tmp_path / "pruned"
    for _ in range(2):  # the second begins anew
        prune(small(), EXAMPLE, {"macs": 0.5}, data=digits, out=folder, log=("tensorboard",), **QUICK)
        told = events(folder)
        assert [told[0]["kind"], told[-1]["kind"], told[-1]["how"]] == ["session started", "session ended", "finished"]
        assert [event["when"] for event in events(folder, "measured")] == ["before", "pruned", "calibrate"]
        assert events(folder, "progress") and len(events(folder, "session started")) == 1
        assert len(list((folder / "tensorboard").iterdir())) == 1 and (folder / "plan.json").exists()
    assert "measured calibrate: accuracy" in run("watch", folder).stdout


def test_one_that_failed_on_its_way_can_be_repeated_and_what_is_not_ours_stays(
    digits: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, model = tmp_path / "pruned", small()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(sys.modules["nas.prune"], "write_json", full)
        prune(model, EXAMPLE, {"macs": 0.5}, data=digits, out=folder, **QUICK)
    assert {path.name for path in folder.iterdir()} == {FILE, UNFINISHED} and events(folder)[-1]["how"] == "failed"
    (folder / "mine").touch()
    with pytest.raises(ValueError, match="is not empty and holds no pruned model"):
        prune(model, EXAMPLE, {"macs": 0.5}, data=digits, out=folder, **QUICK)
    assert {path.name for path in folder.iterdir()} == {FILE, UNFINISHED, "mine"}
    (folder / "mine").unlink()
    prune(model, EXAMPLE, {"macs": 0.5}, data=digits, out=folder, **QUICK)
    assert events(folder)[-1]["how"] == "finished"


def test_a_log_needs_a_folder(digits: ImageData) -> None:
    with pytest.raises(ValueError, match="`log` tensorboard needs a folder to go to; give `out`"):
        prune(small(), EXAMPLE, {"macs": 0.5}, data=digits, log=("tensorboard",))
