"""`nas train`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from nas.cli import terminal
from nas.cli.options import Choices, Paths, Trust, space_options, with_settings
from nas.runtime import ranks
from nas.stopping import going_on
from nas.study import RunConfig
from nas.train import KEYWORDS, NOT_TRAINED_BY
from nas.train import train as train_supernets
from nas.training import Row

LOSSES = ("loss", "loss_smallest", "loss_random", "loss_largest")


@with_settings(RunConfig, leaving_out=("space", *NOT_TRAINED_BY))
def train(
    settings: dict[str, Any],
    *,
    space: Annotated[
        str, typer.Argument(help="Search space (see `nas list spaces`) or module:function.", show_default=False)
    ],
    choices: Choices = None,
    paths: Paths = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder. [default: runs/SPACE-DATA-train-SAMPLER-seedSEED]")
    ] = None,
    trust: Trust = False,
    json: Annotated[bool, typer.Option("--json", help="One line of JSON per epoch and supernet on stdout.")] = False,
) -> None:
    """Train supernets, for `nas search --supernet FOLDER` to rank architectures with.

    Stopped at any moment, the same command goes on after the last finished epoch; until then the learning rate may be another.

    Example: `nas train resnet20-pooling --data digits --sampler fair --epochs 60 --out runs/supernet`
    """

    def show(history: list[Row]) -> None:
        for row in [row for row in history if row["epoch"] == history[-1]["epoch"]]:
            if json:
                terminal.show_json(row)
            else:
                losses = ", ".join(f"{name} {row[name]:.3f}" for name in LOSSES if name in row)
                terminal.say(f"epoch {row['epoch'] + 1:g}, supernet {row['supernet']:g}: {losses}")

    if options := space_options(settings.pop("space_options", {}), choices, paths):
        settings["space_options"] = options
    data = settings.pop("data", None if "task" in settings else KEYWORDS["data"].default)
    with going_on("The same command goes on after the last finished epoch."), terminal.bars() as progress:
        study = train_supernets(space, data, out=out, progress=progress, on_epoch=show, trust=trust, **settings)
    if not json and ranks.first():
        terminal.show(study.folder / "supernets" / "history.csv")
        terminal.say(f"Rank with: nas search --supernet {shlex.quote(str(study.folder))}")
