"""Learners by configuration: a sampler, what goes with it, and one or several supernets."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import nn

from nas.batches import batches
from nas.budgets import Complexity, Performance
from nas.data import ImageData
from nas.device import memory_format
from nas.extremes import cheap_and_dear, extremes
from nas.functions import import_function
from nas.mixture import Mixture
from nas.narrowing import Narrowing
from nas.samplers import Delayed, Fair, Groups, Sampler, Sandwich, Uniform, nested
from nas.settings import LARGEST, SupernetConfig
from nas.shrinking import Progressive
from nas.splitting import Splitting, usual_splits
from nas.team import OneSupernet, Team, Watched
from nas.training import TrainingConfig
from nas.trust import teaches_by_function
from nas.updates import InPlace, Labels, Peers, Rule, Snapshot, Taught
from search_spaces import SearchSpace, Supernet

WATCHED = 256
OF_HEADS = ("uniform", "groups", "narrowing")
"""Samplers that serve several heads: their subnets learn from labels alone, and take a canonical form and choices that are no sizes."""
Supernets = OneSupernet | Mixture | Splitting


class Request(NamedTuple):
    """What a sampler is made from; `subnets` is None for its own number per step."""

    space: SearchSpace
    epochs: int
    seed: int
    subnets: int | None

    def or_its_own(self, number: int) -> int:
        return self.subnets or number


def _sandwich(ask: Request) -> Sandwich:
    return Sandwich(ask.space, *extremes(ask.space), ask.or_its_own(2))


def _delayed(ask: Request) -> Delayed:
    sandwich, start = _sandwich(ask), ask.epochs // 2
    if ask.epochs < 3:
        raise ValueError(
            f"sampler delayed trains the largest subnet alone first and then fades the others in: at least 3 epochs, got {ask.epochs}; "
            "use more, or sampler sandwich"
        )
    return Delayed(sandwich, start, over=max(1, min(10, (ask.epochs - start) // 2)))


def _groups(ask: Request) -> Groups:
    return Groups(ask.space, ask.or_its_own(4), opening=min(15, ask.epochs // 2))


MAKERS: dict[str, Callable[[Request], Sampler]] = {
    "uniform": lambda ask: Uniform(ask.space, ask.or_its_own(1)),
    "fair": lambda ask: Fair(ask.space),
    "sandwich": _sandwich,
    "progressive": lambda ask: Progressive(ask.space, extremes(ask.space)[1], ask.epochs),
    "delayed": _delayed,
    "sorted": lambda ask: nested(ask.space, ask.or_its_own(4)),
    "complexity": lambda ask: Complexity(ask.space, seed=ask.seed, subnets=ask.or_its_own(3)),
    "performance": lambda ask: Performance(ask.space, seed=ask.seed, subnets=ask.or_its_own(3)),
    "groups": _groups,
    "split": lambda ask: Uniform(ask.space),
    "narrowing": lambda ask: Narrowing(ask.space, ask.epochs, ask.seed),
}


@runtime_checkable
class Residual(Protocol):
    """A module whose residual branches can start at zero, which makes it the identity on its shortcuts."""

    def zero_residuals_(self) -> None: ...


def zero_residuals_(supernet: Supernet) -> None:
    """Let residual branches start at zero in every block that offers it, so that large and small subnets train at one learning rate.

    Reference: Yu et al., "BigNAS: Scaling Up Neural Architecture Search with Big Single-Stage Models", ECCV 2020, arXiv:2003.11142.
    """
    for module in supernet.modules():
        if isinstance(module, Residual):
            module.zero_residuals_()


def make_sampler(name: str, space: SearchSpace, *, epochs: int, seed: int, subnets: int | None = None) -> Sampler:
    """The sampler of that name.

    Args:
        name: one of `MAKERS`.
        space: what it draws from.
        epochs: of the training, which its phases share.
        seed: of what it prepares in advance.
        subnets: drawn at random per step; None for its own number.

    Raises:
        ValueError: the space cannot serve it; the message says why and what to use.
    """
    return MAKERS[name](Request(space, epochs, seed, subnets))


def make_learner(
    shared: SupernetConfig,
    space: SearchSpace,
    data: ImageData,
    *,
    seed: int,
    device: torch.device,
    mixture: bool,
    trust: bool = False,
) -> Supernets:
    """The untrained supernets of a run.

    Args:
        shared: how they are trained.
        space: the search space.
        data: its validation part feeds the averages of a mixture and the losses that the history follows.
        seed: decides everything random.
        device: where they train.
        mixture: make a mixture even of one supernet.
        trust: import the function that a teacher's folder names, if it names one.

    Raises:
        ValueError: the space cannot serve the sampler, or the teacher does not fit.
    """
    training = shared.training
    if space.net.heads > 1 and (shared.teacher is not None or shared.sampler not in OF_HEADS):
        raise ValueError(
            f"the heads of an ensemble learn from labels: {space.name!r} takes no `teacher` and the samplers {', '.join(OF_HEADS)}, "
            f"got teacher {shared.teacher} and {shared.sampler}"
        )
    sampler = make_sampler(shared.sampler, space, epochs=training.epochs, seed=seed, subnets=shared.subnets)
    team = Team(
        space,
        training,
        sampler,
        _rule(shared, sampler, space, device, trust),
        seed=seed,
        device=device,
        supernets=shared.count,
        split=isinstance(sampler, Groups),
        accumulate=shared.accumulate,
        ema=shared.ema,
        watched=_watched(space, data, device),
    )
    if isinstance(sampler, (Sandwich, Delayed)):
        for member in team.members:
            zero_residuals_(member.supernet)
            member.average_anew()
    if shared.sampler == "split":
        if mixture or shared.count > 1:
            raise ValueError(
                "sampler split makes supernets as it needs them; use strategy one-shot and one supernet to start"
            )
        return Splitting(team, data, usual_splits(space.size, training.epochs), device)
    return Mixture(team, data, shared.mixture, device) if mixture or shared.count > 1 else OneSupernet(team)


def load_teacher(name: str, *, trust: bool = False) -> nn.Module:
    """The network of `module:function`, or of a folder that `nas export` wrote, whose function, if it names one, needs `trust`.

    Raises:
        ValueError: there is no such function or folder, it gives no network, or it names a function that is not trusted.
    """
    if teaches_by_function(name):
        teacher = import_function(name)()
        if not isinstance(teacher, nn.Module):
            raise ValueError(f"teacher {name!r} must return a module, got {type(teacher).__name__}")
        return teacher
    from nas.export import load  # it makes learners itself

    return load(name, trust=trust)


def _watched(space: SearchSpace, data: ImageData, device: torch.device) -> Watched:
    archs = dict(zip(("smallest", "largest"), cheap_and_dear(space), strict=True))
    images, labels = next(batches(data.validation, data, min(WATCHED, len(data.validation)), device=device))
    return Watched(images.to(memory_format=memory_format(device)), labels, archs)


def _rule(shared: SupernetConfig, sampler: Sampler, space: SearchSpace, device: torch.device, trust: bool) -> Rule:
    training: TrainingConfig = shared.training
    if shared.teacher == LARGEST or (shared.teacher is None and isinstance(sampler, (Sandwich, Delayed))):
        return InPlace(training)
    if shared.teacher is None and isinstance(sampler, Progressive):
        return Snapshot(training, space.locals(sampler.largest), sampler.first)
    rule: Rule = Labels(training)
    if shared.teacher is not None:
        net, teacher = space.net, load_teacher(shared.teacher, trust=trust)
        rule = Taught(training, teacher, shared.distillation, device, net.input_shape, net.num_classes)
    return Peers(training, rule) if isinstance(sampler, Complexity) else rule
