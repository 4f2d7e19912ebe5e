"""`nas` commands: parse, call, print."""

from __future__ import annotations

import errno
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from estimators.zero_cost import ZERO_COST
from nas import cli_options as shared
from nas import cli_pruning, cli_training, page, terminal
from nas import profile as profiling
from nas.arguments import floats, names, numbers, options, shape
from nas.cli_options import Json
from nas.config import configure, read_config
from nas.export import export
from nas.format import front_table
from nas.pick import choose
from nas.report import write_report, write_tables
from nas.search import default_folder, run
from nas.study import Study
from nas.train import adopt
from nas.training import NotFinite
from nas.trust import Untrusted, names_function
from search_spaces import SPACES, make_space

app = typer.Typer(
    help="Search neural architectures or prune a model, and leave with exact, compact, runnable subnets.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)

Folder = Annotated[Path, typer.Argument(help="A run folder, the --out of `nas search`.", show_default=False)]
Limits = Annotated[
    list[str] | None,
    typer.Option("--limit", help="Bound as name=value, such as macs=60e6 or accuracy_alone=0.9. Can be repeated."),
]


@app.command("search")
def search_command(
    space: Annotated[
        str | None,
        typer.Option(
            help="Search space (see `nas spaces`), module:function, or pruned:module:function of a trained model. "
            "[default: the supernet's, else resnet20-pooling]"
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="`digits`, an image folder, a folder of parquet, torchvision:NAME or datasets:NAME. "
            "[default: the supernet's, else digits]"
        ),
    ] = None,
    strategy: Annotated[
        str, typer.Option(help="mixture, one-shot, exhaustive, random, evolution, nsga2 or coarse-to-fine.")
    ] = "mixture",
    supernets: Annotated[
        int | None,
        typer.Option(
            help="Supernets that share the architectures; 0 trains every trial alone. "
            "[default: 4 for mixture, 0 for a trained model, else 1]"
        ),
    ] = None,
    supernet: Annotated[
        Path | None,
        typer.Option(help="Run folder of `nas train` whose supernets are used; its training settings hold here too."),
    ] = None,
    sampler: shared.Sampler = "uniform",
    subnets: shared.Subnets = None,
    teacher: shared.Teacher = None,
    distill_weight: shared.DistillWeight = 0.9,
    distill_temperature: shared.DistillTemperature = 4.0,
    schedule: shared.Schedule = "cosine",
    accumulate: shared.Accumulate = 1,
    ema: shared.Ema = 0.0,
    objectives: Annotated[
        str,
        typer.Option(
            help="Comma-separated: accuracy, macs, params, activations, weight_bytes, latency_ms, peak_memory_bytes, energy_mj, "
            "bound_ms; or scores of untrained networks: " + ", ".join(ZERO_COST) + "."
        ),
    ] = ("accuracy,macs"),
    device_file: Annotated[
        Path | None,
        typer.Option(help="YAML file of the device that energy_mj and bound_ms are for; see docs/estimators.md."),
    ] = None,
    latency_table: Annotated[
        Path | None,
        typer.Option(help="Saved table of block latencies that predicts latency_ms; see docs/estimators.md."),
    ] = None,
    epochs: Annotated[int, typer.Option(help="Epochs of supernet training.")] = 100,
    alone_epochs: Annotated[
        int | None, typer.Option(help="Epochs of training a network alone. [default: as --epochs]")
    ] = None,
    retrain: Annotated[str, typer.Option(help="What is trained alone afterwards: front, all or none.")] = "front",
    seeds: Annotated[int, typer.Option(help="How often each network is trained alone.")] = 1,
    compile: Annotated[
        bool, typer.Option("--compile", help="Train networks alone by torch.compile; it needs a C++ compiler or a GPU.")
    ] = False,
    trials: Annotated[int | None, typer.Option(help="Most trials.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Most seconds of evaluating trials.")] = None,
    at_most: Annotated[
        list[str] | None,
        typer.Option(
            help="Try no architecture with more macs, params, activations or weight_bytes, as name=value, such as macs=60e6. "
            "Can be repeated."
        ),
    ] = None,
    batch_size: shared.BatchSize = 128,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="Learning rate of SGD at the start. [default: 0.01 for a trained model, else 0.1]"),
    ] = None,
    momentum: shared.Momentum = 0.9,
    weight_decay: shared.WeightDecay = 0.0,
    label_smoothing: shared.LabelSmoothing = 0.0,
    temperature: shared.Temperature = 100.0,
    ranking: Annotated[str, typer.Option(help="Which supernet ranks an architecture: best or assigned.")] = "best",
    limit: shared.Limit = None,
    test_limit: shared.TestLimit = None,
    validation_fraction: shared.ValidationFraction = 0.5,
    image_size: shared.ImageSize = None,
    mean: shared.Mean = None,
    std: shared.Std = None,
    option: shared.SpaceOptions = None,
    choices: shared.Choices = None,
    paths: shared.Paths = None,
    formats: Annotated[str, typer.Option("--export", help="Comma-separated: safetensors, onnx, pt2.")] = "safetensors",
    device: shared.Device = "auto",
    bfloat16: shared.Bfloat16 = False,
    seed: shared.Seed = 0,
    out: Annotated[Path | None, typer.Option(help="Run folder. [default: runs/SPACE-DATA-STRATEGY-seedSEED]")] = None,
    config: Annotated[Path | None, typer.Option(help="Run this run.yaml again; other settings are ignored.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with this run folder; other settings are ignored.")] = None,
    trust: shared.Trust = False,
    json: Json = False,
) -> None:
    """Search a space on a data set; train, export and draw its Pareto front.

    Stopped at any moment, the same command goes on where it was.

    Example: `nas search --space resnet20-pooling --data digits --strategy mixture --supernets 4 --epochs 60 --out runs/digits`
    """
    if resume is not None and not (resume / "run.yaml").exists():
        raise ValueError(f"{resume} is not a run folder: it has no run.yaml; give the --out of an earlier `nas search`")
    if resume is not None:
        settings, folder = read_config(resume / "run.yaml", trust=trust), resume
    elif config is not None:
        settings = read_config(config, trust=trust)
        folder = out or default_folder(settings)
    else:
        settings = configure(
            space or "resnet20-pooling",
            data or "digits",
            strategy=strategy,
            objectives=names(objectives),
            device_file=device_file,
            latency_table=latency_table,
            space_options=options(option, choices, paths),
            supernets=supernets,
            epochs=epochs,
            alone_epochs=alone_epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            momentum=momentum,
            weight_decay=weight_decay,
            label_smoothing=label_smoothing,
            temperature=temperature,
            sampler=sampler,
            subnets=subnets,
            teacher=teacher,
            distill_weight=distill_weight,
            distill_temperature=distill_temperature,
            schedule=schedule,  # type: ignore[arg-type]
            accumulate=accumulate,
            ema=ema,
            supernet=None if supernet is None else str(supernet),
            ranking=ranking,  # type: ignore[arg-type]
            trials=trials,
            seconds=seconds,
            limits=numbers(at_most, "--at-most"),
            retrain=retrain,  # type: ignore[arg-type]
            seeds=seeds,
            compile=compile,
            limit=limit,
            test_limit=test_limit,
            validation_fraction=validation_fraction,
            image_size=image_size,
            mean=None if mean is None else floats(mean, "--mean"),
            std=None if std is None else floats(std, "--std"),
            export=names(formats),
            seed=seed,
            device=device,
            bfloat16=bfloat16,
        )
        settings = adopt(settings, space=space is None, data=data is None, trust=trust)
        folder = out or default_folder(settings)
    try:
        with terminal.bars() as progress:
            study = run(settings, folder, progress=progress, trust=trust)
    except KeyboardInterrupt:
        terminal.err.print(f"Stopped. Go on with: nas search --resume {shlex.quote(str(folder))}", highlight=False)
        raise typer.Exit(130) from None
    if json:
        terminal.show_rows(study.front)
        return
    _show_front(study, choose(study))
    for path in [*sorted(folder.glob("plots/*.png")), folder / "report.html", folder / "exports", folder / "run.yaml"]:
        if path.exists():
            print(path)


