"""No leakage: a step on a subnet moves what the subnet uses, and not one bit of anything else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nas.samplers.basic import Draw
from nas.supernets.member import Member
from nas.supernets.partial_step import step_
from nas.supernets.rules import Labels
from nas.supernets.slices import Box, Scattered, Slices, union, used
from nas.supernets.team import Team
from nas.tasks import Batch, Classes
from nas.training.config import TrainingConfig
from nas.training.optimizer import make_optimizer
from search_spaces import Architecture, SearchSpace, Supernet, make_space
from tests.elastic_toy import CHANNELS, elastic_space
from tests.nas.samplers.test_basic import LARGE, SPACE, rng

CPU = torch.device("cpu")
HARD = TrainingConfig(epochs=1, batch_size=16, learning_rate=0.1, momentum=0.9, weight_decay=0.1)


def batch(count: int = 16) -> Batch:
    torch.manual_seed(0)
    return Batch(torch.randn(count, 1, 8, 8), torch.randint(10, (count,)))


def team(space: SearchSpace = SPACE, config: TrainingConfig = HARD, **settings) -> Team:
    made = Team(space, config, None, Labels(Classes()), seed=0, device=CPU, **settings)  # type: ignore[arg-type]
    made.sampler = type(
        "Silent",
        (),
        {
            "begin": lambda *_: None,
            "sorts": lambda *_: False,
            "tell": lambda *_: None,
            "tensors": dict,
            "restore": lambda *_: None,
        },
    )()  # type: ignore[assignment]
    made.begin(0)
    return made


def train(made: Team, *archs: Architecture, rate: float = 0.1) -> None:
    made.step([0] * len(archs), [Draw(arch) for arch in archs], batch(), rate)


def state(member: Member) -> dict[str, Tensor]:
    weights = {name: value.clone() for name, value in member.supernet.named_parameters()}
    buffers = {
        f"momentum of {name}": member.optimizer.state[parameter]["momentum_buffer"].clone()
        for name, parameter in member.supernet.named_parameters()
        if "momentum_buffer" in member.optimizer.state.get(parameter, {})
    }
    return {**weights, **buffers}


def inside(space: SearchSpace, supernet: Supernet, arch: Architecture) -> dict[str, Tensor]:
    """Masks of what `arch` uses, found by cutting out a supernet whose weights are their own positions."""
    counted = Supernet(space.net).double()
    for parameter in counted.parameters():
        parameter.data.copy_(torch.arange(parameter.numel()).view(parameter.shape))
    cut = dict(counted.extract(space.locals(arch)).double().named_parameters())
    masks = {}
    for name, parameter in counted.named_parameters():
        mask = torch.zeros(parameter.numel(), dtype=torch.bool)
        plain = name.removeprefix("blocks.").replace(".body.", ".", 1)
        if plain in cut:
            mask[cut[plain].detach().long().flatten()] = True
        masks[name] = mask.view(parameter.shape)
    return masks


@pytest.mark.parametrize("seed", range(6))
def test_a_step_moves_the_slice_and_leaves_every_other_bit(seed: int) -> None:
    made = team()
    for arch in (LARGE, SPACE.sample(rng(100 + seed))):  # momentum everywhere first
        train(made, arch)
    before, arch = state(made.members[0]), SPACE.sample(rng(seed))
    train(made, arch)
    after, masks = state(made.members[0]), inside(SPACE, made.members[0].supernet, arch)
    for name, value in before.items():
        mask = masks[name.removeprefix("momentum of ")]
        assert torch.equal(value[~mask], after[name][~mask]), name
        assert (value[mask] != after[name][mask]).float().mean() > 0.8 if mask.any() else True, name


def test_it_would_leak_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Slices, "partial", lambda *_: {})
    made = team()
    train(made, LARGE)
    before = state(made.members[0])
    train(made, SPACE.architecture({"depth": 1, "width1": 2, "kernel1": 3}))
    assert not torch.equal(before["blocks.block1.expand"][4:], state(made.members[0])["blocks.block1.expand"][4:])


@pytest.mark.parametrize("seed", range(4))
def test_inside_its_slice_a_subnet_trains_as_it_would_alone(seed: int) -> None:
    made, arch = team(), SPACE.sample(rng(seed))
    alone = made.members[0].supernet.extract(SPACE.locals(arch))
    optimizer = make_optimizer(alone, HARD)
    for _ in range(3):
        train(made, arch)
        optimizer.zero_grad()
        images, labels = batch()
        nn.functional.cross_entropy(alone(images), labels).backward()
        optimizer.step()
    again = made.members[0].supernet.extract(SPACE.locals(arch))
    for (name, value), other in zip(alone.named_parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-6, msg=name)


def test_the_largest_subnet_trains_to_the_bit_as_plain_sgd_does() -> None:
    made = team()
    plain = Supernet(SPACE.net)
    plain.load_state_dict(made.members[0].supernet.state_dict())
    optimizer = make_optimizer(plain, HARD)
    for _ in range(3):
        train(made, LARGE)
        optimizer.zero_grad()
        images, labels = batch()
        nn.functional.cross_entropy(plain(images, SPACE.locals(LARGE)), labels).backward()
        optimizer.step()
    for (name, value), other in zip(plain.named_parameters(), made.members[0].supernet.parameters(), strict=True):
        assert torch.equal(value, other), name


def test_two_subnets_of_one_step_move_what_either_uses() -> None:
    made = team()
    train(made, LARGE)
    before = state(made.members[0])
    wide = SPACE.architecture({"depth": 1, "width1": 8, "kernel1": 1})
    large = SPACE.architecture({"depth": 1, "width1": 2, "kernel1": 3})
    train(made, wide, large)
    masks = [inside(SPACE, made.members[0].supernet, arch) for arch in (wide, large)]
    name = "blocks.block1.expand"
    either = masks[0][name] | masks[1][name]
    changed = before[name] != state(made.members[0])[name]
    assert not either.all() and not changed[~either].any() and changed[either].float().mean() > 0.8


def test_a_smaller_subnet_lies_within_a_larger_one() -> None:
    supernet = Supernet(SPACE.net)
    sizes = [{"depth": 1, "width1": 2, "kernel1": 1}, {"depth": 1, "width1": 4, "kernel1": 3}, dict(LARGE)]
    masks = [inside(SPACE, supernet, SPACE.architecture(size)) for size in sizes]
    for small, large in zip(masks, masks[1:], strict=False):
        assert all((large[name] | ~mask).all() for name, mask in small.items())
        assert sum(int(mask.sum()) for mask in small.values()) < sum(int(mask.sum()) for mask in large.values())


def test_the_part_that_a_block_uses_is_found() -> None:
    block = SPACE.net.blocks[1]
    found = used(block, (4, 1), (CHANNELS, 4, 4))
    assert found["expand"] == Box((0, 0, 1, 1), (4, CHANNELS, 2, 2))
    assert found["project"] == Box((0, 0, 0, 0), (CHANNELS, 4, 1, 1))
    assert used(block, None, (CHANNELS, 4, 4)) == {}
    united = union((8, CHANNELS, 3, 3), frozenset({found["expand"], Box((0, 0, 0, 0), (2, CHANNELS, 3, 3))}))
    assert isinstance(united, Scattered) and int(united.mask.sum()) == 2 * CHANNELS * 9 + 2 * CHANNELS


def test_a_head_uses_the_weights_of_its_operator_on_the_channels_that_come_in() -> None:
    head = make_space("resnet-elastic", choices="width,head", in_channels=1, image_size=8).net.blocks[-1]
    linear = {"body.classifier.0.weight": Box((0, 0), (10, 32)), "body.classifier.0.bias": Box((0,), (10,))}
    assert used(head, ("avg",), (32, 4, 4)) == linear
    assert used(head, ("gem",), (32, 4, 4)) == {**linear, "body.poolings.gem.log_p": Box((0,), (1,))}
    found = used(head, ("simpool",), (32, 4, 4))
    name = "body.poolings.simpool."
    matrices = {f"{name}{layer}.weight": Box((0, 0), (32, 32)) for layer in ("query", "key")}
    assert found == {**linear, **matrices, **{f"{name}norm.{end}": Box((0,), (32,)) for end in ("weight", "bias")}}


def test_a_space_without_slices_has_no_partial_parameters() -> None:
    space = make_space("resnet20-pooling", in_channels=1, image_size=8)
    slices = Slices(Supernet(space.net))
    assert all(slices.partial([space.locals(space.sample(rng(seed)))]) == {} for seed in range(5))


def test_scattered_elements_step_as_boxes_do() -> None:
    parameter, mask = nn.Parameter(torch.randn(4, 5)), torch.rand(4, 5) > 0.5
    expected = parameter.detach().clone()
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9, weight_decay=0.1)
    momentum = torch.zeros(4, 5)
    for _ in range(3):
        parameter.grad = torch.randn(4, 5)
        momentum = torch.where(mask, 0.9 * momentum + parameter.grad + 0.1 * expected, momentum)
        expected = torch.where(mask, expected - 0.1 * momentum, expected)
        step_(optimizer, {parameter: Scattered(mask)})
        torch.testing.assert_close(parameter.detach(), expected)
        assert torch.equal(parameter[~mask], expected[~mask])


def test_dropout_and_depth_do_not_hide_what_is_used() -> None:
    space = elastic_space(dropout=0.9)
    found = used(space.net.blocks[1], (8, 3), (CHANNELS, 4, 4))
    assert found["expand"] == Box((0,) * 4, (8, CHANNELS, 3, 3))
