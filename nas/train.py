"""Training supernets in a run folder, and using those of another."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from estimators.latency import load_table
from nas.data import ImageData
from nas.pruning import PrunedNetwork, inputs_of, is_pruned, nest, pruned_space
from nas.runtime import (
    check_trust,
    checkpoint,
    fitting,
    half,
    ranks,
    read_tensors,
    replacing,
    resolve_device,
    torch_seed,
    write_json,
    write_text,
)
from nas.scoring import Shared, check_compares, contract, parent_path
from nas.strategies import STRATEGIES
from nas.study import (
    RunConfig,
    Study,
    build_space,
    configure,
    directed,
    load_task,
    named,
    options_for,
    parse_config,
    read_record,
    recorded_config,
    run_folder,
)
from nas.subnet import load_teacher
from nas.supernets import LARGEST, SAMPLERS, SupernetConfig, Supernets, make_learner
from nas.tasks import Task
from nas.training import Row, fit
from pruners.progress import Progress, silent
from search_spaces import SearchSpace
from search_spaces.core import keywords, save_tensors, takes

KEYWORDS = keywords(RunConfig)
ADJUSTABLE = [".".join(path) for keyword in KEYWORDS.values() if keyword.adjustable for path in keyword.paths]
ALWAYS = [path for path in ADJUSTABLE if not path.startswith(("supernets.", "alone."))]
"""Settings that may change whenever a run goes on; other adjustable ones only until its supernets are trained."""
ROUND_TO, AUTO = "round_to", "auto"
"""The option of a trained model's space whose default follows from the objectives."""
OF_TRAINING = ("space", "data", "task", "supernets", "seed", "device", "bfloat16", "log")
NOT_TRAINED_BY = [
    name
    for name, keyword in KEYWORDS.items()
    if name == "supernet" or not any(path[0] in OF_TRAINING for path in keyword.paths)
]
"""Settings of a search that training supernets has no use for."""
CPU = torch.device("cpu")
OnEpoch = Callable[[list[Row]], None]


@takes(RunConfig, leaving_out=NOT_TRAINED_BY)
def train(
    space: str | SearchSpace,
    data: str | Path | ImageData | Task | None = None,
    *,
    task: str | None = None,
    out: str | Path | None = None,
    progress: Progress = silent,
    on_epoch: OnEpoch | None = None,
    trust: bool = False,
    **settings: Any,
) -> Study:
    """Train the supernets of a space, to be used by `nas.search(..., supernet=FOLDER)`.

    Calling it again with the same arguments goes on where it was stopped. Until the last epoch, the second call may
    give another learning rate, say after the loss became infinite.

    In each of several processes that torchrun starts, they train together; the first one alone writes, and tells of progress.

    Args:
        space: a built-in space's name, `module:function`, or a SearchSpace.
        data: what `nas.data.load_data` takes, images already loaded, or a task of one's own, see `nas.tasks`.
        task: `module:function` that returns a task, in place of data.
        out: the run folder. Default: `runs/<space>-<data>-train-<sampler>-seed<seed>`.
        progress: told about long steps.
        on_epoch: given the history so far after each epoch.
        trust: import the function that the teacher's folder names, if it names one; see docs/trust.md.
        settings: by keyword; one supernet by default:{settings}

    Returns:
        The study. Its folder holds `supernets/checkpoint.safetensors`, and `supernets/history.csv` with a row per epoch and supernet.

    Raises:
        ValueError: a setting, the data or the folder do not fit; the message says what does.
        NotFinite: the loss is NaN or infinite; the checkpoint of the last good epoch stays.
    """
    for name in settings:
        if name in NOT_TRAINED_BY:
            raise ValueError(f"`{name}` is a setting of a search, not of training supernets; leave it out")
    supernets = settings.pop("supernets", 1)
    if supernets < 1:
        raise ValueError(f"`supernets` must be at least 1 to be trained, got {supernets}")
    given = named(data, task)
    config = configure(
        space if isinstance(space, str) else space.name,
        given.data,
        task=given.task,
        strategy="mixture" if supernets > 1 else "one-shot",
        supernets=supernets,
        **directed(settings, given.made),
    )
    folder = run_folder(config, f"train-{config.supernets.sampler}") if out is None else Path(out)
    own = None if isinstance(space, str) else space
    if not ranks.first():
        return help_train(config, folder, space=own, task=given.made, trust=trust)
    study, what, device = open_run(config, folder, space=own, task=given.made, trust=trust)
    assert what is not None
    with study.locked(), study.session(), half(config.bfloat16):
        train_supernets(study, what, device, study.log.listening(progress), on_epoch, trust)
    return study


