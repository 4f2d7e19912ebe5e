"""Learners by configuration: a sampler, what goes with it, and one or several supernets."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import nn

from nas.samplers import Sampler, cheap_and_dear
from nas.supernets.config import LARGEST, SupernetConfig
from nas.supernets.mixture import Mixture
from nas.supernets.rules import Rule, Taught
from nas.supernets.samplers import SAMPLERS, Learning, Request, names_with, plain
from nas.supernets.splitting import Splitting, usual_splits
from nas.supernets.team import OneSupernet, Team, Watched
from nas.tasks import Goal, Task
from search_spaces import SearchSpace, Supernet

WATCHED = 256
Supernets = OneSupernet | Mixture | Splitting


@runtime_checkable
class Residual(Protocol):
    """A module whose residual branches can start at zero, which makes it the identity on its shortcuts."""

    def zero_residuals_(self) -> None: ...


def zero_residuals_(supernet: Supernet) -> None:
    """Start residual branches at zero in every block that can, so that large and small subnets train at the same learning rate.

    Reference: Yu et al., "BigNAS: Scaling Up Neural Architecture Search with Big Single-Stage Models", ECCV 2020, arXiv:2003.11142.
    """
    for module in supernet.modules():
        if isinstance(module, Residual):
            module.zero_residuals_()


def make_sampler(name: str, space: SearchSpace, *, epochs: int, seed: int, subnets: int | None = None) -> Sampler:
    """The sampler of that name.

    Args:
        name: one of `SAMPLERS`.
        space: what it draws from.
        epochs: of the training, which its phases share.
        seed: of what it prepares in advance.
        subnets: drawn at random per step; None for its own number.

    Raises:
        ValueError: the space cannot serve it; the message says why and what to use.
    """
    entry = SAMPLERS[name]
    return entry.make(Request(space, epochs, seed, subnets or entry.subnets or 1))


def make_learner(
    shared: SupernetConfig,
    space: SearchSpace,
    task: Task,
    *,
    seed: int,
    device: torch.device,
    mixture: bool,
    teacher: nn.Module | None = None,
) -> Supernets:
    """The untrained supernets of a run.

    Args:
        shared: how they are trained.
        space: the search space.
        task: what is learnt; its validation part feeds the averages of a mixture and the losses that the history follows.
        seed: decides everything random.
        device: where they train.
        mixture: make a mixture even of one supernet.
        teacher: the network that `shared.teacher` names, unless that is `largest`.

    Raises:
        ValueError: the space cannot serve the sampler, or the teacher does not fit.
    """
    training, entry = shared.training, SAMPLERS[shared.sampler]
    if space.net.heads > 1 and (shared.teacher is not None or not entry.serves_heads):
        serve = ", ".join(names_with(lambda other: other.serves_heads))
        raise ValueError(
            f"the heads of an ensemble learn from labels: {space.name!r} takes no `teacher` and the samplers {serve}, "
            f"got teacher {shared.teacher} and {shared.sampler}"
        )
    goal = task.goal.smoothed(training.label_smoothing)
    if task.step is not None and (entry.rule is not plain or teacher is not None):
        serve = ", ".join(names_with(lambda other: other.rule is plain))
        raise ValueError(
            f"a task with a step of its own is learnt by the samplers {serve}, without a teacher, got {shared.sampler}; use one of them"
        )
    sampler = make_sampler(shared.sampler, space, epochs=training.epochs, seed=seed, subnets=shared.subnets)
    team = Team(
        space,
        training,
        sampler,
        entry.rule(Learning(goal, space, _taught(shared, space, task, goal, device, teacher)), sampler),
        task.step,
        seed=seed,
        device=device,
        supernets=shared.count,
        split=entry.shares_batch,
        accumulate=shared.accumulate,
        ema=shared.ema,
        watched=_watched(space, task, device),
    )
    if entry.trains_largest:
        for member in team.members:
            zero_residuals_(member.supernet)
            member.average_anew()
    if entry.splits:
        if mixture or shared.count > 1:
            raise ValueError(
                f"sampler {shared.sampler} makes supernets as it needs them; use strategy one-shot and one supernet to start"
            )
        return Splitting(team, task, usual_splits(space.size, training.epochs), device)
    return Mixture(team, task, shared.mixture, device) if mixture or shared.count > 1 else OneSupernet(team)


def _watched(space: SearchSpace, task: Task, device: torch.device) -> Watched:
    archs = dict(zip(("smallest", "largest"), cheap_and_dear(space), strict=True))
    return Watched(next(task.validation.batches(min(WATCHED, len(task.validation)), device=device)), archs)


def _taught(
    shared: SupernetConfig, space: SearchSpace, task: Task, goal: Goal, device: torch.device, teacher: nn.Module | None
) -> Rule | None:
    """The rule of a given teacher, if there is one."""
    assert (teacher is None) == (shared.teacher in (None, LARGEST)), "a given teacher is handed over as a module"
    if teacher is None:
        return None
    batch = task.example
    with torch.no_grad():
        expected = batch.call(space.build(cheap_and_dear(space)[0]).eval())
    return Taught(goal, teacher, shared.distillation, device, batch, expected)
