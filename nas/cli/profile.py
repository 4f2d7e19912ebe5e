"""What `nas profile` shows: the cost of an architecture or of any module, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import torch
import typer
from torch import nn

from estimators.counting import Count, Profile, compare, count, count_with
from nas.cli import terminal
from nas.cli.options import Choices, Json, Paths, SpaceOptions, in_options, space_options
from nas.pruning import example_inputs, library_of, load_model
from nas.report import si
from nas.runtime import import_function, names, yaml_values
from nas.study import build_space
from search_spaces import SPACES, SearchSpace
from search_spaces.core import unknown_name

ROWS = ("module", "operator")


@dataclass(frozen=True)
class Profiled:
    """One network's counts.

    Attributes:
        title: the network and its totals.
        totals: figures by name, as `--json` prints them.
        columns, rows: a table of where they come from.
        notes: what the counter did not count.
    """

    title: str
    totals: Mapping[str, Any]
    columns: list[str]
    rows: list[list[str]]
    notes: list[str]


def profile_command(
    target: Annotated[
        str,
        typer.Argument(
            help="Search space, or module:function, timm:NAME, torchvision:NAME or hf:FOLDER of a module.",
            show_default=False,
        ),
    ],
    arch: Annotated[str | None, typer.Option(help="Architecture of a space, such as 4-3-3.")] = None,
    input: Annotated[
        list[str] | None,
        typer.Option(
            help="Shape of a module's input, batch and all, such as 1x3x224x224, or module:function that returns inputs; several are "
            "given in order.",
        ),
    ] = None,
    counter: Annotated[
        str, typer.Option(help="See `nas list counters`; several with commas stand side by side.")
    ] = "torch",
    by: Annotated[
        str | None, typer.Option(help="Rows of the table: module or operator. [default: module for the counter torch]")
    ] = None,
    option: SpaceOptions = None,
    choices: Choices = None,
    paths: Paths = None,
    json: Json = False,
) -> None:
    """Count macs, params and activations, by module or by operator; operators that nobody knows are named.

    Example: `nas profile resnet20-pooling --arch 4-3-3`
    """
    with in_options({"input": "input"}):
        options = space_options(yaml_values(option, "--option"), choices, paths)
        found = profile(target, arch=arch, inputs=input or (), counter=counter, by=by, options=options)
    if json:
        terminal.show_json(found.totals)
        return
    terminal.show_table(found.columns, found.rows, title=found.title)
    for note in found.notes:
        terminal.say(note)


def profile(
    target: str,
    *,
    arch: str | None = None,
    inputs: Sequence[str] = (),
    counter: str = "torch",
    by: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Profiled:
    """Count one network: of a space for one sample, a module for one call on its inputs as they are given.

    Args:
        target: a search space, or `module:function` of a function that returns a space or a module.
        arch: which architecture of the space; not for a module.
        inputs: of a module, in order: the shape of a tensor of random numbers, such as 1x3x32x32, or `module:function`, which returns
            a tensor, several in a tuple, or a dict by name. A space knows its own.
        counter: one of `estimators.COUNTERS`, or several with commas between them, which are put side by side.
        by: module, which is the default and for the counter torch alone, or operator.
        options: keyword arguments of the space's factory or of the function.

    Raises:
        ValueError: something is unknown, missing or would not be used.
    """
    counters = names(counter) or [counter]
    if by is not None and by not in ROWS:
        raise unknown_name("kind of row", by, ROWS)
    if by == "module" and counters != ["torch"]:
        raise ValueError(f"rows by module are those of the counter torch, got {counter}; leave out --by or --counter")
    made = (
        build_space(target, dict(options or {}))
        if target in SPACES or ":" not in target or "paths" in (options or {})
        else _call(target, options or {})
    )
    if isinstance(made, SearchSpace):
        if inputs:
            raise ValueError(
                f"{target!r} is a search space and knows its input, {_sizes(made.net.input_shape)}: leave out --input; "
                "`nas spaces` lists the options of spaces, such as image_size"
            )
        if arch is None:
            raise ValueError(
                f"{target!r} is a search space: choose an architecture with --arch, such as {_example(made)}"
            )
        found = made.parse(arch)
        module: nn.Module = made.build(found)
        name, given = f"{made.name} {made.label(found)}", made.net.input_shape
        notes = []
    else:
        if arch is not None:
            raise ValueError(f"{target!r} is a module, which has no architectures: leave out --arch {arch}")
        if not inputs:
            raise ValueError(f"{target!r} is a module: give the shape of its input with --input, such as 1x3x224x224")
        module, name, given = made, target, _given(inputs, made)
        notes = _several(inputs)
    if len(counters) > 1:
        return _side_by_side(name, compare(module, given, counters), notes)
    counter = counters[0]
    if counter == "torch":
        return _ours(name, count(module, given), by, notes)
    counted = count_with(counter, module, given)
    totals = {
        "name": name,
        "counter": counter,
        "macs": counted.macs,
        "params": counted.params,
        "operators": dict(counted.operators),
        "unsupported": dict(counted.unsupported),
    }
    rows = [[operator, si(macs)] for operator, macs in sorted(counted.operators.items(), key=lambda item: -item[1])]
    title = f"{name} by {counter}: {si(counted.macs)} macs, {si(counted.params)} params"
    return Profiled(title, totals, ["operator", "macs"], rows, notes + _notes(counted.unsupported))


def _given(texts: Sequence[str], module: nn.Module) -> Any:
    """The inputs behind what was typed, shapes in the module's own kind of floats."""
    kind = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    found = [example_inputs(text) if ":" in text else example_inputs(text).to(kind) for text in texts]
    return found[0] if len(found) == 1 else tuple(found)


