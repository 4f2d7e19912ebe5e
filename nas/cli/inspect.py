"""`nas inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nas.cli import terminal
from nas.cli.options import Json
from nas.contents import contents
from nas.report import si


def inspect(
    folder: Annotated[
        Path, typer.Argument(help="A run folder, an exported subnet or a pruned model.", show_default=False)
    ],
    json: Json = False,
) -> None:
    """Show what a folder is, which functions its files name and which files it holds; nothing is built or imported.

    `recorded` says whether the digest that was recorded when a file was written holds: ok, differs, or none.

    Example: `nas inspect runs/digits`
    """
    found = contents(folder)
    if json:
        terminal.show_json(found.to_dict())
        return
    print(f"{folder}: {found.kind}")
    for name in found.names:
        imported = ", a function that is imported only with --trust" if name.function else ", which needs no trust"
        print(f"{name.what} {name.name} ({name.file}){imported}")
    for note in found.notes:
        print(note)
    for what, value in found.figures.items():
        print(f"{si(value)} {what}")
    rows = [[file.path, f"{file.size:,}", file.recorded, file.sha256 or "a link, not followed"] for file in found.files]
    terminal.show_table(["file", "bytes", "recorded", "sha256"], rows)