@app.command()
def front(
    folder: Folder,
    limit: Limits = None,
    pick: Annotated[str | None, typer.Option(help="knee, best, or an architecture that was tried.")] = None,
    trust: shared.Trust = False,
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
        _show_front(study, rows)


@app.command("export")
def export_command(
    folder: Folder,
    pick: Annotated[
        str, typer.Option(help="knee, best, front (all of it), or an architecture that was tried.")
    ] = "front",
    limit: Limits = None,
    formats: Annotated[str, typer.Option("--format", help="Comma-separated: safetensors, onnx, pt2.")] = "safetensors",
    out: Annotated[Path | None, typer.Option(help="Where to. [default: FOLDER/exports]")] = None,
    trust: shared.Trust = False,
    json: Json = False,
) -> None:
    """Write subnets as files that load without the run: architecture.json, model.safetensors, model.onnx, model.pt2.

    Example: `nas export runs/digits --pick knee --format safetensors,onnx --out exported`
    """
    study = Study.open(folder, trust=trust)
    rows = choose(study, None if pick == "front" else pick, numbers(limit, "--limit"))
    data = study.data()
    for key in rows["architecture"]:
        arch = study.find(key)
        place = study.place("exports", arch)
        path = export(study, arch, place if out is None else out / place.name, names(formats), data)
        if json:
            terminal.show_json({"label": study.space.label(arch), "folder": str(path)})
        else:
            print(path)


@app.command()
def profile(
    target: Annotated[
        str, typer.Argument(help="Search space, or module:function that returns a module.", show_default=False)
    ],
    arch: Annotated[str | None, typer.Option(help="Architecture of a space, such as 4-3-3.")] = None,
    input: Annotated[
        str | None, typer.Option(help="Input shape of a module, such as 1x3x224x224; the batch is counted as 1.")
    ] = None,
    counter: Annotated[
        str, typer.Option(help="torch, fvcore or thop; several with commas stand side by side.")
    ] = "torch",
    by: Annotated[
        str | None, typer.Option(help="Rows of the table: module or operator. [default: module for the counter torch]")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="Option of the space or argument of the function, name=value.")
    ] = None,
    choices: Annotated[
        str | None, typer.Option(help="What an elastic space varies, short for --option choices.")
    ] = None,
    paths: shared.Paths = None,
    json: Json = False,
) -> None:
    """Count macs, params and activations, by module or by operator; operators that nobody knows are named.

    Example: `nas profile resnet20-pooling --arch 4-3-3`
    """
    found = profiling.profile(
        target, arch=arch, input_shape=shape(input), counter=counter, by=by, options=options(option, choices, paths)
    )
    if json:
        terminal.show_json(found.totals)
        return
    terminal.show_table(found.columns, found.rows, title=found.title)
    for note in found.notes:
        terminal.err.print(note, highlight=False)