def _several(texts: Sequence[str]) -> list[str]:
    """What to say where an input's first axis may be a batch: which axis is the batch is not known of a module."""
    first = next((text for text in texts if ":" not in text and not text.startswith("1x")), None)
    return [] if first is None else [f"counted for one call on {', '.join(texts)}, whatever is a batch in it"]


def _side_by_side(name: str, found: Mapping[str, Count], notes: list[str]) -> Profiled:
    figures = {
        "macs": lambda each: each.macs,
        "convolutions and linear": lambda each: each.conv_linear_macs,
        "params": lambda each: each.params,
    }
    rows = [[figure, *(f"{read(each):,}" for each in found.values())] for figure, read in figures.items()]
    totals = {
        counter: {
            "macs": each.macs,
            "conv_linear_macs": each.conv_linear_macs,
            "params": each.params,
            "operators": dict(each.operators),
            "unsupported": dict(each.unsupported),
        }
        for counter, each in found.items()
    }
    notes = notes + [f"{counter}: {note}" for counter, each in found.items() for note in _notes(each.unsupported)]
    return Profiled(name, {"name": name, "counters": totals}, ["", *found], rows, notes)


def _ours(name: str, found: Profile, by: str | None, notes: list[str]) -> Profiled:
    total = found.total
    totals = {
        "name": name,
        "counter": "torch",
        "macs": total.macs,
        "flops": 2 * total.macs,
        "params": total.params,
        "activations": total.activations,
        "weight_bytes": total.weight_bytes,
        "operators": dict(found.operators),
        "modules": {part: asdict(cost) for part, cost in found.modules.items()},
        "unsupported": dict(found.unsupported),
    }
    title = f"{name}: {si(total.macs)} macs, {si(total.params)} params, {si(total.activations)} activations"
    if by == "operator":
        shares = sorted(found.operators.items(), key=lambda item: -item[1])
        operators = [[operator, si(macs), f"{macs / max(total.macs, 1):.1%}"] for operator, macs in shares]
        return Profiled(title, totals, ["operator", "macs", "share"], operators, notes + _notes(found.unsupported))
    rows = [
        [part or "(all)", si(cost.macs), f"{cost.macs / max(total.macs, 1):.1%}", si(cost.params), si(cost.activations)]
        for part, cost in found.modules.items()
        if cost.macs or cost.params
    ]
    columns = ["module", "macs", "share", "params", "activations"]
    return Profiled(title, totals, columns, rows, notes + _notes(found.unsupported))


def _notes(unsupported: Mapping[str, int]) -> list[str]:
    return [f"not counted: {operator} ({times} times)" for operator, times in unsupported.items()]


def _call(target: str, options: Mapping[str, Any]) -> SearchSpace | nn.Module:
    made = load_model(target, options) if library_of(target) else import_function(target)(**options)
    if not isinstance(made, (SearchSpace, nn.Module)):
        raise ValueError(f"{target!r} must return a search space or a module, got {type(made).__name__}")
    return made


def _sizes(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _example(space: SearchSpace) -> str:
    return space.label(next(space.enumerate()))
