"""What a folder holds and what loading it would import: read from its files, of which nothing is built or imported."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from nas.graphs import GRAPH
from nas.pruning import peek_prune_config
from nas.runtime import names_function
from nas.study import holds, journal_of, named_functions, peek_config, read_record, whole
from nas.subnet import known_here, read_described, read_graph
from pruners.result import PLAN
from pruners.surgery import PruningPlan
from search_spaces.core import load_json, load_tensors, of_file, parse, read_bytes

EXPORT = "exported subnet"
FIGURES = ("macs", "params")
OF_TENSORS = (".safetensors", ".checkpoint", ".previous")
OF_RUNS = ("run.yaml", "latency.json")
"""Files whose digests stand in record.json."""


class Name(NamedTuple):
    """A space, a model or a function that a file names.

    Attributes:
        file: where it stands.
        what: such as space or model.
        name: as the file says it.
        function: whether it is one that has to be imported, which needs `--trust`; an export that holds its graph imports none.
    """

    file: str
    what: str
    name: str
    function: bool


class File(NamedTuple):
    """A file of a folder.

    Attributes:
        path: from the folder.
        size: bytes.
        sha256: in hexadecimal digits; a link is not followed, and has none.
        recorded: whether the digest that was recorded when it was written holds: ok, differs, or none where none was recorded.
    """

    path: str
    size: int
    sha256: str | None
    recorded: str


@dataclass(frozen=True)
class Contents:
    """What a folder is.

    Attributes:
        kind: run folder, pruned model or exported subnet.
        names: what its files name.
        figures: macs (for one example) and parameters, where a file says them.
        files: all of them.
        notes: how an export of a space of one's own is loaded.
    """

    kind: str
    names: tuple[Name, ...]
    figures: dict[str, float]
    files: tuple[File, ...]
    notes: tuple[str, ...] = ()

    @property
    def needs_trust(self) -> bool:
        """Whether loading or running it imports a function that a file names."""
        return any(name.function for name in self.names)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        plain = asdict(self)
        return {
            **plain,
            "names": [name._asdict() for name in self.names],
            "files": [file._asdict() for file in self.files],
            "needs_trust": self.needs_trust,
        }


class Summary(BaseModel):
    """What is taken from the summary of a pruned model: figures of the smaller one."""

    after: dict[str, float]


def contents(folder: str | Path) -> Contents:
    """Look at a folder without building or importing anything.

    Args:
        folder: of a run, an exported subnet or a pruned model.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it is none of them, or a file of it is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder at {folder}; give a run, an exported subnet or a pruned model")
    for mark, (kind, names) in KINDS.items():
        if (folder / mark).exists():
            notes = tuple(_notes(folder)) if kind == EXPORT else ()
            return Contents(kind, tuple(names(folder)), _figures(folder), tuple(_files(folder)), notes)
    raise ValueError(f"{folder} must hold one of {', '.join(KINDS)}, got none; give a run, an export or a pruned model")


def _of_run(folder: Path) -> Iterator[Name]:
    config = peek_config(folder / "run.yaml")
    read_record(folder)
    yield Name("run.yaml", "space", config.space.name, names_function(config.space.name))
    for what, name in named_functions(config):
        if what != "space":
            yield Name("run.yaml", what, name, True)


def _of_pruned(folder: Path) -> Iterator[Name]:
    with of_file(folder / PLAN, "prune the model again"):
        PruningPlan.from_json(read_bytes(folder / PLAN))
    path = folder / "prune.yaml"
    if path.exists():
        config = peek_prune_config(path)
        for what, name in (("model", config.model), ("input", config.input), ("task", config.task)):
            if name is not None and (what == "model" or names_function(name)):
                yield Name(path.name, what, name, names_function(name))


def _of_export(folder: Path) -> Iterator[Name]:
    name = read_described(folder).space.name
    yield Name("architecture.json", "space", name, names_function(name) and not (folder / GRAPH).exists())


def _notes(folder: Path) -> Iterator[str]:
    described = read_described(folder)
    if not known_here(described.space.name):
        if (folder / GRAPH).exists():
            read_graph(folder)
            yield f"it loads without the code of its space, from {GRAPH}"
        else:
            yield from described.notes or ["it loads only with the code of its space"]


KINDS = {
    "run.yaml": ("run folder", _of_run),
    PLAN: ("pruned model", _of_pruned),
    "architecture.json": (EXPORT, _of_export),
}
"""The file by which a folder is known, what it is then, and what its files name."""


def _figures(folder: Path) -> dict[str, float]:
    path, otherwise = folder / "summary.json", "prune the model again"
    if not path.exists():
        return {}
    data = load_json(path, otherwise)
    with of_file(path, otherwise):
        after = parse(Summary, data).after
    return {name: after[name] for name in FIGURES if name in after}


def _files(folder: Path) -> Iterator[File]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            yield File(name, path.lstat().st_size, None, "none")
        elif path.is_file():
            with open(path, "rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            yield File(name, path.stat().st_size, found, _recorded(folder, name))


def _recorded(folder: Path, name: str) -> str:
    """Whether what was recorded of a file of a folder holds."""
    path, of_run = folder / name, (folder / "record.json").exists()
    held: bool | None = None
    try:
        if path.suffix in OF_TENSORS:
            held = load_tensors(path).checked or None
        elif name == "journal.log" and of_run:
            with whole(path):
                held = journal_of(folder).end() is not None or None
        elif name in OF_RUNS and of_run:
            held = holds(path)
    except ValueError:
        held = False
    return {True: "ok", False: "differs", None: "none"}[held]