@app.command()
def spaces(json: Json = False) -> None:
    """List the built-in search spaces, with their size and options.

    Example: `nas spaces`
    """
    made = [make_space(name) for name in SPACES]
    if json:
        for space in made:
            terminal.show_json({"space": space.name, "architectures": space.size, "options": dict(space.options)})
        return
    rows = [
        [space.name, str(space.size), ", ".join(f"{name}={value}" for name, value in space.options.items())]
        for space in made
    ]
    terminal.show_table(["space", "architectures", "options and their defaults"], rows)


@app.command()
def report(folder: Folder, trust: shared.Trust = False, json: Json = False) -> None:
    """Write a run's tables, plots and HTML page again.

    Example: `nas report runs/digits`
    """
    study = Study.open(folder, trust=trust)
    for path in [*write_tables(study), write_report(study), *sorted((folder / "plots").glob("*.png"))]:
        if json:
            terminal.show_json({"path": str(path)})
        else:
            print(path)


app.command("train")(cli_training.train_command)
app.command("prune")(cli_pruning.prune)
app.command("groups")(cli_pruning.groups)


def main() -> None:
    """Run a command. Exit codes: 0 done, 1 failed, 2 bad input, 130 stopped.

    Modules in the current folder are found where a function is named or files are trusted to name one, and not otherwise: the folder
    may be one that somebody else made.
    """
    here = str(Path.cwd())
    if here not in sys.path and ("--trust" in sys.argv or any(map(names_function, sys.argv[1:]))):
        sys.path.insert(0, here)
    try:
        app()
    except NotFinite as error:
        _fail(str(error), 1)
    except OSError as error:
        _fail(str(error), 1 if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT) else 2)
    except Untrusted as error:
        _fail(f"{error}, on the command line `--trust`", 2)
    except ValueError as error:
        _fail(str(error), 2)


def _fail(message: str, code: int) -> None:
    terminal.err.print("[bold red]error:[/]", escape(message), highlight=False, soft_wrap=True)
    sys.exit(code)


def _show_front(study: Study, rows: Any) -> None:
    columns, cells = front_table(rows, page.searched(study), study.config.objectives)
    terminal.show_table(columns, cells, title=f"{study.space.name} on {study.record['data']['name']}")
