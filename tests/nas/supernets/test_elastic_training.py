"""Every way of training a supernet, on the elastic spaces."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nas.samplers.basic import Draw
from nas.samplers.progressive import Progressive
from nas.supernets.config import SupernetConfig
from nas.supernets.make import make_learner
from nas.supernets.samplers import SAMPLERS
from nas.supernets.team import OneSupernet
from nas.tasks import Batch, Task
from nas.training.config import TrainingConfig
from nas.training.loop import fit
from search_spaces import SearchSpace, largest, make_space, smallest
from tests.nas.supernets.test_slices import inside, state

CPU = torch.device("cpu")
SMALL = {"in_channels": 1, "image_size": 8}
SPACES = {
    "resnet-elastic": {"width_ratios": (0.5, 1), "depths": (1, 2), **SMALL},
    "mobilenet-elastic": {
        "choices": "width,depth,kernel",
        "width_ratios": (0.25, 0.5),
        "depths": (1, 2),
        "kernels": (3, 5),
        **SMALL,
    },
}


@pytest.fixture(params=SPACES)
def space(request: pytest.FixtureRequest) -> SearchSpace:
    return make_space(request.param, **SPACES[request.param])


def learner(space: SearchSpace, task: Task, sampler: str, epochs: int = 1) -> OneSupernet:
    config = SupernetConfig(sampler=sampler, training=TrainingConfig(epochs=epochs, batch_size=64, weight_decay=1e-3))
    made = make_learner(config, space, task, seed=0, device=CPU, mixture=False)
    assert isinstance(made, OneSupernet)
    return made


DRAWN = [name for name in SAMPLERS if name not in ("split", "progressive", "narrowing")]
USUAL = ("uniform", "sandwich")


@pytest.mark.parametrize(
    ("name", "sampler"),
    [
        *(("resnet-elastic", sampler) for sampler in DRAWN),
        *(("mobilenet-elastic", sampler) for sampler in USUAL),
        *(
            pytest.param("mobilenet-elastic", sampler, marks=pytest.mark.slow)
            for sampler in DRAWN
            if sampler not in USUAL
        ),
    ],
)
def test_a_step_trains(name: str, task: Task, sampler: str) -> None:
    space = make_space(name, **SPACES[name])
    made = learner(space, task, sampler, epochs=3)
    made.begin(0)
    made.step(Batch(torch.randn(16, 1, 8, 8), torch.randint(0, 10, (16,))), 0.01)
    (row,) = made.end()
    assert np.isfinite(row["loss"]) and np.isfinite(row["loss_largest"]) and np.isfinite(row["loss_smallest"])


def test_progressive_shrinking_goes_through_its_stages(task: Task) -> None:
    space = make_space("resnet-elastic", **SPACES["resnet-elastic"])
    made = learner(space, task, "progressive", epochs=4)
    assert isinstance(made.team.sampler, Progressive) and len(made.team.sampler.stages) == 2
    history = fit(made, task.train, made.team.config, seed=0, device=CPU)
    assert len(history) == 4 and all(np.isfinite(row["loss"]) for row in history)


def test_what_a_subnet_does_not_use_keeps_its_bits(space: SearchSpace, task: Task) -> None:
    made = learner(space, task, "uniform")
    made.begin(0)
    for arch in (largest(space), smallest(space)):  # the first step gives everything momentum
        before = state(made.members[0])
        made.team.step([0], [Draw(arch)], Batch(torch.randn(8, 1, 8, 8), torch.randint(0, 10, (8,))), 0.1)
        made.team.settle()
    after = state(made.members[0])
    for name, mask in inside(space, made.members[0].supernet, smallest(space)).items():
        for which in (name, f"momentum of {name}"):
            assert torch.equal(after[which][~mask], before[which][~mask]), which
            assert not mask.any() or (after[which] != before[which]).any(), which