def open_run(
    config: RunConfig,
    folder: Path,
    *,
    space: SearchSpace | None = None,
    task: Task | None = None,
    trust: bool = False,
) -> tuple[Study, Task | None, torch.device]:
    """Start a run folder or go on with it: the study, its task, if a function does not evaluate in its place, and its device.

    A run can go on with another budget, and until its supernets are trained at another learning rate. The functions that the
    configuration names are imported; one that a teacher's folder names only with `trust`.

    Raises:
        ValueError: the space, the task or the folder do not fit.
    """
    device = resolve_device(config.device)
    task, space, options = _made(config, folder, space, task)
    contract(space).check(config)
    if task is not None:
        for metric in config.measured:
            task.metric(metric.name)
        contract(space).check_task(task, config)
        if config.supernets.source is not None:
            _check_source(Path(config.supernets.source), space, task, config.supernets)
    trains = _in_training(config, folder)
    if trains and task is not None:
        _check_shares(config.supernets, task)
    if not (folder / "run.yaml").exists():
        if config.limits:
            contract(space).check_limits(config.limits)
        if config.start_from is not None:
            check_compares(config, None if task is None else {"fingerprint": task.fingerprint})
        if config.latency_table is not None:
            load_table(config.latency_table, space).check_covers(space)
        if trains and task is not None:
            _check_learner(config, space, task, device, trust)
    adjustable = ADJUSTABLE if trains else ALWAYS
    return Study.create(folder, config, space, task, options, adjustable), task, device


def help_train(
    config: RunConfig, folder: Path, *, space: SearchSpace | None, task: Task | None, trust: bool = False
) -> Study:
    """Train the supernets of a run with the first of several processes, which alone opens its folder, writes and warns.

    The data is loaded once the first process waits in `train_supernets`, and so has it. What is random in the networks themselves, such
    as dropout, is drawn anew in each process.
    """
    device = resolve_device(config.device)
    with warnings.catch_warnings(), ranks.joined(device), half(config.bfloat16):
        warnings.simplefilter("ignore")
        task, space, _ = _made(config, folder, space, task)
        assert task is not None
        study = Study(folder, config, space)
        torch.manual_seed(torch_seed(config.seed, "process", ranks.share().rank))
        train_supernets(study, task, device, silent, trust=trust)
    return study


def trains_shared(config: RunConfig) -> bool:
    """Whether a run has supernets, its own or those of another."""
    return config.supernets.count > 0 and bool(config.measured)


def _made(
    config: RunConfig, folder: Path, space: SearchSpace | None, task: Task | None
) -> tuple[Task | None, SearchSpace, dict[str, Any]]:
    """The task of a run, its space, and the options that the space is made with.

    What the widths of a trained model are multiples of is measured once, where milliseconds are searched for, and recorded.
    """
    task, name = task or load_task(config), config.space.name
    if space is not None:
        return task, space, dict(space.options)
    options = options_for(name, config.space.options, task)
    if not is_pruned(name) or not config.timed or options.get(ROUND_TO, AUTO) != AUTO:
        return task, build_space(name, options, task), options
    if (folder / "run.yaml").exists():
        options = {**options, ROUND_TO: read_record(folder)["space"]["options"].get(ROUND_TO, AUTO)}
        return task, build_space(name, options, task), options
    space = pruned_space(name, task, milliseconds=True, **options)
    assert isinstance(space.network, PrunedNetwork)
    return task, space, {**options, ROUND_TO: space.network.source.levels.recorded}


