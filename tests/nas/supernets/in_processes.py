"""Trains a small supernet by each sampler, alone or as one of several processes that torchrun's variables describe; in float64.

    python -m tests.nas.supernets.in_processes OUT

The first process writes the losses of the steps of each as JSON, and what its tensors have come to.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
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
SPACES = {
    "toy": elastic_space,  # norms by batch statistics, sliced
    "pooling": partial(make_space, "resnet20-pooling", bn="affine", image_size=8, in_channels=1),
    "parting": partial(make_space, "resnet20-pooling", weights="parting", image_size=8, in_channels=1),
    "elastic": partial(make_space, "resnet-elastic", choices="width", widths=(4, 8, 8), image_size=8, in_channels=1),
}
SERVED = {name: "toy" for name in SAMPLERS} | {
    "uniform": "parting", "split": "pooling", "mixture": "pooling", "groups": "elastic", "sandwich": "elastic",
}  # fmt: skip
"""What is trained by each sampler, or as a mixture: norms by batch statistics, with running ones, and those of slices."""
TRAINING = TrainingConfig(epochs=5, batch_size=16, learning_rate=0.05, weight_decay=1e-3, clip=5.0)


def in_double() -> None:
    """Let everything that is made or cast as float32 be float64."""
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]

    def cast(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in given)

    nn.modules.module.register_module_forward_pre_hook(cast)


def train(name: str) -> dict[str, Any]:
    """The losses of every step, and what weights, buffers and averages are at the end."""
    task = image_task(load_data("digits", seed=0, limit=160))
    mixture = name == "mixture"
    shared = SupernetConfig(
        sampler="uniform" if mixture else name,
        count=2 if mixture else 1,
        training=TRAINING,
        accumulate=1 + (name == "fair"),
    )
    space = SPACES[SERVED[name]]()
    learner = make_learner(shared, space, task, seed=0, device=CPU, mixture=mixture)
    losses: list[float] = []
    tell = learner.team.sampler.tell

    def note(draws: Sequence[Draw], found: Sequence[float]) -> None:
        losses.extend(found)
        tell(draws, found)

    learner.team.sampler.tell = note  # type: ignore[method-assign]
    fit(learner, task.train.head(64), TRAINING, seed=0, device=CPU)
    return {"losses": losses, "end": [x.double().norm().item() for x in learner.tensors().values()]}


def main(out: Path) -> None:
    torch.set_num_threads(1)
    in_double()
    with ranks.joined(CPU):
        found = {name: train(name) for name in SERVED}
    if ranks.first():
        out.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
