"""Weight decay draws weights to zero, and leaves alone what it should."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nas.tasks import Task
from nas.training.alone import Alone
from nas.training.config import TrainingConfig
from nas.training.optimizer import make_optimizer
from search_spaces import make_space
from search_spaces.layers.elastic import ElasticBatchNorm2d, ElasticLayerNorm, ElasticLinear
from search_spaces.layers.elastic_conv import ElasticConv1d, ElasticConv2d, ElasticConvTranspose2d
from search_spaces.pooling import make_pooling
from tests.nas.samplers.test_basic import rng
from tests.nas.supernets.test_slices import CPU, HARD, batch, team, train

POOLED = {
    "choices": "width,depth,pooling",
    "depths": (1, 2),
    "width_ratios": (0.5, 1),
    "operators": ("tree",),
    "in_channels": 1,
    "image_size": 8,
}
LAYERS = {
    "conv": (lambda: nn.Conv2d(4, 4, 3), {"weight"}),
    "elastic conv": (lambda: ElasticConv2d(4, 4, 5, bias=True, transforms=(3,)), {"weight"}),
    "elastic conv of signals": (lambda: ElasticConv1d(4, 4, 5, bias=True, transforms=(3,)), {"weight"}),
    "elastic transposed conv": (lambda: ElasticConvTranspose2d(4, 4, 5, bias=True, transforms=(3,)), {"weight"}),
    "linear": (lambda: nn.Linear(4, 4), {"weight"}),
    "elastic linear": (lambda: ElasticLinear(4, 4), {"weight"}),
    "batch norm": (lambda: nn.BatchNorm2d(4), set()),
    "elastic batch norm": (lambda: ElasticBatchNorm2d(4), set()),
    "layer norm": (lambda: nn.LayerNorm(4), set()),
    "elastic layer norm": (lambda: ElasticLayerNorm(4), set()),
    **{
        name: (lambda name=name: make_pooling(name, 4), set()) for name in ("mixed", "gated", "tree", "adapool", "ggem")
    },
    "strided pooling": (lambda: make_pooling("conv", 4), {"weight"}),
}


@pytest.mark.parametrize("name", LAYERS)
def test_without_gradients_weights_shrink_and_what_is_spared_keeps_its_bits(name: str) -> None:
    make, decayed = LAYERS[name]
    module = make()
    before = {}
    for key, parameter in module.named_parameters():
        parameter.data.normal_()
        before[key], parameter.grad = parameter.detach().clone(), torch.zeros_like(parameter)
    make_optimizer(module, HARD).step()
    for key, parameter in module.named_parameters():
        if key in decayed:
            torch.testing.assert_close(parameter.detach(), before[key] * (1 - 0.1 * 0.1))
        else:
            assert torch.equal(parameter, before[key]), key


@pytest.mark.parametrize("seed", range(3))
def test_a_step_of_a_supernet_decays_what_one_of_the_extracted_network_does(seed: int) -> None:
    space = make_space("resnet-elastic", **POOLED)
    made, arch = team(space), space.sample(rng(seed))
    alone = made.members[0].supernet.extract(space.locals(arch))
    optimizer = make_optimizer(alone, HARD)
    images, labels = batch()
    F.cross_entropy(alone(images), labels).backward()
    optimizer.step()
    train(made, arch)
    again = made.members[0].supernet.extract(space.locals(arch))
    for (name, value), other in zip(alone.named_parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-6, msg=name)


def test_the_learning_rate_of_a_step_holds_for_all_parameters(task: Task) -> None:
    config = TrainingConfig(epochs=1, batch_size=16, momentum=0, weight_decay=0.1)
    learner = Alone(nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 10)), task, config, CPU)
    made = team(config=config)
    for parameters, step in (
        (list(learner.module.parameters()), lambda rate: learner.step(batch(), rate)),
        (list(made.members[0].supernet.parameters()), lambda rate: train(made, made.space.sample(rng()), rate=rate)),
    ):
        before = [parameter.detach().clone() for parameter in parameters]
        step(0.0)
        assert all(torch.equal(now, was) for now, was in zip(parameters, before, strict=True))
        step(0.1)
        assert any(not torch.equal(now, was) for now, was in zip(parameters, before, strict=True) if now.ndim < 2)
