"""`nas list`."""

from __future__ import annotations

from typing import Annotated

import typer

from nas.cli import terminal
from nas.cli.options import Json


def list_names(
    kind: Annotated[str | None, typer.Argument(help="What to list; without it, the kinds.", show_default=False)] = None,
    json: Json = False,
) -> None:
    """List what can be chosen by name, with a line on each.

    Example: `nas list samplers`
    """
    from nas.cli.kinds import KINDS, listing  # whose tables reach scikit-learn, which takes its time

    if kind is None:
        titles, rows = ["nas list", "what it lists"], [[name, each.help] for name, each in KINDS.items()]
    else:
        titles, rows = listing(kind)
    if json:
        keys = ["name", "help", *(title.replace(" ", "_") for title in titles[2:])]
        for row in rows:
            terminal.show_json(dict(zip(keys, row, strict=True)))
        return
    terminal.show_table(titles, rows, sentences=True)
