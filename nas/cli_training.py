"""`nas train`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from nas import terminal
from nas.arguments import floats, options
from nas.settings import SAMPLERS
from nas.train import train
from nas.training import Row

SAMPLER_HELP = "Which architectures a step trains: " + "; ".join(f"{name}: {does}" for name, does in SAMPLERS.items())
LOSSES = ("loss", "loss_smallest", "loss_random", "loss_largest")

Sampler = Annotated[str, typer.Option(help=SAMPLER_HELP + ".")]
Subnets = Annotated[
    int | None, typer.Option(help="Architectures drawn at random per step. [default: the sampler's own number]")
]
Teacher = Annotated[
    str | None,
    typer.Option(
        help="What supernets learn from beside the labels: largest, module:function or a folder of `nas export`."
    ),
]
Schedule = Annotated[str, typer.Option(help="Of the learning rate of supernets: cosine, one-cycle or exponential.")]
Accumulate = Annotated[int, typer.Option(help="Batches per step of the optimiser of supernets.")]
Ema = Annotated[float, typer.Option(help="Decay of the moving average of supernet weights; 0 for none.")]


def train_command(
    space: Annotated[
        str, typer.Argument(help="Search space (see `nas spaces`) or module:function.", show_default=False)
    ],
    data: Annotated[
        str, typer.Option(help="`digits`, an image folder, a folder of parquet, torchvision:NAME or datasets:NAME.")
    ] = "digits",
    sampler: Sampler = "uniform",
    subnets: Subnets = None,
    supernets: Annotated[int, typer.Option(help="Supernets that share the architectures in a balanced mixture.")] = 1,
    teacher: Teacher = None,
    epochs: Annotated[int, typer.Option(help="Epochs.")] = 100,
    batch_size: Annotated[int, typer.Option(help="Images per step.")] = 128,
    learning_rate: Annotated[
        float, typer.Option(help="Learning rate of SGD at its highest. May be changed when training goes on.")
    ] = 0.1,
    schedule: Schedule = "cosine",
    weight_decay: Annotated[float, typer.Option(help="Weight decay of SGD.")] = 0.0,
    accumulate: Accumulate = 1,
    ema: Ema = 0.0,
    temperature: Annotated[float, typer.Option(help="Final temperature of a mixture.")] = 100.0,
    limit: Annotated[int | None, typer.Option(help="Training and validation images to use.")] = None,
    test_limit: Annotated[int | None, typer.Option(help="Test images to use.")] = None,
    validation_fraction: Annotated[
        float, typer.Option(help="Part of the training images that is kept to rank architectures.")
    ] = 0.5,
    image_size: Annotated[int | None, typer.Option(help="Resize images to this many pixels a side.")] = None,
    mean: Annotated[
        str | None, typer.Option(help="What images are normalised by, such as 0.5,0.5,0.5. [default: the data's own]")
    ] = None,
    std: Annotated[str | None, typer.Option(help="See --mean.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="Option of the space as name=value, such as operators=[max,conv]. Can be repeated."),
    ] = None,
    choices: Annotated[
        str | None, typer.Option(help="What an elastic space varies, short for --option choices.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    bfloat16: Annotated[
        bool,
        typer.Option("--bfloat16", help="Train and rank in bf16 on a CPU too: faster where it has the instructions."),
    ] = False,
    seed: Annotated[int, typer.Option(help="Decides everything random.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Run folder. [default: runs/SPACE-DATA-train-SAMPLER-seedSEED]")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One line of JSON per epoch and supernet on stdout.")] = False,
) -> None:
    """Train supernets, for `nas search --supernet FOLDER` to rank architectures with.

    Stopped at any moment, the same command goes on after the last finished epoch.

    Example: `nas train resnet20-pooling --data digits --sampler fair --epochs 60 --out runs/supernet`
    """

    def show(history: list[Row]) -> None:
        for row in [row for row in history if row["epoch"] == history[-1]["epoch"]]:
            if json:
                terminal.show_json(row)
            else:
                losses = ", ".join(f"{name} {row[name]:.3f}" for name in LOSSES if name in row)
                terminal.err.print(
                    f"epoch {row['epoch'] + 1:g}, supernet {row['supernet']:g}: {losses}", highlight=False
                )

    try:
        with terminal.bars() as progress:
            study = train(
                space,
                data,
                out=out,
                progress=progress,
                on_epoch=show,
                sampler=sampler,
                subnets=subnets,
                supernets=supernets,
                teacher=teacher,
                epochs=epochs,
                batch_size=batch_size,
                learning_rate=learning_rate,
                schedule=schedule,
                weight_decay=weight_decay,
                accumulate=accumulate,
                ema=ema,
                temperature=temperature,
                limit=limit,
                test_limit=test_limit,
                validation_fraction=validation_fraction,
                image_size=image_size,
                mean=None if mean is None else floats(mean, "--mean"),
                std=None if std is None else floats(std, "--std"),
                space_options=options(option, choices),
                device=device,
                bfloat16=bfloat16,
                seed=seed,
            )
    except KeyboardInterrupt:
        terminal.err.print(
            "Stopped. The same command goes on after the last finished epoch.", highlight=False, soft_wrap=True
        )
        raise typer.Exit(130) from None
    if not json:
        print(study.folder / "supernets" / "history.csv")
        terminal.err.print(
            f"Rank with: nas search --supernet {shlex.quote(str(study.folder))}", highlight=False, soft_wrap=True
        )
