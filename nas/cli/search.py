"""`nas search`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from nas.cli import terminal
from nas.cli.options import Choices, Json, Paths, Trust, refuse_beside, space_options, with_settings
from nas.cli.runs import show_front
from nas.pruning import SearchedModel, is_pruned
from nas.runtime import ranks
from nas.search import run
from nas.stopping import going_on
from nas.study import (
    RunConfig,
    adjusted,
    choose,
    configure,
    directed,
    make_task,
    read_config,
    recorded_config,
    run_folder,
)
from nas.tasks import Task
from nas.train import adopt
from search_spaces.core import keywords


@with_settings(RunConfig, SearchedModel, leaving_out=("arguments",))
def search(
    settings: dict[str, Any],
    *,
    choices: Choices = None,
    paths: Paths = None,
    out: Annotated[Path | None, typer.Option(help="Run folder. [default: runs/SPACE-DATA-STRATEGY-seedSEED]")] = None,
    config: Annotated[
        Path | None, typer.Option(help="Take all settings from this file, such as a run folder's run.yaml.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with this run folder, at its settings.")] = None,
    trust: Trust = False,
    json: Json = False,
) -> None:
    """Search a space on a data set, or by a function of your own; train, export and draw its Pareto front.

    Stopped at any moment, the same command goes on where it was.

    With `--model`, the smaller models inside a trained one are searched; `--option` is then an argument of its function.

    Example: `nas search --space resnet20-pooling --data digits --strategy mixture --supernets 4 --epochs 60 --out runs/digits`
    """
    if options := space_options(settings.get("space_options", {}), choices, paths):
        settings["space_options"] = options
    asked, folder, task = _asked(settings, config, resume, out, trust)
    with going_on(f"Go on with: nas search --resume {shlex.quote(str(folder))}"), terminal.bars() as progress:
        study = run(asked, folder, task=task, progress=progress, trust=trust)
    if not ranks.first():
        return
    terminal.say(f"The search ended: {study.ended}.")
    if json:
        terminal.show_rows(study.front)
        return
    show_front(study, choose(study))
    for path in [*sorted(folder.glob("plots/*.png")), folder / "report.html", folder / "exports", folder / "run.yaml"]:
        if path.exists():
            terminal.show(path)


def _asked(
    settings: dict[str, Any], config: Path | None, resume: Path | None, out: Path | None, trust: bool
) -> tuple[RunConfig, Path, Task | None]:
    """The configuration and the run folder, from one source: options, a file, or a run folder; and a task that was made."""
    known = keywords(RunConfig, SearchedModel)
    if resume is not None:
        for option, value in (("--config", config), ("--out", out)):
            if value is not None:
                raise ValueError(
                    f"`--resume` names the run folder and its settings, got {option} {value} as well; leave out one"
                )
        if not (resume / "run.yaml").exists():
            raise ValueError(
                f"{resume} is not a run folder: it has no run.yaml; give the --out of an earlier `nas search`"
            )
        refuse_beside(f"--resume {resume}", settings, known, going_on=True)
        read_config(resume / "run.yaml", trust=trust)
        return adjusted(recorded_config(resume), settings), resume, None
    task: Task | None = None
    if config is not None:
        refuse_beside(f"--config {config}", settings, known)
        asked = read_config(config, trust=trust)
    else:
        if "task" in settings:
            task = make_task(settings["task"])
        of_model = "model" in settings
        trained = of_model or is_pruned(settings.get("space", ""))
        if of_model and "space_options" in settings:
            settings["arguments"] = settings.pop("space_options")
        given = {
            "space": None if of_model else known["space"].default,
            "data": None if trained or {"evaluate", "task"} & settings.keys() else known["data"].default,
            **directed(settings, task),
        }
        without = not {"data", "task"} & settings.keys()
        asked = adopt(configure(**given), space=not of_model and "space" not in settings, data=without, trust=trust)
    return asked, out or run_folder(asked, asked.strategy), task
