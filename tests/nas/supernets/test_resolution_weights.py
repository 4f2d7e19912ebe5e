"""Weights per resolution that part: one set of weights at first, a set for each resolution in the end."""

from __future__ import annotations

import math

import pytest
import torch

from nas.supernets.config import SupernetConfig
from nas.supernets.make import make_learner
from nas.supernets.team import OneSupernet
from nas.tasks import Batch, Task
from nas.training.config import TrainingConfig
from search_spaces import SearchSpace, Supernet, make_space
from search_spaces.layers.resolution_weights import ByResolution

EPOCHS = 4


def pooling(weights: str) -> SearchSpace:
    return make_space("resnet20-pooling", in_channels=1, image_size=8, weights=weights)


def learner(weights: str, task: Task) -> OneSupernet:
    shared = SupernetConfig(training=TrainingConfig(epochs=EPOCHS, batch_size=8))
    made = make_learner(shared, pooling(weights), task, seed=0, device=torch.device("cpu"), mixture=False)
    assert isinstance(made, OneSupernet)
    return made


def sets(supernet: Supernet) -> dict[str, list[dict[str, torch.Tensor]]]:
    """The weights of each block, a dict for each resolution."""
    return {
        name: [part.state_dict() for part in block.sides.values()] if isinstance(block, ByResolution) else [block.state_dict()]
        for name, block in supernet.blocks.items()
    }  # fmt: skip


def images(seed: int) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    return Batch(torch.randn(8, 1, 8, 8, generator=rng), torch.randint(10, (8,), generator=rng))


def test_in_the_first_epoch_they_are_one_set_of_weights(task: Task) -> None:
    """To the last bit what a supernet of shared weights becomes in the same steps."""
    one, parting = learner("shared", task), learner("parting", task)
    with torch.no_grad():
        for name, block in one.members[0].supernet.blocks.items():
            block.load_state_dict(sets(parting.members[0].supernet)[name][0])
    for made in (one, parting):
        made.begin(0)
        for step in range(4):
            made.step(images(step), 0.1)
        made.end()
    for name, block in one.members[0].supernet.blocks.items():
        for own in sets(parting.members[0].supernet)[name]:
            assert all(torch.equal(own[key], value) for key, value in block.state_dict().items())


def test_they_part_afterwards(task: Task) -> None:
    made = learner("parting", task)
    made.begin(2)
    for step in range(2):
        made.step(images(step), 0.1)
    several = [own for own in sets(made.members[0].supernet).values() if len(own) > 1]
    assert several
    assert all(not torch.equal(a[key], b[key]) for a, b, *_ in several for key in a if key.endswith("weight"))


@pytest.mark.parametrize("done", [0.0, 0.25, 0.5, 0.9])
def test_a_share_of_the_others_gradients_is_added(done: float) -> None:
    space = pooling("parting")
    supernet = Supernet(space.net)
    own: dict[str, list[torch.Tensor | None]] = {}
    for arch in list(space.enumerate())[:5]:
        supernet(torch.randn(4, 1, 8, 8), space.locals(arch)).square().sum().backward()
    block = supernet.blocks["block4"]
    assert isinstance(block, ByResolution)
    for part in block.sides.values():
        for name, weight in part.named_parameters():
            own.setdefault(name, []).append(None if weight.grad is None else weight.grad.clone())
    assert any(gradient is None for gradients in own.values() for gradient in gradients)
    block.spread_gradients_(done)
    share = (1 + math.cos(math.pi * done)) / 2
    for name, gradients in own.items():
        total = sum(gradient for gradient in gradients if gradient is not None)
        for part, before in zip(block.sides.values(), gradients, strict=True):
            expected = (0 if before is None else before * (1 - share)) + share * total
            torch.testing.assert_close(part.get_parameter(name).grad, expected)


def test_sets_that_do_not_part_keep_their_gradients() -> None:
    space = pooling("per-resolution")
    supernet = Supernet(space.net)
    supernet(torch.randn(4, 1, 8, 8), space.locals(next(space.enumerate()))).sum().backward()
    before = [None if weight.grad is None else weight.grad.clone() for weight in supernet.parameters()]
    for block in supernet.blocks.values():
        if isinstance(block, ByResolution):
            block.spread_gradients_(0.5)
    for weight, gradient in zip(supernet.parameters(), before, strict=True):
        assert (weight.grad is None) == (gradient is None)
        assert gradient is None or torch.equal(weight.grad, gradient)  # type: ignore[arg-type]