def train_supernets(
    study: Study,
    task: Task,
    device: torch.device,
    progress: Progress,
    on_epoch: OnEpoch | None = None,
    trust: bool = False,
) -> Supernets:
    """The trained supernets of a run. Training goes on from the run's checkpoint; supernets of another run are copied from there."""
    config = study.config
    path = _checkpoint(study.folder)
    first = ranks.first()
    if first and config.supernets.source is not None and not path.exists():
        with replacing(path) as temporary:
            shutil.copyfile(_checkpoint(Path(config.supernets.source)), temporary)

    def record(history: list[Row]) -> None:
        write_text(study.folder / "supernets" / "history.csv", pd.DataFrame(history).to_csv(index=False))
        study.log.epochs(history)
        if on_epoch:
            on_epoch(history)

    shared = config.supernets if config.supernets.source is None else _untaught(config.supernets)
    learner = _learner(study, task, device, shared, trust)
    with ranks.joined(device):
        fit(
            learner,
            task.train,
            config.supernets.training,
            seed=config.seed,
            device=device,
            path=path if first else None,
            name="supernets",
            progress=progress,
            on_epoch=record if first else None,
        )
    learner.team.use_averages_()
    return learner


def train_nested(study: Study, task: Task, device: torch.device, progress: Progress) -> PrunedNetwork:
    """The trained model of a run whose smaller models share what a nested training gave them; it goes on from its checkpoint."""
    path = parent_path(study.folder)
    network = _trained_model(study)
    if not path.exists():
        given = inputs_of(task.train, study.config.seed)
        length, unfinished = study.config.worth.length, path.with_suffix(".checkpoint")
        nested = nest(
            network.source,
            given,
            seconds=length.seconds,
            steps=length.steps,
            every_size=network.every_size,
            device=device,
            seed=study.config.seed,
            path=unfinished,
            progress=progress,
        )
        with replacing(path) as temporary:
            save_tensors(temporary, nested.space.model.state_dict())
        write_json(path.with_suffix(".json"), nested.did.to_dict())
        checkpoint.remove(unfinished)
    return _nested(study, network)


def _nested(study: Study, network: PrunedNetwork) -> PrunedNetwork:
    path = parent_path(study.folder)
    weights = read_tensors(path, f"remove it to train this part again: {path}")
    return replace(network, source=network.source.with_weights(weights))


def _trained_model(study: Study) -> PrunedNetwork:
    network = study.space.network
    assert isinstance(network, PrunedNetwork)
    return network


def load_shared(study: Study, task: Task, device: torch.device = CPU) -> Shared | None:
    """What the trials of a run take their weights from; None if it has nothing of the kind."""
    if study.config.worth.used == "supernet":
        return _nested(study, _trained_model(study)) if parent_path(study.folder).exists() else None
    return load_supernets(study, task, device)


def load_supernets(study: Study, task: Task, device: torch.device = CPU) -> Supernets | None:
    """The trained supernets of a run; None if it has none."""
    found = checkpoint.load(_checkpoint(study.folder))
    if found is None:
        return None
    learner = _learner(study, task, device, _untaught(study.config.supernets))
    path = _checkpoint(study.folder)
    with fitting(path, f"remove {path.parent} to train this part again"):
        learner.restore(found.tensors)
    learner.team.use_averages_()
    return learner


