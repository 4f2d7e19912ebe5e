"""`nas prune` and `nas groups`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from nas.cli import terminal
from nas.cli.options import Json, Trust, refuse_beside, with_settings
from nas.prune import run
from nas.pruning import PruneConfig, check_input, example_inputs, load_model, read_prune_config
from nas.report import milliseconds, percent, repaired, shows, si
from nas.stopping import going_on
from pruners.groups import analyse, dependency_groups, split_inputs
from pruners.result import RUNTIMES
from search_spaces.core import keywords, nested, parse

KEYWORDS = keywords(PruneConfig)
OF_GROUPS = ("arguments", "weights", "input")


@with_settings(PruneConfig, leaving_out=("model",), also={"distill_temperature": "--temperature"})
def prune(
    settings: dict[str, Any],
    *,
    model: Annotated[
        str | None,
        typer.Argument(
            help="module:function, timm:NAME, torchvision:NAME or hf:FOLDER; with --config, only to trust it."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the plan, the smaller weights and a page.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="Take all settings from this file, such as a pruned model's prune.yaml.")
    ] = None,
    trust: Trust = False,
    json: Json = False,
) -> None:
    """Remove channels, heads and other dimensions from a model until it meets its targets, and prove the result.

    Example: `nas prune mymodels:resnet56 --weights w.th --input 1x3x32x32 --target macs=0.5 --data cifar10 --recover calibrate`
    """
    if config is not None:
        refuse_beside(f"--config {config}", settings, KEYWORDS)
        asked = read_prune_config(config, model=model, trust=trust)
    elif model is None:
        raise ValueError(
            "MODEL is missing; give module:function, timm:NAME, torchvision:NAME, hf:FOLDER, or --config FILE"
        )
    else:
        asked = parse(PruneConfig, nested(PruneConfig, {"model": model, **settings}))
    kept = "Nothing is kept without --out." if out is None else f"The same command goes on; {out} keeps what is done."
    with going_on(kept), terminal.bars() as progress:
        result, summary = run(asked, out, progress=progress)
    if json:
        terminal.show_json(summary)
        return
    before, after = summary["before"], summary["after"]
    rows = [[name, si(before[name]), si(after[name]), f"{before[name] / after[name]:.2f}x"] for name in before]
    terminal.show_table(["", "before", "after", "less by"], rows, title=f"{asked.model}, as a {result.summary.form}")
    if result.summary.blocks:
        terminal.show_table(["left out"], [[name] for name in result.summary.blocks])
    if words := summary["vocabulary"]:
        saved, share = words["bytes_before"] - words["bytes_after"], percent(words["coverage"])
        terminal.show(
            f"vocabulary of {words['before']:,} tokens before all else: {words['after']:,} stay, {share} of those in the texts; "
            f"{si(saved)}B less"
        )
    if summary["milliseconds"]:
        cells = [
            [RUNTIMES[runtime], milliseconds(was), milliseconds(now), f"{was / now:.2f}x"]
            for runtime, (was, now) in summary["milliseconds"].items()
        ]
        terminal.show_table(["on this machine", "before", "after", "faster by"], cells)
    if summary["test"]:
        show = shows(summary)
        cells = [[when, *(show[name](value) for name, value in row.items())] for when, row in summary["test"].items()]
        terminal.show_table(["test examples", *(name.replace("_", " ") for name in show)], cells)
    for note in summary["recovery"]:
        if "did" not in note and (words := repaired(note)):  # else it stands among what `auto` came to
            terminal.show(f"{note['step']}: {words}")
    if result.summary.difference is not None:
        terminal.show(f"differs from the masked model by {result.summary.difference:.1e}, relative")
    if result.summary.reason:
        terminal.show(f"a graph, as the model's own forward cannot express the smaller shapes: {result.summary.reason}")
    if result.summary.form_before == "module" and result.summary.form == "graph":
        terminal.show("before, as an earlier prune returned it, it was a module")
    for line in result.summary.lacks:
        terminal.show(line)
    if result.summary.alike:
        terminal.show(_alike(result.summary.alike))
    if result.summary.serves:
        terminal.show(f"serves {', '.join(f'{name} of {shape}' for name, shape in result.summary.serves.items())}")
    if result.summary.fixed:
        terminal.show(f"no other sizes but the batch: {result.summary.fixed}")
    for setting, chosen in result.summary.chosen.items():
        terminal.show(f"{setting} auto: {chosen}")
    for note in result.summary.notes:
        terminal.say(note)
    _show_unknown(result.summary.unknown)
    if out is not None:
        terminal.show(out)


@with_settings(PruneConfig, leaving_out=[name for name in KEYWORDS if name not in OF_GROUPS])
def groups(
    settings: dict[str, Any],
    *,
    model: Annotated[
        str,
        typer.Argument(help="module:function, timm:NAME, torchvision:NAME or hf:FOLDER.", show_default=False),
    ],
    json: Json = False,
) -> None:
    """Show what can be removed from a model, what is protected, and why.

    Example: `nas groups mymodels:resnet56 --input 1x3x32x32`
    """
    if "input" not in settings:
        raise ValueError("`input` is missing; give it")
    network = load_model(model, settings.get("arguments", {}), settings.get("weights"))
    example = example_inputs(settings["input"])
    check_input(network, example, settings["input"])
    graph = analyse(network, *split_inputs(example))
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


def _alike(alike: Mapping[str, Any]) -> str:
    """What the module form took, in one line."""
    whole = f", {len(alike['whole'])} stay whole" if alike["whole"] else ""
    return (
        f"as a module, {alike['groups']} groups lose alike{whole} ({', '.join(alike['governed'])}): {percent(alike['lost'])} of all "
        f"importance went, {percent(alike['lost_freely'])} in a graph"
    )


def _show_unknown(operators: Mapping[str, int]) -> None:
    for operator, times in operators.items():
        terminal.say(f"left alone, as its rule is not known: {operator} ({times} times)")
