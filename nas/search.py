"""The search: train what is shared, ask, estimate, tell, write down; then train the front alone, export it and draw it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from estimators.latency import CONDITIONS, compare_latency
from nas.data import ImageData
from nas.engines import open_engine
from nas.export import export
from nas.propose import Callback, propose
from nas.pruning import SearchedModel
from nas.report import write_report, write_tables
from nas.retrain import build, retrain
from nas.runtime import half, import_function, ranks
from nas.scoring import Evaluate, cost_scorers, latency_figures, sharing, taken_by
from nas.strategies import check_strategy
from nas.study import LOOP, OBJECT, RunConfig, Study, configure, directed, named, run_folder, write_recorded
from nas.tasks import Task
from nas.train import adopt, help_train, open_run, train_nested, train_supernets, trains_shared
from nas.worker import Recruit, Worker, files_of
from pruners.progress import Progress, silent
from search_spaces import SPACES, SearchSpace
from search_spaces.core import takes

WITHOUT_EXAMPLES = (
    "a search without examples knows nothing of what a smaller model still computes: weights alone rank what goes, batch statistics "
    "stay as they were, and the front is of costs; give `data` or a `task`"
)


@takes(RunConfig, SearchedModel)
def search(
    space: str | SearchSpace | None = None,
    data: str | Path | ImageData | Task | None = None,
    *,
    task: str | None = None,
    evaluate: str | Evaluate | None = None,
    out: str | Path | None = None,
    progress: Progress = silent,
    callbacks: Sequence[Callback] = (),
    trust: bool = False,
    **settings: Any,
) -> Study:
    """Search `space` on `data` and leave the front trained, exported and drawn in a run folder; or by a function of one's own.

    Calling it again with the same arguments goes on where it was stopped, and does nothing once it is finished, unless it is given a
    larger budget. While supernets train, the second call may give another learning rate, say after the loss became infinite.

    In each of several processes that torchrun starts, they train the supernets together; then the first one goes on alone.

    Args:
        space: a built-in space's name, `module:function`, or a SearchSpace; None with `model`, the smaller models inside which are
            searched.
        data: what `nas.data.load_data` takes, images already loaded, or a task of one's own, see `nas.tasks`, whose metrics are
            objectives by their names.
        task: `module:function` that returns a task, in place of data.
        evaluate: in place of data and training, a function or `module:function` that gives a network its figures: called as
            `evaluate(model, arch)` with an untrained network on the CPU and its architecture (or with `model` or `arch` alone, where it
            takes only that), it returns numbers by name, or one number. Its figures are objectives by names of their own with a
            direction, `score:max`, in Python also `objectives={"score": "max", "macs": "min"}`. What it raises is a failed trial.
        out: the run folder. Default: `runs/<space>-<data>-<strategy>-seed<seed>`.
        progress: told about long steps.
        callbacks: each is called after each trial as `callback(study, row)`, with what `study.trials` says of it, or `study.failed`;
            the search ends where one returns True.
        trust: import the function that the teacher's folder names, if it names one; see docs/trust.md.
        settings: by keyword:{settings}

    Returns:
        The study, with `trials` and `front` as pandas tables.

    Raises:
        ValueError: a setting, the data or the folder do not fit; the message says what does.
        NotFinite: a loss is NaN or infinite; the checkpoint of the last good epoch stays.
    """
    given = named(data, task)
    config = configure(
        space.name if isinstance(space, SearchSpace) else space,
        given.data,
        task=given.task,
        evaluate=_name(evaluate),
        **directed(settings, None if evaluate else given.made),
    )
    config = adopt(config)
    return run(
        config,
        run_folder(config, config.strategy) if out is None else Path(out),
        space=space if isinstance(space, SearchSpace) else None,
        task=given.made,
        evaluate=None if isinstance(evaluate, str) else evaluate,
        progress=progress,
        callbacks=callbacks,
        trust=trust,
    )


def run(
    config: RunConfig,
    folder: Path,
    *,
    space: SearchSpace | None = None,
    task: Task | None = None,
    evaluate: Evaluate | None = None,
    progress: Progress = silent,
    callbacks: Sequence[Callback] = (),
    trust: bool = False,
) -> Study:
    """Carry out a configuration in a run folder, or go on with it; see `search`. The functions that it names are imported.

    Several processes train supernets together, and the first one goes on alone.
    """
    if ranks.started().of > 1 and not trains_shared(config):
        raise ValueError(
            f"several processes train supernets together, and this search has none to train, got {ranks.started().of} processes; start "
            "it in one"
        )
    if not ranks.first():
        return help_train(config, folder, space=space, task=task, trust=trust)
    config.engine.check()
    check_strategy(config.strategy)
    if config.evaluate == LOOP:
        raise ValueError(f"{folder} is searched by a loop of its own; go on there, with `nas.Loop`")
    if config.evaluate is not None:
        evaluate = evaluate or import_function(config.evaluate)
        taken_by(evaluate)
    study, made, device = open_run(config, folder, space=space, task=task, trust=trust)
    if not study.has_examples and config.evaluate is None:
        warnings.warn(WITHOUT_EXAMPLES, stacklevel=3)
    with study.locked(), study.session(), sharing(study) as shared:
        progress = study.log.listening(progress)
        learner = None
        if made is not None and trains_shared(config):
            with half(config.bfloat16):
                learner = train_supernets(study, made, device, progress, trust=trust)
        nested = train_nested(study, made, device, progress) if made and config.worth.used == "supernet" else None
        worker = Worker(study, made, evaluate, device, lambda: learner or nested)
        has_name = config.space.name in SPACES or ":" in config.space.name
        files = files_of(study) if config.engine.remote else None
        by_name = config.task not in (None, OBJECT)  # workers call its function themselves
        recruit = Recruit(folder, None if has_name else space, None if by_name else task, evaluate, files)
        with open_engine(config.engine, recruit if config.engine.elsewhere else lambda place: worker) as workers:
            part = study.space if learner is None else learner.team.sampler.narrowed(study.space)
            scored = workers if worker.scores else None
            propose(study, part, cost_scorers(study, device), scored, progress, shared, callbacks)
            if made is not None:
                retrain(study, made, workers, progress)
        if made is not None:
            _export_front(study, made, progress)
        if config.evaluate is None:
            _measure_front(study, device)
        return _written(study)


def _written(study: Study) -> Study:
    write_tables(study)
    write_report(study)
    return study


def _name(evaluate: str | Evaluate | None) -> str | None:
    """What a function is called in the configuration."""
    if evaluate is None or isinstance(evaluate, str):
        return evaluate
    named = evaluate if hasattr(evaluate, "__qualname__") else type(evaluate)
    return f"{named.__module__}:{named.__qualname__}"


def _export_front(study: Study, task: Task, progress: Progress) -> None:
    if study.config.alone.which == "none":
        return
    front = study.front
    for done, key in enumerate(front["architecture"]):
        progress("exporting", done, len(front))
        arch = study.find(key)
        folder = study.place("exports", arch)
        if not folder.exists():
            export(study, arch, folder, study.config.export, task)
            study.log.write("export", label=study.space.label(arch), folder=folder.name)
    progress("exporting", len(front), len(front))


def _measure_front(study: Study, device: torch.device) -> None:
    """Latency of the networks on the fronts at batch size 1, all in one process by turns."""
    keys = list(dict.fromkeys([*study.searched_front["architecture"], *study.front["architecture"]]))
    if set(keys) <= set(study.latency):
        return
    modules = {key: build(study, study.find(key)) for key in keys}
    measured = compare_latency(modules, study.space.net.inputs, device=device)
    figures = {
        key: {**latency_figures(latency), **{name: getattr(latency, name) for name in CONDITIONS}}
        for key, latency in measured.items()
    }
    write_recorded(study.folder, "latency.json", json.dumps(figures, indent=2) + "\n")
