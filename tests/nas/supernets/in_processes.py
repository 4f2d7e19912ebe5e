"""Trains small supernets by each sampler, once in one process and once in all that torchrun's variables tell of; in float64.

    python -m tests.nas.supernets.in_processes OUT

The first process writes the losses of all steps as JSON, and what tensors have come to.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas import load_data
from nas.runtime import ranks
from nas.samplers import Draw
from nas.supernets.config import SupernetConfig
from nas.supernets.make import make_learner
from nas.supernets.samplers import SAMPLERS
from nas.tasks import image_task
from nas.training import TrainingConfig, fit
from search_spaces import make_space
from tests.elastic_toy import elastic_space

CPU = torch.device("cpu")
small = partial(make_space, image_size=8, in_channels=1)
SPACES = {
    "toy": elastic_space,
    "placements": partial(small, "resnet20-pooling", bn="affine", weights="parting"),
    "widths": partial(small, "resnet-elastic", choices="width", widths=(4, 4, 4), width_ratios=(0.5, 1)),
}
CASES = [
    *(("toy", name, 5) for name in (*SAMPLERS, "mixture")),
    ("placements", "mixture", 1),
    ("widths", "groups", 1),
]
"""Space, sampler or a mixture, and epochs of four steps. The toy's norms have no running statistics; those of widths are sliced."""


def in_double() -> None:
    """Let all that is made or cast as float32 be float64."""
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]

    def cast(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in given)

    nn.modules.module.register_module_forward_pre_hook(cast)


def train(space: str, name: str, epochs: int) -> dict[str, list[float]]:
    """The losses of every step, and the norm of each tensor of the checkpoint."""
    task = image_task(load_data("digits", seed=0, limit=160))
    task = replace(task, train=task.train.head(32), validation=task.validation.head(7))
    training = TrainingConfig(epochs=epochs, batch_size=8, learning_rate=0.05, weight_decay=1e-3, clip=5.0)
    sampler, count = ("uniform", 2) if name == "mixture" else (name, 1)
    shared = SupernetConfig(sampler=sampler, count=count, training=training, accumulate=2 if name == "fair" else 1)
    learner = make_learner(shared, SPACES[space](), task, seed=0, device=CPU, mixture=count > 1)
    for weight in learner.members[0].supernet.parameters():
        if not weight.any():  # a residual branch that starts at zero would show nothing of its norms
            nn.init.constant_(weight, 0.5)
    losses: list[float] = []
    tell = learner.team.sampler.tell

    def note(draws: Sequence[Draw], found: Sequence[float]) -> None:
        losses.extend(found)
        tell(draws, found)

    learner.team.sampler.tell = note  # type: ignore[method-assign]
    fit(learner, task.train, training, seed=0, device=CPU)
    return {"losses": losses, "tensors": [x.double().norm().item() for x in learner.tensors().values()]}


def main(out: Path) -> None:
    torch.set_num_threads(1)
    in_double()
    alone = {" ".join(map(str, case)): train(*case) for case in CASES} if ranks.first() else {}
    with ranks.joined(CPU):
        together = {" ".join(map(str, case)): train(*case) for case in CASES}
    if ranks.first():
        out.write_text(json.dumps({name: [alone[name], together[name]] for name in alone}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
