"""Options that several commands have, declared once."""

from __future__ import annotations

from typing import Annotated

import typer

from nas.settings import SAMPLERS

SAMPLER_HELP = "Which architectures a step trains: " + "; ".join(f"{name}: {does}" for name, does in SAMPLERS.items())

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
BatchSize = Annotated[int, typer.Option(help="Images per step.")]
WeightDecay = Annotated[
    float, typer.Option(help="Weight decay of SGD; biases, norms, kernel transforms and pooling are spared.")
]
Momentum = Annotated[float, typer.Option(help="Momentum of SGD.")]
LabelSmoothing = Annotated[float, typer.Option(help="Share of the labels that is spread over all classes; 0 for none.")]
DistillWeight = Annotated[
    float, typer.Option(help="A given teacher's part of the loss of supernets, from 0 to 1; labels have the rest.")
]
DistillTemperature = Annotated[
    float, typer.Option(help="What the logits of a given teacher and of supernets are divided by.")
]
Temperature = Annotated[float, typer.Option(help="Final temperature of a mixture.")]
Limit = Annotated[int | None, typer.Option(help="Training and validation images to use.")]
TestLimit = Annotated[int | None, typer.Option(help="Test images to use.")]
ValidationFraction = Annotated[
    float, typer.Option(help="Part of the training images that is kept to rank architectures.")
]
ImageSize = Annotated[int | None, typer.Option(help="Resize images to this many pixels a side.")]
Mean = Annotated[
    str | None, typer.Option(help="What images are normalised by, such as 0.5,0.5,0.5. [default: the data's own]")
]
Std = Annotated[str | None, typer.Option(help="See --mean.")]
SpaceOptions = Annotated[
    list[str] | None,
    typer.Option("--option", help="Option of the space as name=value, such as operators=[max,conv]. Can be repeated."),
]
Choices = Annotated[
    str | None,
    typer.Option(help="What an elastic space varies, such as width,depth,groups,pooling: short for --option choices."),
]
Paths = Annotated[
    int | None,
    typer.Option(
        help="Make ensembles of so many architectures that share their first blocks: short for --option paths."
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Bfloat16 = Annotated[
    bool,
    typer.Option("--bfloat16", help="Train and rank in bf16 on a CPU too: faster where it has the instructions."),
]
Seed = Annotated[int, typer.Option(help="Decides everything random.")]
Json = Annotated[bool, typer.Option("--json", help="One line of JSON per result on stdout.")]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust", help="Import the functions (module:function) that the files named here name; see docs/trust.md."
    ),
]
