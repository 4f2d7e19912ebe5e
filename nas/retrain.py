"""Networks of their own: the architectures worth it, trained from scratch on all training examples."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from nas.engines import Job, Result, Workers, results
from nas.objectives import worst_if_nan
from nas.runtime import checkpoint, fill, read_tensors, replacing, torch_seed
from nas.scoring import reason
from nas.study import ALONE, Study
from nas.tasks import Task
from nas.training import Alone, fit, measure, warn_of_chance
from pruners.progress import Progress
from search_spaces import Architecture
from search_spaces.core import save_tensors

AGAIN = "remove it, and resume the search, to train the network again"


class Trained(NamedTuple):
    """A network trained alone: its test figures by metric, and notes; the file of its weights, if the run folder lacks it."""

    figures: Mapping[str, float]
    notes: Mapping[str, Any]
    weights: bytes | None = None


def retrain(study: Study, task: Task, workers: Workers, progress: Progress) -> None:
    """Train what the configuration asks for alone, and write test figures (of the last epoch) to the journal.

    Networks that the journal knows are not trained again, unless their weights are gone, nor those that failed: one of them does
    not end the run.

    Args:
        study: the run.
        task: of the run.
        workers: train, by `train_alone` of their state.
        progress: told about networks.

    Raises:
        ValueError: all have failed.
        OSError: a file cannot be read or written.
    """
    wanted = [(arch, seed) for arch in _wanted(study) for seed in range(study.config.alone.seeds)]
    trained = {(row.architecture, row.seed) for row in study.alone.itertuples()}
    failed = {(row.architecture, row.seed) for row in study.failed_alone.itertuples()}
    there = {(a.key, seed) for a, seed in wanted if (a.key, seed) in trained and weights_path(study, a, seed).exists()}
    new = [(arch, seed) for arch, seed in wanted if (arch.key, seed) not in there | failed]
    before = len(wanted) - len(new)
    progress("training alone", before, len(wanted))

    def told(done: float) -> None:
        progress("training alone", before + done, len(wanted))

    for over, (place, result) in enumerate(results(workers, (Job("train_alone", each) for each in new), told), start=1):
        if isinstance(result.error, OSError):
            raise result.error
        if result.error is None:
            _write(study, *new[place], result.value, {} if workers.count == 1 else result.origin, task)
        else:
            _fail(study, *new[place], result)
        told(over)
    _tell_failed(study, wanted)


def weights_path(study: Study, arch: Architecture, seed: int = 0) -> Path:
    """Where the weights of a network trained alone stand."""
    return study.place("alone", arch) / f"seed{seed}.safetensors"


def build(study: Study, arch: Architecture) -> nn.Module:
    """The network trained alone with the run's first seed, on the CPU in evaluation mode; untrained where none was trained."""
    module = study.space.build(arch)
    path = weights_path(study, arch)
    if path.exists():
        fill(module, read_tensors(path, AGAIN), path, AGAIN)
    return module.eval()


def train_one(
    study: Study, arch: Architecture, seed: int, task: Task, device: torch.device, progress: Progress
) -> Trained:
    """Train one architecture with one seed, and leave its weights in the run folder, beside the checkpoint of its last epoch."""
    config = study.config
    path = weights_path(study, arch, seed)
    module = study.space.build(arch, torch_seed(config.seed, "alone", arch.key, seed))
    trained = cast(nn.Module, torch.compile(module)) if config.alone.compile else module
    history = fit(
        Alone(trained, task, config.alone.training, device),
        task.training,
        config.alone.training,
        seed=torch_seed(config.seed, "alone batches", seed),
        device=device,
        path=_unfinished(path),
        progress=progress,
    )
    found = measure(module, task, task.test, [metric.name for metric in study.metrics])
    with replacing(path) as temporary:
        save_tensors(temporary, module.state_dict())
    notes = {
        "seed": seed,
        "seconds": round(sum(row["seconds"] for row in history), 2),
        "loss": [round(row["loss"], 5) for row in history],
    }
    return Trained(found, notes)


def carried(study: Study, arch: Architecture, seed: int, trained: Trained) -> Trained:
    """What was trained in a folder of a worker's own, with its weights, which leave the folder."""
    path = weights_path(study, arch, seed)
    weights = path.read_bytes()
    path.unlink()
    checkpoint.remove(_unfinished(path))
    return trained._replace(weights=weights)


def _write(
    study: Study, arch: Architecture, seed: int, trained: Trained, origin: Mapping[str, str], task: Task
) -> None:
    """Write down a network whose weights are there or come with it; its checkpoint is needed no more."""
    found = trained.figures
    if trained.weights is not None:
        with replacing(weights_path(study, arch, seed)) as temporary:
            temporary.write_bytes(trained.weights)
    study.add(
        ALONE, arch, [worst_if_nan(found[metric.name], metric) for metric in study.metrics], {**trained.notes, **origin}
    )
    checkpoint.remove(_unfinished(weights_path(study, arch, seed)))
    if task.main.name in found:
        warn_of_chance(found[task.main.name], task, task.test, study.space.label(arch))


def _fail(study: Study, arch: Architecture, seed: int, result: Result) -> None:
    """Write down a network that failed."""
    assert result.error is not None
    study.add(ALONE, arch, None, {"seed": seed, "reason": reason(result.error), "seconds": result.seconds})


def _tell_failed(study: Study, wanted: Sequence[tuple[Architecture, int]]) -> None:
    """Warn of networks that failed; an error where all did."""
    failed = study.failed_alone
    if failed.empty:
        return
    first = failed.iloc[0]
    text = (
        f"{len(failed)} of {len(wanted)} networks failed in training alone, such as {first['label']} with seed {first['seed']}: "
        f"{first['reason']}"
    )
    if study.alone.empty:
        kept = f", where `supernet` {study.folder} keeps the supernets" if study.config.supernets.count else ""
        raise ValueError(f"{text}; mend what fails, such as a lower `learning_rate`, in another folder{kept}")
    warnings.warn(f"{text}; they are left out of the front", stacklevel=3)


def _unfinished(weights: Path) -> Path:
    """The checkpoint of a network in training."""
    return weights.with_suffix(".checkpoint")


def _wanted(study: Study) -> Sequence[Architecture]:
    which = study.config.alone.which
    if which == "none":
        return []
    table = study.searched_front if which == "front" else study.trials
    return [study.find(key) for key in table["architecture"]]
