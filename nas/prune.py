"""The pruning of a given model: cut, repaired on data, measured and saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import pruners
from estimators.counting import standing_in
from nas.data import ImageData, named_data
from nas.events import Log, check_logs, clear, left_by_logs, logged
from nas.objectives import estimates
from nas.pruning import (
    UNFINISHED,
    Kept,
    PruneConfig,
    Reached,
    Repair,
    better_path,
    fewer_words,
    given_inputs,
    load_model,
    own_classes,
    own_image_size,
    own_normalisation,
    parse_recovery,
    repair_unlabelled,
    unfinished,
)
from nas.report import prune_page
from nas.runtime import (
    as_yaml,
    command_line,
    drawing,
    environment,
    flat,
    replacing,
    resolve_device,
    write_json,
    write_text,
)
from nas.study import OBJECT, make_task
from nas.tasks import Images, Task, as_task, configured_task, digest
from nas.training import measure, warn_of_chance
from pruners import CutConfig, PruneResult
from pruners.allocation import Rankings
from pruners.importance import AUTO
from pruners.progress import Progress, silent
from pruners.repair import NONE
from pruners.repair import synthetic as synthetic_inputs
from pruners.untouched import untouched
from search_spaces.core import keywords, nested, parse, takes

OF_NAMES = ("arguments", "weights")
"""Settings of a model that is given by name."""


@takes(PruneConfig, leaving_out=("input", "task"))
def prune(
    model: str | nn.Module,
    example: Any,
    targets: Mapping[str, float | str],
    *,
    data: str | Path | ImageData | Task | None = None,
    task: str | None = None,
    out: str | Path | None = None,
    progress: Progress = silent,
    **settings: Any,
) -> tuple[PruneResult, dict[str, Any]]:
    """Prune a model, repair it on data, measure it on test examples, and save it.

    Args:
        model: a module, which is left untouched, or `module:function` that returns one, or a library's: `timm:NAME`,
            `torchvision:NAME`, `hf:NAME` or `hf:FOLDER`. What the configuration of such a model says of images normalises the data.
        example: inputs of the model, see `pruners.prune`, on which macs are counted; or their shape, such as 1x3x32x32, or
            `module:function` that returns them; None for the first example of `data` or `task`.
        targets: see `pruners.prune`; beside those, `peak_memory_bytes`, `energy_mj` and `bound_ms`.
        data: examples for criteria, repair and measurement: what `nas.load_data` takes, images already loaded, or a task of one's own,
            see `nas.tasks`.
        task: `module:function` that returns a task, in place of data.
        out: folder for `plan.json`, `weights.safetensors`, `summary.json`, the page `report.html` and, where all of it was given by
            names, the configuration `prune.yaml`; with `vocabulary` also for `vocabulary.json` and the mended `tokenizer`. Meanwhile
            `events.jsonl` in it says how far it is, see `nas.events`. `pruners.load` reads the model back. A stopped call leaves its
            work in `.unfinished` there; the same call goes on.
        progress: told about long steps.
        settings: by keyword:{settings}

    Returns:
        The result with the repaired model, and the summary: costs before and after, the check, the task's metrics on
            test examples, and all settings.

    Raises:
        ValueError: something does not fit; the message says what.
    """
    source, made = None, data if isinstance(data, Task) else None
    if data is not None and made is None:
        source, images = named_data(data)
        made = None if images is None else as_task(images)
    _refuse_unused(settings, model, source if data is None or made is None else data)
    named = {
        "model": model if isinstance(model, str) else f"{type(model).__module__}.{type(model).__qualname__}",
        "input": example if isinstance(example, str) or example is None else _described(example),
        "targets": targets,
        "data": source if not isinstance(data, Task) else None,
        "task": OBJECT if isinstance(data, Task) else task,
    }
    given = {name: value for name, value in {**settings, **named}.items() if value is not None}
    return run(
        parse(PruneConfig, nested(PruneConfig, given)),
        out,
        model=None if isinstance(model, str) else model,
        example=None if isinstance(example, str) else example,
        task=made,
        progress=progress,
    )


def run(
    config: PruneConfig,
    out: str | Path | None = None,
    *,
    model: nn.Module | None = None,
    example: Any = None,
    task: Task | None = None,
    progress: Progress = silent,
) -> tuple[PruneResult, dict[str, Any]]:
    """Carry out a configuration, on what it names or on what is given in its place; see `prune`."""
    folder = None if out is None else Path(out)
    if folder is None and config.log:
        raise ValueError(f"`log` {','.join(config.log)} needs a folder to go to; give `out`, or leave it out")
    check_logs(config.log)
    if folder is not None and folder.exists():
        if not (folder / "plan.json").exists() and _others(folder):
            raise ValueError(f"{folder} is not empty and holds no pruned model; give another folder")
        if not (folder / UNFINISHED).exists():
            clear(folder)
    with logged(folder, config.log, flat(config.model_dump(mode="json")), command_line()) as log:
        return _run(config, folder, log, model, example, task, log.listening(progress))


def _run(
    config: PruneConfig,
    folder: Path | None,
    log: Log,
    model: nn.Module | None,
    example: Any,
    task: Task | None,
    progress: Progress,
) -> tuple[PruneResult, dict[str, Any]]:
    by_names = model is None and example is None and task is None and isinstance(config.cut.importance.criterion, str)
    by_names = by_names and config.words.by_names
    place = resolve_device(config.device)
    if model is None:
        model = load_model(config.model, config.arguments, config.weights)
    if task is None:
        task, config = _task(config)
    if example is None:
        example = given_inputs(model, config.input, task, config.seed)
    words = fewer_words(model, example, config.words)
    if words is not None:
        model, example = words.model, words.example
    if config.synthetic and not isinstance(example, Tensor):
        raise ValueError("`synthetic` needs a model of one tensor; give `data` of your own")
    model = on_cpu(model)
    with unfinished(folder, lambda: _asked(config, model, example, task)) as kept:
        (result, notes), test = _pruned(config, model, example, task, place, kept, log, progress)
    did = [note["did"] for note in notes if "did" in note]
    why = {**result.summary.chosen, **({"recover": did[-1]} if did else {})}
    result = replace(result, summary=replace(result.summary, chosen=why))
    summary = {
        **result.summary.to_dict(),
        "test": test,
        "metrics": {} if task is None else {name: asdict(metric.objective) for name, metric in task.metrics.items()},
        "recovery": notes,
        "vocabulary": words and words.vocabulary.to_dict(),
        "settings": config.model_dump(mode="json"),
        "command": command_line(),
        **environment(),
    }
    if folder is not None:
        with replacing(folder) as temporary:
            result.save(temporary)
            if words is not None:
                words.save(temporary)
            write_json(temporary / "summary.json", summary)
            write_text(temporary / "report.html", prune_page(summary))
            if by_names:
                write_text(temporary / "prune.yaml", as_yaml(config))
            log.move(temporary)
    return result, summary


def _pruned(
    config: PruneConfig,
    model: nn.Module,
    example: Any,
    task: Task | None,
    place: torch.device,
    kept: Kept,
    log: Log,
    progress: Progress,
) -> tuple[Reached, dict[str, dict[str, float]]]:
    """Cut a model, or go on with what is kept of that, repair it step by step, and measure it on test examples after each."""
    test: dict[str, dict[str, float]] = {}
    steps = parse_recovery(config.recovery.steps)
    drawn = partial(drawing, config.seed, "prune", device=place)

    def assess(when: str, module: nn.Module, name: str | None = None) -> None:
        if task is not None:
            with untouched(module), drawn("test"):
                find = partial(measure, module.to(place), task, task.test, list(task.metrics))
                test[when] = kept.part("test").once(name or when, find)
            log.write("measured", {"number": len(test), **test[when]}, when=when)

    repair = None
    if task is not None:
        task.check(model, example)
        repair = Repair(
            model,
            task,
            task.training,
            config.recovery,
            seed=config.seed,
            device=place,
            progress=progress,
        )
    sample: list[Any] | None = repair.sample if repair else None
    if config.synthetic:
        sample = synthetic_inputs(model, example, config.synthetic, seed=config.seed, progress=progress)

    def carry_out(cut: CutConfig, batches: list[Any] | None, rankings: Rankings | None = None) -> PruneResult:
        return pruners.prune(
            model,
            example,
            config.targets,
            estimators=estimates(config.targets, config.hardware),
            batches=batches,
            loss=None if task is None or isinstance(task.train, Images) else task.goal.loss,
            recover=AUTO if batches is None and steps else NONE,  # it may make the examples that it needs
            rankings=rankings,
            progress=progress,
            config=cut,
        )

    reached = kept.reached(model)
    if reached is None:
        cut, why = config.cut.model_copy(update={"milliseconds": config.shows_milliseconds}), dict[str, str]()
        if task is not None:
            cut, why = better_path(
                cut,
                steps,
                carry_out,
                model,
                example,
                task,
                config.recovery,
                device=place,
                progress=progress,
                kept=kept.part("path"),
            )
        with drawn("cut"):
            result = carry_out(cut, sample, kept.rankings)
        result = replace(result, summary=replace(result.summary, chosen={**why, **result.summary.chosen}))
        reached = kept.keep(Reached(result, []))
    result, notes = reached
    assess("before", model)
    if task is not None:
        warn_of_chance(test["before"][task.main.name], task, task.test, "the model before pruning")
    assess("pruned", result.model)
    for number, step in enumerate(steps if sample is not None else ()):
        if number == len(notes):
            with drawn("step", number):
                under_way = kept.part(f"step {number}")
                if repair:
                    note = repair(step, result, under_way)
                else:
                    assert sample is not None
                    note = repair_unlabelled(step, result, model, sample, config.seed, place, progress, under_way)
            notes.append({"step": str(step), **note})
            kept.keep(reached)
        assess(str(step), result.model, f"{number}")
    return reached, test


def _others(folder: Path) -> list[Path]:
    """What stands in a folder beside unfinished work and what logs left."""
    ours = {folder / UNFINISHED, *left_by_logs(folder)}
    return [path for path in folder.iterdir() if path not in ours]


def _asked(config: PruneConfig, model: nn.Module, example: Any, task: Task | None) -> dict[str, Any]:
    """What is pruned, as plain data: the settings, and digests of what they name or of what was given in its place."""
    weights = {name: x for name, x in model.state_dict().items() if isinstance(x, Tensor)}
    inputs = [x for x in tree_leaves(example) if isinstance(x, Tensor)]
    return {
        **config.model_dump(mode="json"),
        "digests": {
            "weights": digest(list(weights.values()), " ".join(weights)),
            "input": digest(inputs),
            "data": None if task is None else task.fingerprint,
        },
    }


def _task(config: PruneConfig) -> tuple[Task | None, PruneConfig]:
    """The task of a configuration, and the configuration with what a library's model says of its images.

    That is what normalises them, and where no input is given, their size.
    """
    if config.task is not None:
        return make_task(config.task), config
    if config.data is None:
        return None, config
    if config.input is None and config.data.image_size is None and (size := own_image_size(config.model)):
        config = config.model_copy(update={"data": config.data.model_copy(update={"image_size": size})})
    assert config.data is not None
    own = own_normalisation(config.model) if config.data.mean is None else None
    task = configured_task(config.data, config.seed, own, own_classes(config.model))
    if own is not None and tuple(task.described["input"]["mean"]) == tuple(own[0]):
        said = config.data.model_copy(update={"mean": own[0], "std": own[1]})
        config = config.model_copy(update={"data": said})
    return task, config


def on_cpu(model: nn.Module) -> nn.Module:
    """A model if it is on the CPU, else a copy there."""
    there = all(x.device.type == "cpu" for x in (*model.parameters(), *model.buffers()))
    return model if there else standing_in(model, torch.device("cpu"))


def _refuse_unused(settings: Mapping[str, Any], model: str | nn.Module, data: object) -> None:
    """Refuse settings of what is given by name, beside a module or loaded images."""
    of_data = [name for name, keyword in keywords(PruneConfig).items() if keyword.paths[0][0] == "data"]
    for kind, given, names in (("model", model, OF_NAMES), ("data", data, of_data)):
        unused = [f"`{name}`" for name in names if settings.get(name) is not None]
        if unused and given is not None and not isinstance(given, str):
            raise ValueError(
                f"{', '.join(unused)} must come with `{kind}` by name, got a {type(given).__name__}; leave out one or the other"
            )


def _described(example: Any) -> str:
    """The shapes of tensors, such as 1x3x32x32, joined by commas."""
    return ", ".join("x".join(map(str, x.shape)) for x in tree_leaves(example) if isinstance(x, Tensor))
