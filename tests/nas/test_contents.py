"""What a folder holds, said without building or importing anything."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from nas import Study
from nas.contents import contents
from pruners import PruneResult
from tests.commands import lines, run
from tests.pruners.networks import build
from tests.pruners.plain import prune


@pytest.fixture(scope="module")
def pruned() -> PruneResult:
    model, example = build("residual")
    return prune(model, example, {"macs": 0.5})


def test_a_run_and_an_export_of_a_built_in_space_need_no_trust(finished: Study) -> None:
    found = contents(finished.folder)
    assert found.kind == "run folder" and not found.needs_trust
    assert [tuple(name) for name in found.names] == [("run.yaml", "space", "resnet20-pooling", False)]
    sizes = {file.path: file.size for file in found.files}
    assert sizes["journal.log"] == finished.journal_path.stat().st_size
    export = contents(next((finished.folder / "exports").iterdir()))
    assert export.kind == "exported subnet" and not export.needs_trust
    digests = {file.path: file.sha256 for file in export.files}
    stored = next((finished.folder / "exports").iterdir()) / "model.safetensors"
    assert digests["model.safetensors"] == hashlib.sha256(stored.read_bytes()).hexdigest()


def test_functions_are_named_and_not_imported(finished: Study, pruned: PruneResult, tmp_path: Path) -> None:
    (tmp_path / "never_imported.py").write_text("raise SystemExit('imported')")
    shutil.copytree(finished.folder, tmp_path / "run")
    config = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())
    config["space"] = {"name": "never_imported:space", "options": {}}
    config["supernets"]["teacher"] = "never_imported:teacher"
    (tmp_path / "run" / "run.yaml").write_text(yaml.safe_dump(config))
    pruned.save(tmp_path / "pruned")
    settings = {"model": "never_imported:model", "input": "never_imported:inputs", "targets": {"macs": 0.5}}
    (tmp_path / "pruned" / "prune.yaml").write_text(yaml.safe_dump(settings))
    (tmp_path / "pruned" / "summary.json").write_text(
        json.dumps({"after": {"macs": 5, "params": 7, "weight_bytes": 28}})
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        ran, cut = contents(tmp_path / "run"), contents(tmp_path / "pruned")
    assert "never_imported" not in sys.modules
    assert [(n.what, n.name, n.function) for n in ran.names] == [
        ("space", "never_imported:space", True),
        ("teacher", "never_imported:teacher", True),
    ]
    assert [(n.what, n.name, n.function) for n in cut.names] == [
        ("model", "never_imported:model", True),
        ("input", "never_imported:inputs", True),
    ]
    assert (
        ran.needs_trust and cut.needs_trust and cut.kind == "pruned model" and cut.figures == {"macs": 5, "params": 7}
    )


def test_what_was_recorded_is_compared(finished: Study, pruned: PruneResult, tmp_path: Path) -> None:
    run_folder = Path(shutil.copytree(finished.folder, tmp_path / "run"))
    pruned.save(tmp_path / "pruned")
    assert recorded(tmp_path / "pruned") == {"plan.json": "none", "weights.safetensors": "ok"}
    states = recorded(run_folder)
    files = [
        *("run.yaml", "latency.json", "journal.log", "supernets/checkpoint.safetensors"),
        next(name for name in states if name.startswith("alone/")),
        next(name for name in states if name.endswith("model.safetensors")),
    ]
    assert {states[name] for name in files} == {"ok"} and states["record.json"] == "none"
    for name in files:
        data = bytearray((run_folder / name).read_bytes())
        if name == "run.yaml":
            data += b"\n"
        else:
            data[-20] ^= 1
        (run_folder / name).write_bytes(data)
    changed = recorded(run_folder)
    assert {name for name in states if states[name] != changed[name]} == set(files)
    assert {changed[name] for name in files} == {"differs"}


def recorded(folder: Path) -> dict[str, str]:
    return {file.path: file.recorded for file in contents(folder).files}


def test_links_are_not_followed(finished: Study, tmp_path: Path) -> None:
    shutil.copytree(next((finished.folder / "exports").iterdir()), tmp_path / "export")
    (tmp_path / "export" / "zero").symlink_to("/dev/zero")
    assert [file.sha256 for file in contents(tmp_path / "export").files if file.path == "zero"] == [None]


def test_the_command(finished: Study, pruned: PruneResult, tmp_path: Path) -> None:
    pruned.save(tmp_path / "pruned")
    (row,) = lines(run("inspect", tmp_path / "pruned", "--json"))
    assert (row["kind"], row["names"], row["needs_trust"]) == ("pruned model", [], False)
    assert [file["path"] for file in row["files"]] == ["plan.json", "weights.safetensors"]
    done = run("inspect", finished.folder)
    assert done.returncode == 0 and "space resnet20-pooling (run.yaml), which needs no trust" in done.stdout, (
        done.stderr
    )
    (tmp_path / "pruned" / "plan.json").write_text("{")
    for folder, message in (
        (tmp_path / "pruned", "plan.json"),
        (tmp_path, "must hold one of"),
        (tmp_path / "no", "no folder"),
    ):
        refused = run("inspect", folder)
        assert refused.returncode == 2 and message in " ".join(refused.stderr.split()), refused.stderr
