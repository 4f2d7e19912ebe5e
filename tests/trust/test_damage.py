"""Damaged files: each is read, or refused by an error that names it; nothing else comes out of a reader."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import nas
import pruners
from estimators import read_device
from estimators.latency import load_table, measure_table
from nas import Study
from nas.export import write_graph
from nas.pruning.config import read_prune_config
from nas.retrain import build, weights_path
from nas.runtime import write_json
from nas.study.config import read_config
from nas.train import load_supernets
from search_spaces import make_space
from search_spaces.core import save_tensors
from search_spaces.core.tensors import DIGEST
from tests.commands import run
from tests.pruners.networks import build as build_network
from tests.pruners.plain import prune

DEVICE = "name: phone\nmacs_per_second: 1e9\nbytes_per_second: 1e9\njoules_per_mac: 1e-12\njoules_per_byte: 1e-10\nbytes_per_word: 4\n"
PRUNE = {"model": "torchvision:resnet18", "input": "1x3x32x32", "targets": {"macs": 0.5, "latency_ms": "0.8ms"}}
SPACE = make_space("resnet20-pooling", in_channels=1, image_size=8)
Reader = Callable[[Path], Any]
Draw = Callable[[Any], Any]


class Case(NamedTuple):
    """A file and what reads it, or the folder that it stands in."""

    path: Path
    read: Reader


def open_run(folder: Path) -> None:
    study = Study.open(folder)
    for table in ("trials", "failed", "alone", "ranked", "searched_front", "front", "latency", "metrics"):
        getattr(study, table)


@pytest.fixture(scope="module")
def cases(finished: Study, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """Whole files and their readers."""
    base = tmp_path_factory.mktemp("damage")
    folder = base / "run"
    shutil.copytree(finished.folder, folder)
    arch = finished.find(finished.alone["label"][0])
    task = finished.task()

    def network(path: Path) -> None:
        build(Study.open(folder), arch)

    def supernets(path: Path) -> None:
        (path.with_name(path.name + ".previous")).unlink(missing_ok=True)
        load_supernets(Study.open(folder), task)

    export = base / "export"
    shutil.copytree(next((folder / "exports").iterdir()), export)
    model, example = build_network("residual")
    prune(model, example, {"macs": 0.5}).save(base / "pruned")
    measure_table(SPACE, [next(SPACE.enumerate())], warmup_s=0.01, runs=5).save(base / "table.json")
    described = base / "described"
    described.mkdir()
    write_json(described / "architecture.json", {"space": {"name": "absent:space", "options": {}}, "choices": {}})
    save_tensors(described / "model.safetensors", model.state_dict())
    write_graph(model, example[0], described)
    (base / "device.yaml").write_text(DEVICE)
    (base / "prune.yaml").write_text(yaml.safe_dump(PRUNE))
    return {
        "run.yaml": Case(folder / "run.yaml", lambda path: open_run(folder)),
        "config": Case(folder / "run.yaml", lambda path: read_config(path, trust=True)),
        "record.json": Case(folder / "record.json", lambda path: open_run(folder)),
        "journal.log": Case(folder / "journal.log", lambda path: open_run(folder)),
        "latency.json": Case(folder / "latency.json", lambda path: open_run(folder)),
        "alone": Case(weights_path(Study.open(folder), arch), network),
        "checkpoint": Case(folder / "supernets" / "checkpoint.safetensors", supernets),
        "architecture.json": Case(export / "architecture.json", lambda path: nas.load(export)),
        "model.safetensors": Case(export / "model.safetensors", lambda path: nas.load(export)),
        "graph.json": Case(described / "graph.json", lambda path: nas.load(described)),
        "plan.json": Case(base / "pruned" / "plan.json", lambda path: pruners.load(base / "pruned", model)),
        "weights.safetensors": Case(
            base / "pruned" / "weights.safetensors", lambda path: pruners.load(base / "pruned", model)
        ),
        "table.json": Case(base / "table.json", lambda path: load_table(path, SPACE)),
        "device.yaml": Case(base / "device.yaml", read_device),
        "prune.yaml": Case(base / "prune.yaml", lambda path: read_prune_config(path, trust=True)),
    }


NAMES = (
    "run.yaml", "config", "record.json", "journal.log", "latency.json", "alone", "checkpoint", "architecture.json",
    "model.safetensors", "plan.json", "weights.safetensors", "table.json", "device.yaml", "prune.yaml", "graph.json",
)  # fmt: skip
OTHERS = (None, True, 0, -1, 1.5, "x", "", [], {}, [1], {"a": 1}, [[]], float("nan"), 10**400, "module:function")


def places(data: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where values stand in data, as keys from the outside in."""
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [place for key, value in inner for place in ((*at, key), *places(value, (*at, key)))]


