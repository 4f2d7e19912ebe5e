"""The search: train what is shared, ask, estimate, tell, write down; then train the front alone, export it and draw it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from estimators.latency import CONDITIONS, compare_latency
from estimators.zero_cost import ZERO_COST
from nas.data import ImageData
from nas.export import export
from nas.report import write_report, write_tables
from nas.retrain import build, retrain
from nas.runtime import half, import_function, ranks, stream, write_json
from nas.scoring import (
    Evaluate,
    EvaluatedScorer,
    Scorer,
    SupernetScorer,
    UntrainedScorer,
    add,
    allowed,
    contract,
    cost_scorers,
    inherit,
    inherited,
    latency_figures,
    losses_of,
    score,
    taken_by,
    tell_missing,
    tried,
)
from nas.strategies import STRATEGIES, make_strategy
from nas.study import LOOP, RunConfig, Study, configure, directed, named, run_folder
from nas.tasks import Task
from nas.train import adopt, help_train, open_run, train_supernets, trains_shared
from nas.training import NotFinite
from pruners.progress import Progress, silent
from search_spaces import SearchSpace
from search_spaces.core import takes

AT_ONCE = 64
"""Trials at most that are priced and written down together."""


@takes(RunConfig)
def search(
    space: str | SearchSpace,
    data: str | Path | ImageData | Task | None = None,
    *,
    task: str | None = None,
    evaluate: str | Evaluate | None = None,
    out: str | Path | None = None,
    progress: Progress = silent,
    trust: bool = False,
    **settings: Any,
) -> Study:
    """Search `space` on `data` and leave the front trained, exported and drawn in a run folder; or by a function of one's own.

    Calling it again with the same arguments goes on where it was stopped, and does nothing once it is finished, unless it is given a
    larger budget. While supernets train, the second call may give another learning rate, say after the loss became infinite.

    In each of several processes that torchrun starts, they train the supernets together; then the first one goes on alone.

    Args:
        space: a built-in space's name, `module:function`, or a SearchSpace.
        data: what `nas.data.load_data` takes, images already loaded, or a task of one's own, see `nas.tasks`, whose metrics are
            objectives by their names.
        task: `module:function` that returns a task, in place of data.
        evaluate: in place of data and training, a function or `module:function` that gives a network its figures: called as
            `evaluate(model, arch)` with an untrained network on the CPU and its architecture (or with `model` or `arch` alone, where it
            takes only that), it returns numbers by name, or one number. Its figures are objectives by names of their own with a
            direction, `score:max`, in Python also `objectives={"score": "max", "macs": "min"}`. What it raises is a failed trial.
        out: the run folder. Default: `runs/<space>-<data>-<strategy>-seed<seed>`.
        progress: told about long steps.
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
        space if isinstance(space, str) else space.name,
        given.data,
        task=given.task,
        evaluate=_name(evaluate),
        **directed(settings, None if evaluate else given.made),
    )
    config = adopt(config)
    return run(
        config,
        run_folder(config, config.strategy) if out is None else Path(out),
        space=None if isinstance(space, str) else space,
        task=given.made,
        evaluate=None if isinstance(evaluate, str) else evaluate,
        progress=progress,
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
    if config.evaluate == LOOP:
        raise ValueError(f"{folder} is searched by a loop of its own; go on there, with `nas.Loop`")
    if config.evaluate is not None:
        evaluate = evaluate or import_function(config.evaluate)
        taken_by(evaluate)
    study, task, device = open_run(config, folder, space=space, task=task, trust=trust)
    space = study.space
    with study.locked(), study.session():
        kept, costs = contract(space), cost_scorers(study, device)
        if evaluate is not None:
            propose(study, costs, [EvaluatedScorer(space, evaluate, study.objectives, config.seed)], progress)
            return _written(study)
        scorers: list[Scorer] = []
        assert task is not None
        if untrained := [name for name in config.objectives if name in ZERO_COST]:
            scorers.append(UntrainedScorer(space, untrained, task, device, config.seed))
        with half(config.bfloat16):
            if wanted := [metric.name for metric in config.measured]:
                learner = (
                    train_supernets(study, task, device, progress, trust=trust) if config.supernets.count else None
                )
                scorers.append(kept.worth(config, task, wanted, device, learner))
            propose(study, costs, scorers, progress)
            _retrain(study, task, device, progress)
        _export_front(study, task, progress)
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


def propose(study: Study, costs: Sequence[Scorer], scorers: Sequence[Scorer], progress: Progress) -> None:
    """Ask the strategy, score, tell, until the budget is spent or nothing is left to propose.

    The journal is a memory of scores: a search that goes on asks the strategy from the start, and only what the journal does not
    know is scored. So the strategy ends in the same state, and no trial is lost or doubled. Of a trained model the strategy is told
    of the uniformly pruned ones first, and before of the trials of another run that it starts with, which no budget counts.

    Costs give what limits are set on, other scorers the rest. What a trial raises makes it a failed one, which the strategy is told of
    as worse than any; it is not tried again.

    Raises:
        ValueError: no architecture keeps the limits, or too many trials failed in a row.
    """
    config, space, kept = study.config, study.space, contract(study.space)
    for scorer in scorers:
        if isinstance(scorer, SupernetScorer):
            space = scorer.sampler.narrowed(space)
    space = allowed(study, space, costs)
    strategy = make_strategy(config.strategy, space, stream(config.seed, "strategy"))
    inherit(study, space, kept.costs)
    known = tried(study)
    if first := inherited(study):
        strategy.tell([study.architecture(trial) for trial in first], losses_of(first, study.objectives))
    expected = min(config.budget.trials or space.raw_size, space.raw_size - len(first))
    entry, scored = STRATEGIES[config.strategy], [*costs, *scorers]
    at_once = AT_ONCE if len(scored) == 1 else 1  # exact costs alone take less than writing them down
    there = {study.architecture(trial) for trial in first}
    start = [arch for arch in kept.start() if space.keeps(arch) and arch not in there]
    told, spent, failures = 0, 0.0, 0
    progress("ranking", 0, expected)
    while told < expected and spent < (config.budget.seconds or float("inf")):
        together = entry.together if config.supernets.count else min(strategy.ahead, at_once)
        archs = start[told : told + 1] or strategy.ask(min(together, expected - told))
        if not archs:
            break

        def inner(step: str, done: float, total: float, told: int = told, count: int = len(archs)) -> None:
            progress("ranking", told + count * done / total, expected)

        new = [arch for arch in archs if arch.key not in known]
        outcomes = score(new, scored, inner)
        known |= zip((arch.key for arch in new), add(study, new, outcomes), strict=True)
        for outcome in outcomes:
            failures = failures + 1 if "reason" in outcome else 0
            if failures == config.budget.max_failures:
                raise ValueError(
                    f"{failures} trials in a row failed, the last of them with {outcome['reason']}; mend what fails, or allow more by "
                    f"`max_failures`; {study.folder} keeps what was tried"
                )
        batch = [known[arch.key] for arch in archs]
        strategy.tell(archs, losses_of(batch, study.objectives))
        told += len(archs)
        spent += sum(trial.user_attrs["seconds"] for trial in batch)
        progress("ranking", told, expected)
    progress("ranking", expected, expected)
    if config.limits and not told:
        raise ValueError(
            f"no architecture of {space.name!r} has {space.constraints[-1].rule}; allow more, in another folder"
        )
    tell_missing(study)


def _retrain(study: Study, task: Task, device: torch.device, progress: Progress) -> None:
    try:
        retrain(study, task, device, progress)
    except NotFinite as error:
        saved = f", and `supernet` {study.folder} there keeps the supernets" if study.config.supernets.count else ""
        raise NotFinite(f"{error}; a lower rate needs another folder{saved}") from None


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
    progress("exporting", len(front), len(front))


def _measure_front(study: Study, device: torch.device) -> None:
    """Latency of the networks on the fronts at batch size 1, all in one process by turns."""
    keys = list(dict.fromkeys([*study.searched_front["architecture"], *study.front["architecture"]]))
    if set(keys) <= set(study.latency):
        return
    modules = {key: build(study, study.find(key)) for key in keys}
    measured = compare_latency(modules, study.space.net.input_shape, device=device)
    write_json(
        study.folder / "latency.json",
        {
            key: {**latency_figures(latency), **{name: getattr(latency, name) for name in CONDITIONS}}
            for key, latency in measured.items()
        },
    )
