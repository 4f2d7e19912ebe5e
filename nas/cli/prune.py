"""`nas prune` and `nas groups`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import nn

from nas.cli import options as shared
from nas.cli import terminal
from nas.cli.options import Json
from nas.data import ImageData, load_data, with_normalisation
from nas.prune import prune_model
from nas.pruning import check_input, example_inputs, load_model, parse_targets
from nas.report import percent, si
from nas.runtime import floats, names, options
from nas.training import Distillation
from pruners.allocation import ALLOCATIONS
from pruners.groups import analyse, dependency_groups, split_inputs
from pruners.importance import CRITERIA

HELD_OUT = 0.1  # of the training images: they are not trained on

Target = Annotated[str, typer.Argument(help="module:function that returns the model.", show_default=False)]
Weights = Annotated[Path | None, typer.Option(help="Its weights: safetensors, or torch.save of a state_dict.")]
Input = Annotated[
    str,
    typer.Option(
        help="Shape of an example input, batch first, such as 1x3x32x32; or module:function that returns example inputs: a tensor, "
        "several in a tuple, or a dict by name."
    ),
]
Options = Annotated[list[str] | None, typer.Option(help="Argument of the function, name=value. Can be repeated.")]


def prune(
    model: Target,
    target: Annotated[
        list[str],
        typer.Option(
            help="What may remain of macs, params, weight_bytes, latency_ms (milliseconds, measured here on the --input), "
            "peak_memory_bytes, energy_mj or bound_ms: a fraction up to 1 (macs=0.5), a larger number (params=1e6), or "
            "milliseconds (latency_ms=0.8ms). Can be repeated."
        ),
    ],
    input: Input,
    weights: Weights = None,
    device_file: Annotated[
        Path | None,
        typer.Option(help="YAML file of the device that energy_mj and bound_ms are for; see docs/estimators.md."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the plan and the smaller weights.")] = None,
    data: Annotated[str | None, typer.Option(help="Images to repair and measure on, as for `nas search`.")] = None,
    synthetic: Annotated[
        int,
        typer.Option(
            help="Without data: so many inputs made from the model's batch norms, for least-squares, calibrate, obs, activation and "
            "distortion; 500 are good.",
            min=0,
        ),
    ] = 0,
    importance: Annotated[
        str,
        typer.Option(
            help="l1, l2, lamp, bn_scale, fpgm or random; with --data also taylor, fisher, activation, lrp, lrp_zplus or obs "
            "(optimal brain surgeon: what later layers cannot make up for)."
        ),
    ] = "l2",
    aggregate: Annotated[str, typer.Option(help="How the tensors of a group add up: sum, mean or max.")] = "sum",
    normalise: Annotated[
        str | None,
        typer.Option(
            help="What the scores of a group are divided by: their mean, max or sum, or none. [default: mean, for lamp none]"
        ),
    ] = None,
    allocation: Annotated[
        str,
        typer.Option(
            help="uniform, global, isomorphic, optimal (most importance), or distortion (measured on --data or --synthetic)."
        ),
    ] = "global",
    steps: Annotated[int, typer.Option(help="Times that importance is computed, each time on what is left.")] = 1,
    schedule: Annotated[str, typer.Option(help="How what remains shrinks over --steps: geometric or linear.")] = (
        "geometric"
    ),
    recover: Annotated[
        str,
        typer.Option(
            help="Repair, in order, joined by commas: calibrate, least-squares, finetune:EPOCHS, distill:EPOCHS."
        ),
    ] = "",
    ignore: Annotated[
        list[str] | None, typer.Option(help="A group, tensor or module that loses nothing. Can be repeated.")
    ] = None,
    round_to: Annotated[int, typer.Option(help="Kept channels are a multiple of this.")] = 1,
    min_kept: Annotated[int, typer.Option(help="Fewest channels that stay in a group.")] = 1,
    max_ratio: Annotated[
        float, typer.Option(help="Largest fraction of its channels that a group loses, up to 1.")
    ] = 0.9,
    check: Annotated[bool, typer.Option(help="Compare the result with the masked model on the --input.")] = True,
    check_dtype: Annotated[
        str | None, typer.Option(help="What the check computes in: float32 or float64. [default: the model's own]")
    ] = None,
    tolerance: Annotated[float, typer.Option(help="Largest relative difference that the check allows.")] = 1e-4,
    learning_rate: Annotated[float, typer.Option(help="Learning rate of finetune and distill at the start.")] = 0.01,
    batch_size: Annotated[int, typer.Option(help="Images per step of finetune and distill.")] = 128,
    distill_weight: Annotated[
        float, typer.Option(help="The unpruned model's part of the loss of distill, from 0 to 1; labels have the rest.")
    ] = 0.9,
    temperature: Annotated[float, typer.Option(help="Temperature of distill.")] = 4.0,
    mean: Annotated[
        str | None, typer.Option(help="What the model's images are normalised by. [default: the data's own]")
    ] = None,
    std: shared.Std = None,
    limit: Annotated[int | None, typer.Option(help="Training images to use.")] = None,
    test_limit: shared.TestLimit = None,
    image_size: shared.ImageSize = None,
    option: Options = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda, for fine-tuning and measuring.")] = "auto",
    seed: shared.Seed = 0,
    json: Json = False,
) -> None:
    """Remove channels, heads and other dimensions from a model until it meets its targets, and prove the result.

    Example: `nas prune mymodels:resnet56 --weights w.th --input 1x3x32x32 --target macs=0.5 --data cifar10 --recover calibrate`
    """
    if data is None:
        _refuse_without_data(importance, allocation, recover, synthetic > 0)
    targets, network = parse_targets(target), load_model(model, options(option), weights)
    example = _fitting_inputs(input, network, seed)
    images = None if data is None else _images(data, mean, std, seed, limit, test_limit, image_size)
    with terminal.bars() as progress:
        result, summary = prune_model(
            network,
            example,
            targets,
            data=images,
            synthetic=synthetic,
            importance=importance,
            allocation=allocation,
            aggregate=aggregate,
            normalise=normalise,
            round_to=round_to,
            min_kept=min_kept,
            max_ratio=max_ratio,
            steps=steps,
            schedule=schedule,
            ignore=ignore or (),
            check=check,
            check_dtype=check_dtype,
            tolerance=tolerance,
            recover=names(recover),
            learning_rate=learning_rate,
            batch_size=batch_size,
            distillation=Distillation(distill_weight, temperature),
            seed=seed,
            device=device,
            device_file=device_file,
            out=out,
            command=shlex.join(["nas", *sys.argv[1:]]),
            progress=progress,
        )
    if json:
        terminal.show_json(summary)
        return
    before, after = summary["before"], summary["after"]
    rows = [[name, si(before[name]), si(after[name]), f"{before[name] / after[name]:.2f}x"] for name in before]
    terminal.show_table(["", "before", "after", "less by"], rows, title=f"{model}, as a {result.summary.form}")
    if summary["test_accuracy"]:
        cells = [[when, percent(value)] for when, value in summary["test_accuracy"].items()]
        terminal.show_table(["test images", "accuracy"], cells)
    if result.summary.difference is not None:
        print(f"differs from the masked model by {result.summary.difference:.1e}, relative")
    if result.summary.reason:
        print(f"a graph, as the model's own forward cannot express the smaller shapes: {result.summary.reason}")
    if result.summary.serves:
        print(f"serves {', '.join(f'{name} of {shape}' for name, shape in result.summary.serves.items())}")
    _show_unknown(result.summary.unknown)
    if out is not None:
        print(out)


def groups(model: Target, input: Input, weights: Weights = None, option: Options = None, json: Json = False) -> None:
    """Show what can be removed from a model, what is protected, and why.

    Example: `nas groups mymodels:resnet56 --input 1x3x32x32`
    """
    network = load_model(model, options(option), weights)
    graph = analyse(network, *split_inputs(_fitting_inputs(input, network)))
    found = dependency_groups(graph)
    if json:
        for group in found:
            terminal.show_json(group.to_dict())
        for operator, times in graph.unknown.items():
            terminal.show_json({"unknown": operator, "times": times})
        return
    rows = [[g.name, str(g.size), str(len(g.members)), g.per or "", g.protected or ""] for g in found]
    terminal.show_table(["group", "size", "tensors", "chosen anew per index of", "protected because"], rows)
    _show_unknown(graph.unknown)


def _show_unknown(operators: Mapping[str, int]) -> None:
    for operator, times in operators.items():
        terminal.err.print(f"left alone, as its rule is not known: {operator} ({times} times)", highlight=False)


def _refuse_without_data(importance: str, allocation: str, recover: str, synthetic: bool) -> None:
    """Options that pass over images, where there are none, or over labels, which synthetic inputs have not."""
    there = ("", "inputs") if synthetic else ("",)
    over_data = {
        f"--importance {importance}": importance in CRITERIA and CRITERIA[importance].needs not in there,
        f"--allocation {allocation}": allocation in ALLOCATIONS and ALLOCATIONS[allocation].needs not in there,
        f"--recover {recover}": bool(names(recover)) and not synthetic,
    }
    for given, needs in over_data.items():
        if needs:
            raise ValueError(
                f"`{given}` needs images{' and labels' if synthetic else ''}; give --data, such as --data digits"
            )


def _fitting_inputs(text: str, model: nn.Module, seed: int = 0) -> Any:
    example = example_inputs(text, seed)
    check_input(model, example, text)
    return example


def _images(
    source: str,
    mean: str | None,
    std: str | None,
    seed: int,
    limit: int | None,
    test_limit: int | None,
    image_size: int | None,
) -> ImageData:
    settings: dict[str, Any] = {"limit": limit, "test_limit": test_limit, "image_size": image_size}
    images = load_data(source, seed=seed, validation_fraction=HELD_OUT, **settings)
    if (mean is None) != (std is None):
        raise ValueError("`--mean` and `--std` go together; give both, or neither")
    return with_normalisation(images, floats(mean, "--mean"), floats(std, "--std")) if mean and std else images
