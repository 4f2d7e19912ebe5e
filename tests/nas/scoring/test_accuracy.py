"""An architecture whose outputs are NaN has failed: no metric makes a figure of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nas.scoring import SupernetScorer
from nas.study.config import RankingConfig
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