def changed(data: Any, draw: Draw) -> Any:
    """Data with one value left out, under another name, or of another type."""
    if not (found := places(data)):
        return draw(st.sampled_from(OTHERS))
    *outside, key = draw(st.sampled_from(found))
    holder = data
    for name in outside:
        holder = holder[name]
    how = draw(st.sampled_from(("drop", "rename", "swap")))
    if how == "drop":
        del holder[key]
    elif how == "rename" and isinstance(holder, dict):
        holder[f"{key}x"] = holder.pop(key)
    else:
        holder[key] = draw(st.sampled_from(OTHERS))
    return data


def renamed(data: bytes, draw: Draw) -> bytes:
    """A safetensors file with another header."""
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(changed(json.loads(data[8 : 8 + size]), draw)).encode()
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def damage(path: Path, draw: Draw) -> None:
    """Flip a byte of a file, cut it short, or change what it says."""
    how = draw(st.sampled_from(("flip", "cut", "change")))
    data = path.read_bytes()
    if how == "flip":
        # headers and what people write are short, weights long: most flips are for the former
        at = (
            draw(st.integers(0, min(len(data), 3000) - 1))
            if draw(st.booleans())
            else draw(st.integers(0, len(data) - 1))
        )
        path.write_bytes(data[:at] + bytes([data[at] ^ draw(st.integers(1, 255))]) + data[at + 1 :])
    elif how == "cut":
        path.write_bytes(data[: draw(st.integers(0, len(data) - 1))])
    elif path.suffix == ".safetensors":
        path.write_bytes(renamed(data, draw))
    elif path.suffix == ".log":
        lines = data.splitlines()
        at = draw(st.integers(0, len(lines) - 1))
        lines[at] = json.dumps(changed(json.loads(lines[at]), draw)).encode()
        path.write_bytes(b"\n".join(lines) + b"\n")
    elif path.suffix == ".json":
        path.write_text(json.dumps(changed(json.loads(data), draw)))
    else:
        path.write_text(yaml.safe_dump(changed(yaml.safe_load(data), draw)))


def check(cases: dict[str, Case], draw: Draw) -> None:
    """Damage the file of one case, read it, and bring it back."""
    name = draw(st.sampled_from(NAMES))
    path, read = cases[name]
    kept = path.read_bytes()
    try:
        damage(path, draw)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read(path)
    except (ValueError, FileNotFoundError) as error:
        assert path.name in str(error), f"{name}: {type(error).__name__}: {error}"
        assert len(str(error)) < 4000 + len(str(path))
    finally:
        path.write_bytes(kept)


def refuses(cases: dict[str, Case], name: str, damaged: bytes) -> str:
    """What the error says of a file that holds something else."""
    path, read = cases[name]
    kept = path.read_bytes()
    path.write_bytes(damaged)
    try:
        with warnings.catch_warnings(), pytest.raises((ValueError, FileNotFoundError)) as caught:
            warnings.simplefilter("ignore")
            read(path)
    finally:
        path.write_bytes(kept)
    assert path.name in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "journal.log"])
def test_half_a_file_is_refused(cases: dict[str, Case], name: str) -> None:
    """Of a journal half its trials are left, as after a search that was stopped; YAML ends within a key."""
    data, path = cases[name].path.read_bytes(), cases[name].path
    half = data[: len(data) // 2]
    half = half[: half.rindex(b":")] if path.suffix == ".yaml" else half
    assert "; " in refuses(cases, name, half), "what to do comes last"


@pytest.mark.parametrize(
    ("name", "old", "new", "rest"),
    [
        ("journal.log", b'"op_code"', b'"op_cole"', "bring it back"),
        ("journal.log", b'"architecture"', b'"architectura"', "bring it back"),
        ("architecture.json", b'"choices"', b'"choises"', "`choices` is missing; give it; export it again"),
        ("record.json", b'"fingerprint"', b'"fingerprins"', "`space.fingerprint` is missing"),
        ("run.yaml", b"hardware: null", b"hardware: nowhere", "no device file at nowhere"),
        ("latency.json", b'"latency_ms"', b'"latency_mz"', "remove it, and resume the search"),
        ("table.json", b'"median_ms"', b'"median_mz"', "measure it again"),
        ("graph.json", b'"operator"', b'"operater"', "`steps.0.operator` is missing; give it"),
        ("plan.json", b'"removed"', b'"remover"', "prune the model again"),
        ("alone", b"stem", b"step", "resume the search, to train the network again"),
        ("checkpoint", b"stem", b"step", "to train this part again"),
        ("model.safetensors", b"stem", b"step", "export it again"),
        ("weights.safetensors", b"stem", b"step", "load them with the plan.json"),
    ],
)
def test_another_name_is_refused(cases: dict[str, Case], name: str, old: bytes, new: bytes, rest: str) -> None:
    data = cases[name].path.read_bytes()
    assert old in data and rest in refuses(cases, name, data.replace(old, new, 1))


OF_WEIGHTS = ("alone", "checkpoint", "model.safetensors", "weights.safetensors")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(OF_WEIGHTS), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flip_inside_the_weights_is_refused(cases: dict[str, Case], name: str, place: float, bit: int) -> None:
    data = bytearray(cases[name].path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    data[start + int(place * (len(data) - start))] ^= 1 << bit
    said = refuses(cases, name, bytes(data))
    assert "; " in said and ("no readable checkpoint" if name == "checkpoint" else "digest") in said


@pytest.mark.parametrize("name", OF_WEIGHTS)
def test_weights_without_a_digest_are_of_an_older_version_and_read(cases: dict[str, Case], name: str) -> None:
    path, read = cases[name]
    kept = path.read_bytes()
    assert DIGEST.encode() in kept
    path.write_bytes(kept.replace(DIGEST.encode(), b"x" * len(DIGEST)))
    try:
        read(path)
    finally:
        path.write_bytes(kept)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: lines[:6] + lines[7:], "line 7 must come after a trial"),
        (lambda lines: lines[:7] + lines[6:], "line 8 stands there twice"),
        (lambda lines: [*lines[:5], lines[6], lines[5], *lines[7:]], "line 6 must come after a trial"),
        (lambda lines: lines[:-3], "trials that record.json says a session left"),
    ],
    ids=["lost", "doubled", "swapped", "end"],
)
def test_lines_of_a_journal_are_missed(
    cases: dict[str, Case], change: Callable[[list[bytes]], list[bytes]], said: str
) -> None:
    lines = cases["journal.log"].path.read_bytes().splitlines(keepends=True)
    assert said in refuses(cases, "journal.log", b"".join(change(lines)))


