"""AdamW on shared weights: it moves what a step uses and nothing else, and counts the steps of each element."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nas.runtime import checkpoint
from nas.supernets.config import SupernetConfig
from nas.supernets.make import make_learner
from nas.supernets.member import Member
from nas.supernets.partial_step import step_
from nas.supernets.slices import Box, Part, Scattered, Slices
from nas.supernets.team import Team
from nas.tasks import Task
from nas.training.alone import Alone
from nas.training.config import TrainingConfig
from nas.training.loop import fit
from search_spaces import Architecture, make_space
from tests.nas.samplers.test_basic import LARGE, SMALL, SPACE, rng
from tests.nas.supernets.test_slices import CPU, HARD, inside, team, train

ADAMW = TrainingConfig(epochs=1, batch_size=16, optimizer="adamw", weight_decay=0.1, clip=0.5)
SHAPE = (6, 5, 3)
PARTS: dict[str, Part] = {
    "first rows": Box((0, 0, 0), (4, 5, 3)),
    "the middle of two axes": Box((1, 0, 1), (5, 5, 2)),
    "scattered": Scattered(torch.arange(90).view(SHAPE) % 3 == 0),
}


def elements(part: Part) -> tuple[slice, ...] | Tensor:
    return part.slices if isinstance(part, Box) else part.mask


def outside(part: Part) -> Tensor:
    mask = torch.ones(SHAPE, dtype=torch.bool)
    mask[elements(part)] = False
    return mask


def made(betas: tuple[float, float] = (0.9, 0.999)) -> tuple[nn.Parameter, torch.optim.AdamW]:
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.randn(SHAPE))
    return parameter, torch.optim.AdamW([parameter], lr=0.01, betas=betas, weight_decay=0.1)


def take(optimizer: torch.optim.AdamW, parameter: nn.Parameter, gradient: Tensor, part: Part | None = None) -> None:
    """A step along a gradient that is zero where nothing is used."""
    parameter.grad = gradient.clone()
    if part is not None:
        parameter.grad[outside(part)] = 0
    step_(optimizer, {} if part is None else {parameter: part})


def moments(member: Member) -> dict[str, Tensor]:
    """Weights and what the optimiser remembers of each of their elements, by name."""
    found = {}
    for name, parameter in member.supernet.named_parameters():
        found[name] = parameter.detach().clone()
        for what, value in member.optimizer.state[parameter].items():
            found[f"{what} of {name}"] = value.expand(parameter.shape).clone()
    return found


@pytest.mark.parametrize("seed", range(4))
def test_a_step_of_adamw_moves_the_slice_and_leaves_every_other_bit(seed: int) -> None:
    taken = team(config=ADAMW)
    for arch in (LARGE, SPACE.sample(rng(100 + seed))):  # moments everywhere first
        train(taken, arch, rate=0.01)
    before, arch = moments(taken.members[0]), SPACE.sample(rng(seed))
    train(taken, arch, rate=0.01)
    after, masks = moments(taken.members[0]), inside(SPACE, taken.members[0].supernet, arch)
    assert sum(name.startswith("exp_avg_sq of") for name in before) == len(masks)
    for name, value in before.items():
        mask = masks[name.rpartition(" of ")[2]]
        assert torch.equal(value[~mask], after[name][~mask]), name
        assert not mask.any() or (value[mask] != after[name][mask]).float().mean() > 0.8, name


def test_it_would_leak_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Slices, "partial", lambda *_: {})
    taken = team(config=ADAMW)
    train(taken, LARGE)
    before = moments(taken.members[0])["blocks.block1.expand"]
    train(taken, SMALL)
    assert not torch.equal(before[4:], moments(taken.members[0])["blocks.block1.expand"][4:])


@pytest.mark.parametrize("beta", [0.0, 0.9])
@pytest.mark.parametrize("name", PARTS)
def test_a_part_takes_the_steps_of_torchs_adamw(name: str, beta: float) -> None:
    part = PARTS[name]
    parameter, optimizer = made((beta, 0.999))
    before = parameter.detach().clone()
    alone = nn.Parameter(before[elements(part)].clone())
    plain = torch.optim.AdamW([alone], lr=0.01, betas=(beta, 0.999), weight_decay=0.1)
    for _ in range(50):
        gradient = torch.randn(SHAPE)
        take(optimizer, parameter, gradient, part)
        alone.grad = gradient[elements(part)].clone()
        plain.step()
        torch.testing.assert_close(parameter.detach()[elements(part)], alone.detach(), rtol=1e-6, atol=1e-6)
    assert torch.equal(parameter[outside(part)], before[outside(part)])


@pytest.mark.parametrize("name", PARTS)
def test_elements_that_start_late_move_as_in_a_first_step_and_others_as_before(name: str) -> None:
    part = PARTS[name]
    late, (parameter, optimizer), (whole, plain) = outside(part), made(), made()
    optimizer.param_groups[0]["weight_decay"] = plain.param_groups[0]["weight_decay"] = 0.0
    for _ in range(1000):
        gradient = torch.randn(SHAPE)
        take(optimizer, parameter, gradient, part)
        whole.grad = gradient
        plain.step()
    before = parameter.detach().clone()
    for at in range(3):
        gradient = torch.randn(SHAPE)
        take(optimizer, parameter, gradient)
        if at == 0:
            torch.testing.assert_close((parameter.detach() - before)[late], -0.01 * gradient[late].sign())
        whole.grad = gradient
        plain.step()
    torch.testing.assert_close(parameter.detach()[~late], whole.detach()[~late], rtol=1e-5, atol=1e-5)


def test_what_moved_whole_at_first_counts_on_in_part() -> None:
    (parameter, optimizer), (whole, plain), part = made(), made(), PARTS["first rows"]
    for at in range(20):
        gradient = torch.randn(SHAPE)
        take(optimizer, parameter, gradient, part if at >= 10 else None)
        whole.grad = gradient
        plain.step()
    torch.testing.assert_close(parameter.detach()[:4], whole.detach()[:4], rtol=1e-6, atol=1e-6)
    counts = optimizer.state[parameter]["step"]
    assert counts.shape == (6, 1, 1) and counts.flatten().tolist() == [20] * 4 + [10] * 2


def test_counts_tell_apart_no_more_axes_than_parts_differ_in() -> None:
    parameter, optimizer = made()
    gradient = torch.randn(SHAPE)
    for part, size in (("first rows", (6, 1, 1)), ("the middle of two axes", (6, 1, 3)), ("scattered", SHAPE)):
        take(optimizer, parameter, gradient, PARTS[part])
        assert optimizer.state[parameter]["step"].shape == size
    expected = sum((~outside(part)).float() for part in PARTS.values())
    assert torch.equal(optimizer.state[parameter]["step"], expected)


def test_a_space_of_one_architecture_trains_as_torchs_adamw_does(task: Task) -> None:
    space = make_space("resnet-elastic", choices="depth", depths=(1,), in_channels=1, image_size=8)
    config = TrainingConfig(epochs=2, batch_size=64, optimizer="adamw", weight_decay=0.1, clip=1.0, warm_up=0.25)
    shared = make_learner(SupernetConfig(training=config), space, task, seed=0, device=CPU, mixture=False)
    (arch,) = space.enumerate()
    alone = Alone(shared.team.members[0].supernet.extract(space.locals(arch)), task, config, CPU)
    assert type(alone.optimizer) is torch.optim.AdamW
    for learner in (shared, alone):
        fit(learner, task.train, config, seed=0, device=CPU)
    again = shared.team.members[0].supernet.extract(space.locals(arch))
    for (name, value), other in zip(alone.module.named_parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("config", [ADAMW, HARD], ids=["adamw", "sgd"])
def test_a_supernet_goes_on_from_a_checkpoint_to_the_same_bits(config: TrainingConfig, tmp_path: Path) -> None:
    archs = [SPACE.sample(rng(seed)) for seed in range(8)]

    def run(taken: Team, archs: list[Architecture]) -> dict[str, Tensor]:
        for arch in archs:
            train(taken, arch, rate=0.01)
        return taken.tensors()

    whole = run(team(config=config), archs)
    checkpoint.save(tmp_path / "c", run(team(config=config), archs[:4]), {"epochs": 1, "history": []})
    found = checkpoint.load(tmp_path / "c")
    resumed = team(config=config)
    assert found is not None
    resumed.restore(found.tensors)
    again = run(resumed, archs[4:])
    assert whole.keys() == again.keys() and all(torch.equal(value, again[name]) for name, value in whole.items())


def test_gradients_of_a_step_are_clipped_together(monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []
    held = "nas.supernets.member.step_"

    def norm(optimizer: torch.optim.Optimizer, *_: object) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms.append(torch.cat([gradient.flatten() for gradient in gradients]).norm().item())

    monkeypatch.setattr(held, norm)
    for clip in (None, 0.01, 1e6):
        train(team(config=HARD.model_copy(update={"clip": clip})), LARGE, SMALL)
    assert norms[1] == pytest.approx(0.01, rel=1e-3) and norms[0] == norms[2] > 0.1
