"""What a run leaves for people: tables as CSV, plots as PNG, and one HTML page with everything."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from nas.objectives import both_figures
from nas.report import page
from nas.report.beside import controls, parent
from nas.runtime import checkpoint, replacing, write_text
from nas.study import Study

MOST_MEMBERS, MOST_CHOICES = 200, 400
"""Of a figure of choices."""
HISTORY = ["epoch", "supernet", "steps", "loss", "accuracy", "seconds", "learning_rate"]


def history(study: Study) -> pd.DataFrame:
    """The training of the supernets: a row per epoch (from 0) and supernet; no rows where none was trained.

    Raises:
        ValueError: the checkpoint that holds it is damaged.
    """
    found = checkpoint.load(study.folder / "supernets" / "checkpoint.safetensors")
    rows = found.state["history"] if found else []
    return pd.DataFrame(rows).reindex(columns=HISTORY)


def write_tables(study: Study) -> list[Path]:
    """Write trials.csv, front.csv, alone.csv and curves.csv, without rows where a run has none; searched.csv where training alone
    changed the front, and failed.csv where trials failed.
    """
    head = pd.DataFrame(columns=["label", "architecture", *(objective.name for objective in study.objectives)])
    paths = []
    front, searched = study.front, study.searched_front
    tables = {"trials": study.ranked, "front": front, "alone": study.alone, "curves": history(study)}
    if list(front["label"] if len(front) else []) != list(searched["label"] if len(searched) else []):
        tables["searched"] = searched
    if len(failed := study.failed):
        tables["failed"] = failed
    for name, table in tables.items():
        path = study.folder / f"{name}.csv"
        write_text(path, (table if len(table.columns) else head).to_csv(index=False, lineterminator="\n"))
        paths.append(path)
    return paths


def write_plots(study: Study) -> list[Path]:
    """Draw what there is to draw into `plots/`: front.png, choices.png, curves.png and rank.png.

    Returns:
        The files written, at most four. There is no rank plot without supernets, and none before a network was trained alone.
    """
    from nas.report import plots  # matplotlib takes long to import, and a table needs none

    ranked, curves = study.ranked, history(study)
    title = page.title(study)
    figures = {}
    if len(ranked):
        figures["front"] = plots.front(
            ranked,
            study.objectives,
            study.worth,
            searched=page.searched(study),
            title=title,
            parent=parent(study, ranked),
            controls=controls(study),
        )
    members = study.searched_front
    if 1 < len(members) <= MOST_MEMBERS and 1 < len(study.space.columns) <= MOST_CHOICES:
        codes = study.space.encode([study.find(key) for key in members["architecture"]]).astype(float)
        last = np.array([len(column.values) - 1 for column in study.space.columns])
        shares = np.where(codes < 0, np.nan, codes / np.maximum(last, 1))
        names = [column.name for column in study.space.columns]
        figures["choices"] = plots.choices(shares.T, names, list(members["label"]), title=title)
    if len(curves):
        figures["curves"] = plots.curves(curves, title=title)
    if study.config.supernets.count and len(both_figures(ranked, study.worth)):
        figures["rank"] = plots.rank(ranked, study.worth, title=title)
    paths = []
    for name, figure in figures.items():
        path = study.folder / "plots" / f"{name}.png"
        with replacing(path) as temporary:
            temporary.write_bytes(plots.png(figure))
        paths.append(path)
    return paths


def write_report(study: Study) -> Path:
    """Draw the plots and write report.html: one page without anything outside it, for a run in any state."""
    images = {path.stem: path.read_bytes() for path in write_plots(study)}
    epochs = history(study)["epoch"].nunique()
    path = study.folder / "report.html"
    write_text(path, page.render(study, images, epochs))
    return path
