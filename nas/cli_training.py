"""`nas train`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from nas import cli_options as shared
from nas import terminal
from nas.arguments import floats, options
from nas.train import train
from nas.training import Row

LOSSES = ("loss", "loss_smallest", "loss_random", "loss_largest")


def train_command(
    space: Annotated[
        str, typer.Argument(help="Search space (see `nas spaces`) or module:function.", show_default=False)
    ],
    data: Annotated[
        str, typer.Option(help="`digits`, an image folder, a folder of parquet, torchvision:NAME or datasets:NAME.")
    ] = "digits",
    sampler: shared.Sampler = "uniform",
    subnets: shared.Subnets = None,
    supernets: Annotated[int, typer.Option(help="Supernets that share the architectures in a balanced mixture.")] = 1,
    teacher: shared.Teacher = None,
    distill_weight: shared.DistillWeight = 0.9,
    distill_temperature: shared.DistillTemperature = 4.0,
    epochs: Annotated[int, typer.Option(help="Epochs.")] = 100,
    batch_size: shared.BatchSize = 128,
    learning_rate: Annotated[
        float, typer.Option(help="Learning rate of SGD at its highest. May be changed when training goes on.")
    ] = 0.1,
    schedule: shared.Schedule = "cosine",
    momentum: shared.Momentum = 0.9,
    weight_decay: shared.WeightDecay = 0.0,
    label_smoothing: shared.LabelSmoothing = 0.0,
    accumulate: shared.Accumulate = 1,
    ema: shared.Ema = 0.0,
    temperature: shared.Temperature = 100.0,
    limit: shared.Limit = None,
    test_limit: shared.TestLimit = None,
    validation_fraction: shared.ValidationFraction = 0.5,
    image_size: shared.ImageSize = None,
    mean: shared.Mean = None,
    std: shared.Std = None,
    option: shared.SpaceOptions = None,
    choices: shared.Choices = None,
    paths: shared.Paths = None,
    device: shared.Device = "auto",
    bfloat16: shared.Bfloat16 = False,
    seed: shared.Seed = 0,
    out: Annotated[
        Path | None, typer.Option(help="Run folder. [default: runs/SPACE-DATA-train-SAMPLER-seedSEED]")
    ] = None,
    trust: shared.Trust = False,
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
                trust=trust,
                sampler=sampler,
                subnets=subnets,
                supernets=supernets,
                teacher=teacher,
                distill_weight=distill_weight,
                distill_temperature=distill_temperature,
                epochs=epochs,
                batch_size=batch_size,
                learning_rate=learning_rate,
                schedule=schedule,
                momentum=momentum,
                weight_decay=weight_decay,
                label_smoothing=label_smoothing,
                accumulate=accumulate,
                ema=ema,
                temperature=temperature,
                limit=limit,
                test_limit=test_limit,
                validation_fraction=validation_fraction,
                image_size=image_size,
                mean=None if mean is None else floats(mean, "--mean"),
                std=None if std is None else floats(std, "--std"),
                space_options=options(option, choices, paths),
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
