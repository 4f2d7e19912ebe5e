"""`nas front`, `nas export` and `nas report`: what a run folder holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from nas.cli import terminal
from nas.cli.options import Json, Limits, Trust
from nas.export import export as export_subnet
from nas.report import front_table, searched, title, write_report, write_tables
from nas.runtime import names, numbers, sweep_beside
from nas.study import Study, choose
from nas.subnet import read_described

Folder = Annotated[Path, typer.Argument(help="A run folder, the --out of `nas search`.", show_default=False)]


def front(
    folder: Folder,
    limit: Limits = None,
    pick: Annotated[str | None, typer.Option(help="knee, best, or an architecture that was tried.")] = None,
    trust: Trust = False,
    json: Json = False,
) -> None:
    """Show a run's Pareto front, or what is best under limits.

    Example: `nas front runs/digits --limit macs=60e6 --pick best`
    """
    study = Study.open(folder, trust=trust)
    rows = choose(study, pick, numbers(limit, "--limit"))
    if json:
        terminal.show_rows(rows)
    else:
        show_front(study, rows)


def export(
    folder: Folder,
    pick: Annotated[
        str, typer.Option(help="knee, best, front (all of it), or an architecture that was tried.")
    ] = "front",
    limit: Limits = None,
    formats: Annotated[str, typer.Option("--format", help="Joined by commas: see `nas list formats`.")] = "safetensors",
    out: Annotated[Path | None, typer.Option(help="Where to. [default: FOLDER/exports]")] = None,
    trust: Trust = False,
    json: Json = False,
) -> None:
    """Write subnets as files that load without the run: architecture.json, model.safetensors, graph.json, model.onnx, model.pt2.

    Example: `nas export runs/digits --pick knee --format safetensors,onnx --out exported`
    """
    study = Study.open(folder, trust=trust)
    rows = choose(study, None if pick == "front" else pick, numbers(limit, "--limit"))
    task = study.task() if study.has_examples or study.config.evaluate else None
    with study.tidied() as alone:
        for key in rows["architecture"]:
            arch = study.find(key)
            place = study.place("exports", arch)
            place = place if out is None else out / place.name
            if alone:
                sweep_beside(place)
            path = export_subnet(study, arch, place, names(formats), task)
            for note in read_described(path).notes:
                terminal.say(f"{path}: {note}")
            if json:
                terminal.show_json({"label": study.space.label(arch), "folder": str(path)})
            else:
                terminal.show(path)


def report(folder: Folder, trust: Trust = False, json: Json = False) -> None:
    """Write a run's tables, plots and HTML page again.

    Example: `nas report runs/digits`
    """
    study = Study.open(folder, trust=trust)
    with study.tidied():
        written = [*write_tables(study), write_report(study), *sorted((folder / "plots").glob("*.png"))]
    for path in written:
        if json:
            terminal.show_json({"path": str(path)})
        else:
            terminal.show(path)


def show_front(study: Study, rows: pd.DataFrame) -> None:
    """A table of trials, with the names of the run's space and data above it."""
    columns, cells = front_table(
        rows, searched(study), [objective.name for objective in study.objectives], study.metrics
    )
    terminal.show_table(columns, cells, title=title(study))
