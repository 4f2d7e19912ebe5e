"""Imports go down: between packages, between the rooms of a package, and in no circle between files. Importing is quiet."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ["nas", "pruners", "estimators", "search_spaces"]
ROOMS = {
    "nas": [
        "__main__", "cli", "contents", "search", "loop", "export", "propose", "worker", "retrain", "train", "prune", "subnet",
        "report", "scoring", "study", "engines", "pruning", "supernets", "samplers", "training", "tasks", "strategies", "events",
        "objectives", "data", "graphs", "runtime", "stopping",
    ],
    "pruners": [
        "space", "prune", "half", "vocabulary", "chosen", "config", "repair", "result", "allocation", "importance", "surgery",
        "groups", "tracing",
        "operators", "untouched", "progress", "errors",
    ],
    "estimators": ["accuracy", "design", "energy", "latency", "memory", "zero_cost", "counting"],
    "search_spaces": ["families", "layers", "pooling", "core"],
}  # fmt: skip
"""Packages and rooms from the top down: each imports only what stands behind it."""


def files() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def imports() -> dict[str, set[str]]:
    """For each file, the files of the packages that it imports: at its top, in a function, or under TYPE_CHECKING."""
    known = {module(path) for path in files()}
    return {module(path): set(_imported(path, known)) - {module(path)} for path in files()}


def _imported(path: Path, known: set[str]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports by dots; write the whole name"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield from [name] if name in known else [node.module] if node.module in known else []


def place(name: str) -> tuple[int, int]:
    """Where a module stands, from the top: its package, and its room in it; the face of a package is its roof."""
    package, _, rest = name.partition(".")
    room = rest.partition(".")[0]
    return PACKAGES.index(package), ROOMS[package].index(room) if room else -1


def test_every_room_has_its_place() -> None:
    rooms = {(name.split(".")[0], name.split(".")[1]) for name in map(module, files()) if "." in name}
    assert rooms == {(package, room) for package, inside in ROOMS.items() for room in inside}
    assert all(len(module(path).split(".")) <= 3 for path in files()), "at most one folder below a package"


def test_imports_go_down() -> None:
    upward = [
        f"{name} imports {other}"
        for name, others in imports().items()
        for other in others
        if place(other) < place(name) or (place(other) == place(name) and other.count(".") < name.count("."))
    ]
    assert not upward, "\n".join(sorted(upward))


@cache
def face(room: str) -> list[str]:
    """The names in a room's `__all__`."""
    path = ROOT.joinpath(*room.split("."), "__init__.py")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    pytest.fail(f"{path} has no __all__")


@pytest.mark.parametrize("room", [module(path) for path in files() if path.name == "__init__.py"])
def test_every_room_has_a_face(room: str) -> None:
    names = face(room)
    assert len(names) == len(set(names))
    assert all(hasattr(importlib.import_module(room), name) for name in names)


def test_rooms_are_entered_through_their_faces() -> None:
    """What a file imports from another room stands in that room's `__all__`; a room of one file has all but private names."""
    inside = []
    for path in files():
        name = module(path)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or node.module is None or node.module.split(".")[0] not in PACKAGES:
                continue
            room, file = ".".join(node.module.split(".")[:2]), node.module.split(".")[2:]
            if room == ".".join(name.split(".")[:2]):
                continue
            is_folder = ROOT.joinpath(*room.split(".")).is_dir()
            for alias in node.names:
                public = alias.name in face(room) if is_folder else not alias.name.startswith("_")
                if file or not public:
                    inside.append(f"{name} imports {node.module}.{alias.name}")
    assert not inside, "\n".join(inside)


def test_no_circle() -> None:
    try:
        TopologicalSorter(imports()).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(reversed(error.args[1]))}")


def test_nothing_is_imported_that_one_system_alone_has() -> None:
    posix = {"crypt", "fcntl", "grp", "nis", "posix", "pty", "pwd", "resource", "spwd", "syslog", "termios", "tty"}
    for path in files():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not posix & set(names), f"{path} imports {names}, which Windows lacks"


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_is_quiet_and_leaves_random_state_alone(package: str) -> None:
    code = (
        "import random, numpy, torch; a = random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()\n"
        f"import {package}\n"
        "assert a == (random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist())\n"
        f"import sys; {'import nas.cli; ' if package == 'nas' else ''}assert not "
        "{'scipy.stats', 'sklearn', 'textalloc', 'transformers', 'onnxruntime'} & set(sys.modules), 'slow'"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
