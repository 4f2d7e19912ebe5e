"""Networks of their own: the architectures worth it, trained from scratch on all training examples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from torch import nn

from nas.objectives import worst_if_nan
from nas.runtime import checkpoint, fill, read_tensors, replacing, torch_seed
from nas.study import ALONE, Study
from nas.tasks import Task
from nas.training import Alone, fit, measure, warn_of_chance
from pruners.progress import Progress
from search_spaces import Architecture
from search_spaces.core import save_tensors

AGAIN = "remove it, and resume the search, to train the network again"


def retrain(study: Study, task: Task, device: torch.device, progress: Progress) -> None:
    """Train what the configuration asks for alone, and write test figures (of the last epoch) to the journal.

    Networks that the journal knows are not trained again, unless their weights are gone.
    """
    wanted = [(arch, seed) for arch in _wanted(study) for seed in range(study.config.alone.seeds)]
    known = {(row.architecture, row.seed) for row in study.alone.itertuples()}
    for number, (arch, seed) in enumerate(wanted):

        def inner(step: str, done: float, total: float, number: int = number) -> None:
            progress("training alone", number + done / total, len(wanted))

        if (arch.key, seed) not in known or not weights_path(study, arch, seed).exists():
            train_one(study, arch, seed, task, device, inner)
        inner("", 1, 1)


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
) -> None:
    """Train one architecture with one seed, and write down its weights and its test figures."""
    config = study.config
    path = weights_path(study, arch, seed)
    unfinished = path.with_suffix(".checkpoint")
    module = study.space.build(arch, torch_seed(config.seed, "alone", arch.key, seed))
    trained = cast(nn.Module, torch.compile(module)) if config.alone.compile else module
    history = fit(
        Alone(trained, task, config.alone.training, device),
        task.training,
        config.alone.training,
        seed=torch_seed(config.seed, "alone batches", seed),
        device=device,
        path=unfinished,
        progress=progress,
    )
    names = [metric.name for metric in study.metrics]
    found = measure(module, task, task.test, names)
    with replacing(path) as temporary:
        save_tensors(temporary, module.state_dict())
    notes = {
        "seed": seed,
        "seconds": round(sum(row["seconds"] for row in history), 2),
        "loss": [round(row["loss"], 5) for row in history],
    }
    study.add(ALONE, arch, [worst_if_nan(found[metric.name], metric) for metric in study.metrics], notes)
    checkpoint.remove(unfinished)
    if task.main.name in found:
        warn_of_chance(found[task.main.name], task, task.test, study.space.label(arch))


def _wanted(study: Study) -> Sequence[Architecture]:
    which = study.config.alone.which
    if which == "none":
        return []
    table = study.searched_front if which == "front" else study.trials
    return [study.find(key) for key in table["architecture"]]