def test_a_journal_cut_inside_its_last_line_goes_on_without_it(finished: Study, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished.folder, tmp_path / "run"))
    path = folder / "journal.log"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines)[:-10])
    with pytest.warns(UserWarning, match="last line of .* was cut short"), Study.open(folder).locked():
        pass
    assert len(Study.open(folder).alone) == len(finished.alone) - 1
    path.write_bytes(b"".join(lines[:-2]))
    with pytest.raises(ValueError, match=r"journal\.log must hold the \d+ trials"), Study.open(folder).locked():
        pass


def test_a_figure_of_latency_that_changed_is_refused(cases: dict[str, Case]) -> None:
    data = cases["latency.json"].path.read_bytes()
    at = data.index(b'"latency_ms": ') + len(b'"latency_ms": ')
    said = refuses(cases, "latency.json", data[:at] + b"1" + data[at:])
    assert "must be as the run wrote it" in said and "remove it, and resume the search" in said


def test_a_configuration_cut_between_lines_is_refused(cases: dict[str, Case]) -> None:
    path = cases["run.yaml"].path
    kept = path.read_bytes()
    lines = kept.splitlines(keepends=True)
    for count in range(len(lines)):
        assert "; " in refuses(cases, "run.yaml", b"".join(lines[:count]))
    path.write_bytes(kept.replace(b"epochs: ", b"epochs: 1", 1))
    try:
        done = run("search", "--resume", path.parent)
    finally:
        path.write_bytes(kept)
    said = " ".join(done.stderr.split())
    assert done.returncode == 2 and "must be as the run wrote it" in said and "delete `run.yaml` from `digests`" in said


def test_a_file_that_is_edited_is_taken_once_its_digest_is_deleted(finished: Study, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished.folder, tmp_path / "run"))
    path, record = folder / "run.yaml", json.loads((folder / "record.json").read_text())
    path.write_text(path.read_text() + "# a note\n")
    with pytest.raises(ValueError, match=r"run\.yaml must be as the run wrote it"):
        Study.open(folder)
    del record["digests"]["run.yaml"]
    (folder / "record.json").write_text(json.dumps(record))
    assert Study.open(folder).config == finished.config


@pytest.mark.parametrize("name", ["run.yaml", "record.json", "journal.log", "latency.json"])
def test_the_command_says_so_without_a_traceback(cases: dict[str, Case], name: str) -> None:
    path, _ = cases[name]
    kept = path.read_bytes()
    path.write_bytes(
        kept.replace(b"space", b"spade", 1).replace(b"op_code", b"op_cole").replace(b"latency_ms", b"latency")
    )
    try:
        done = run("front", path.parent)
    finally:
        path.write_bytes(kept)
    assert done.returncode == 2 and done.stdout == "" and name in done.stderr and "Traceback" not in done.stderr


QUIETLY = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]


@settings(max_examples=200, deadline=None, suppress_health_check=QUIETLY)
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused_by_its_name(cases: dict[str, Case], data: st.DataObject) -> None:
    check(cases, data.draw)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(max_examples=2000, deadline=None, suppress_health_check=QUIETLY)
@given(data=st.data())
def test_many_damaged_files_are_read_or_refused_by_their_names(cases: dict[str, Case], data: st.DataObject) -> None:
    check(cases, data.draw)
