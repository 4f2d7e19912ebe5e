"""An architecture whose outputs are NaN has failed: no metric makes a figure of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nas.scoring import SupernetScorer
from nas.study import RankingConfig
from nas.supernets.config import SupernetConfig
from nas.supernets.make import make_learner
from nas.tasks import Task
from nas.training import NotFinite, measure
from pruners.progress import silent
from search_spaces import make_space

CPU = torch.device("cpu")
SPACE = make_space("resnet20-pooling", in_channels=1, image_size=8)


def test_nan_is_no_chance(task: Task) -> None:
    learner = make_learner(SupernetConfig(count=2), SPACE, task, seed=0, device=CPU, mixture=True)
    score = SupernetScorer(learner, SPACE, task, ["accuracy"], RankingConfig())
    archs = [SPACE.sample(np.random.default_rng(seed)) for seed in range(3)]
    whole = score(archs, silent)
    with torch.no_grad():
        next(learner.members[0].supernet.parameters()).fill_(torch.nan)
    for figures, before in zip(score(archs, silent), whole, strict=True):
        assert figures["accuracy"] == before["accuracy_supernet1"] and "accuracy_supernet0" not in figures
    with torch.no_grad():
        next(learner.members[1].supernet.parameters()).fill_(torch.nan)
    assert score(archs, silent) == [{"reason": "NotFinite: outputs must be numbers, got NaN"}] * 3
    module = learner.members[0].supernet.extract(SPACE.locals(archs[0]))
    with pytest.raises(NotFinite, match="got NaN"):
        measure(module, task, task.test)


class Hungry(nn.Module):
    """Has no memory for more than 30 examples."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 30:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.last(x.flatten(1))


def test_measuring_takes_as_many_examples_as_there_is_memory_for(task: Task) -> None:
    torch.manual_seed(0)
    module = Hungry()
    with pytest.warns(UserWarning) as told:
        found = measure(module, task, task.test, batch_size=100)
    assert [str(each.message).partition("memory for ")[2] for each in told] == [
        "100 examples at a time; measuring goes on with 50",
        "50 examples at a time; measuring goes on with 25",
    ]
    assert found == measure(module, task, task.test, batch_size=25) and module.training
