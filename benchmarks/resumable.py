"""What a benchmark needs to go on where it was: tables that it adds to, and the record of the commands that did."""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import pandas as pd

from nas.runtime import environment, write_json


def common_options(description: str | None) -> argparse.ArgumentParser:
    """A parser of the options that every benchmark with training on images has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="CIFAR-10, as for `nas search --data`")
    parser.add_argument("--out", type=Path, required=True, help="folder to write, or to go on with")
    parser.add_argument("--limit", type=int, help="training and validation images to use")
    parser.add_argument(
        "--bfloat16",
        action="store_true",
        help="bf16 and channels last on a CPU too: 2 to 3 times faster with the instructions",
    )
    parser.add_argument("--threads", type=int, help="of torch")
    return parser


def note(record: Path, module: str, options: argparse.Namespace, packages: Sequence[str] = ()) -> None:
    """Write down the command, after those of earlier runs, with settings, versions (also of further packages) and hardware."""
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    before = json.loads(record.read_text())["commands"] if record.exists() else []
    command = shlex.join(["python", "-m", module, *sys.argv[1:]])
    made = environment()
    found = {name: list(metadata.distributions(name=name)) for name in packages}
    made["versions"] |= {name: those[0].version for name, those in found.items() if those}
    write_json(record, {"commands": list(dict.fromkeys([*before, command])), "settings": settings, **made})


def append(path: Path, rows: Sequence[dict[str, object]]) -> None:
    """Add rows to a table, with a header where it is new."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        if new:
            writer.writeheader()
        writer.writerows(rows)


def known(path: Path, columns: list[str]) -> set[tuple[object, ...]]:
    """The values of some columns in each row of a table; none where there is no table."""
    return (
        set(map(tuple, pd.read_csv(path, dtype={"architecture": str})[columns].to_numpy())) if path.exists() else set()
    )