def adopt(config: RunConfig, *, space: bool = False, data: bool = False, trust: bool = False) -> RunConfig:
    """A configuration that takes its supernets' settings from the run in `supernets.source`, and that run's space and data if asked.

    Raises:
        FileNotFoundError: the source is no run folder.
        Untrusted: its space or its data are asked for, and are a function's, without `trust`.
    """
    source = config.supernets.source
    if source is None:
        return config
    theirs = recorded_config(Path(source))
    if space:
        check_trust(theirs.space.name, Path(source) / "run.yaml", trust=trust)
    if data and theirs.task is not None:
        check_trust(theirs.task, Path(source) / "run.yaml", trust=trust)
    supernets = theirs.supernets.model_copy(update={"source": source})
    strategy = config.strategy
    if STRATEGIES[strategy].ranked:
        strategy = "mixture" if supernets.count > 1 or STRATEGIES[theirs.strategy].mixture else "one-shot"
    update: dict[str, Any] = {"supernets": supernets, "strategy": strategy}
    update |= {"space": theirs.space} if space else {}
    update |= {"data": theirs.data, "task": theirs.task} if data else {}
    return parse_config(config.model_copy(update=update).model_dump())


def _untaught(shared: SupernetConfig) -> SupernetConfig:
    """Finished supernets need no teacher."""
    return shared.model_copy(update={"teacher": None})


def _learner(study: Study, task: Task, device: torch.device, shared: SupernetConfig, trust: bool = False) -> Supernets:
    seed, mixture = study.config.seed, STRATEGIES[study.config.strategy].mixture
    teacher = _teacher(shared, trust)
    return make_learner(shared, study.space, task, seed=seed, device=device, mixture=mixture, teacher=teacher)


def _check_learner(config: RunConfig, space: SearchSpace, task: Task, device: torch.device, trust: bool) -> None:
    """Make one supernet and drop it, so that errors appear before there is a run folder. One stands for all: making many is slow."""
    one = config.supernets.model_copy(update={"count": 1})
    splits_a_mixture = STRATEGIES[config.strategy].mixture and SAMPLERS[one.sampler].splits
    make_learner(
        one, space, task, seed=config.seed, device=device, mixture=splits_a_mixture, teacher=_teacher(one, trust)
    )


def _check_shares(shared: SupernetConfig, task: Task) -> None:
    """Refuse batches that several processes, and the subnets that share a batch, cannot divide evenly."""
    processes, entry = ranks.started().of, SAMPLERS[shared.sampler]
    if processes == 1:
        return
    subnets = (shared.subnets or entry.subnets or 1) if entry.shares_batch else 1
    size, unit = min(shared.training.batch_size, len(task.train)), processes * subnets
    if size % unit:
        among = f"{processes} processes" if subnets == 1 else f"{processes} processes with {subnets} subnets each"
        mend = f"`batch_size` {size - size % unit}" if size > unit else "fewer processes"
        raise ValueError(
            f"a batch must divide evenly among {among}, got {size} examples; use {mend}, of all processes together"
        )


def _teacher(shared: SupernetConfig, trust: bool) -> nn.Module | None:
    return None if shared.teacher in (None, LARGEST) else load_teacher(shared.teacher, trust=trust)


def _checkpoint(folder: Path) -> Path:
    return folder / "supernets" / "checkpoint.safetensors"


def _in_training(config: RunConfig, folder: Path) -> bool:
    """Whether supernets of a run's own are still to be trained, so that nothing was computed with them yet."""
    shared = config.supernets
    own = shared.count > 0 and shared.source is None and bool(config.measured)
    return own and _epochs_done(folder) < shared.training.epochs


def _epochs_done(folder: Path) -> int:
    """Of a run's supernets."""
    found = checkpoint.load(_checkpoint(folder))
    return 0 if found is None else found.state["epochs"]


def _check_source(folder: Path, space: SearchSpace, task: Task, shared: SupernetConfig) -> None:
    theirs = read_record(folder)
    for part, ours, name in (("space", space.fingerprint, space.name), ("data", task.fingerprint, task.name)):
        if theirs[part]["fingerprint"] != ours:
            raise ValueError(
                f"the supernets in {folder} were trained for another {part}, {theirs[part]['name']!r} as it was then and not {name!r} "
                f"as it is now; use the same {part}, options and seed"
            )
    epochs = _epochs_done(folder)
    if epochs < shared.training.epochs:
        raise ValueError(
            f"the supernets in {folder} must be trained to the end, got {epochs} of {shared.training.epochs} epochs; go on with "
            "`nas train` first"
        )
