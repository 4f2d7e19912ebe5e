"""What a search asks of a space: one contract, kept by spaces of untrained networks and by those of a trained model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Protocol

import torch
from torch import nn

from estimators import METRICS, PatchModel
from nas.objectives import PATCHED
from nas.pruning import PrunedNetwork, check_task
from nas.samplers import cheap_and_dear
from nas.scoring.accuracy import OneByOne, SupernetScorer, TrainedAlone
from nas.scoring.bounds import check_kept, within
from nas.scoring.costs import CostScorer, Figures, Scorer
from nas.scoring.weights import Steps, candidate, from_supernet, judged_on, repaired, shared
from nas.study import RunConfig, Study, WorthConfig
from nas.supernets import Supernets
from nas.tasks import Task
from pruners import PruningPlan
from pruners.progress import Progress, silent
from search_spaces import Architecture, SearchSpace
from search_spaces.core import smallest

Shared = Supernets | PrunedNetwork
"""What trials take weights from: supernets, or a trained model whose weights a nested training has shared."""


class Contract(Protocol):
    """What a space refuses, what its architectures cost, where a search starts, and what gives architectures their worth.

    Networks are built by `SearchSpace.build`, whatever the space.

    Attributes:
        source: where the weights of a network come from that was not trained alone.
        alone: how a network is trained alone, in words.
        trains: whether trials need training before they are worth anything.
        races: whether trials are judged on more examples only while they may stand on the front.
    """

    source: str
    alone: str
    trains: bool
    races: bool

    @property
    def parent(self) -> Architecture | None:
        """The architecture that the trained model itself is."""

    def check(self, config: RunConfig) -> None:
        """Raise ValueError for a configuration that does not fit the space."""

    def check_task(self, task: Task, config: RunConfig) -> None:
        """Raise ValueError for a task whose inputs its networks do not take, or whose loss does not take their outputs."""

    def check_limits(self, limits: Mapping[str, float]) -> None:
        """Raise ValueError where it is known before a search that no architecture keeps the limits."""

    @property
    def costs(self) -> Scorer:
        """What gives exact costs."""

    def timed(self, arch: Architecture) -> nn.Module:
        """A network of the architecture to measure the latency of; its weights say nothing."""

    def start(self) -> list[Architecture]:
        """Architectures that a strategy is told of first."""

    def worth(
        self, config: RunConfig, task: Task, names: Sequence[str], device: torch.device, learner: Shared | None
    ) -> Scorer:
        """What gives trials these metrics on the validation part; `learner` holds the run's trained supernets, if it has any."""

    def worth_in_words(self, config: RunConfig) -> str:
        """What the accuracy of a trial is of."""

    def weights(self, study: Study, arch: Architecture, task: Task | None, learner: Shared | None) -> nn.Module:
        """A network that was not trained alone, on the CPU in evaluation mode; ValueError if the run has no weights for it."""

    def plan(self, arch: Architecture) -> PruningPlan | None:
        """What was removed, of a smaller model of a trained one."""


def contract(space: SearchSpace) -> Contract:
    """The contract that a space keeps."""
    return TrainedModel(space, space.network) if isinstance(space.network, PrunedNetwork) else Untrained(space)


class Untrained:
    """Networks that start from random weights: supernets rank them, or each is trained alone."""

    source, alone, trains, races = "supernet", "from scratch", True, False

    def __init__(self, space: SearchSpace) -> None:
        self.space = space

    @property
    def parent(self) -> Architecture | None:
        return None

    def check(self, config: RunConfig) -> None:
        if config.worth != WorthConfig():
            raise ValueError(
                f"`worth` {config.worth.used} is of smaller models inside a trained one, got the space {self.space.name!r}; leave it "
                "out, or give a trained `model`"
            )
        if set((*config.objectives, *config.limits)) & set(PATCHED):
            PatchModel(self.space)

    def check_task(self, task: Task, config: RunConfig) -> None:
        net, name = self.space.net, self.space.name
        if config.data is None and config.task is not None:
            task.check(self.space.build(cheap_and_dear(self.space)[0]).eval())
        elif net.input_shape != task.input_shape or net.num_classes != task.outputs:
            raise ValueError(
                f"space {name!r} takes images of {net.input_shape} and {net.num_classes} classes, but {task.name!r} has "
                f"{task.input_shape} and {task.outputs}; make the space with the data's numbers"
            )

    def check_limits(self, limits: Mapping[str, float]) -> None:
        exact = {name: limit for name, limit in limits.items() if name in METRICS}
        check_kept(within(self.space, exact, [self.costs]), self.space, exact, [self.costs])

    @cached_property
    def costs(self) -> Scorer:
        return CostScorer(self.space)

    def timed(self, arch: Architecture) -> nn.Module:
        return self.space.build(arch)

    def start(self) -> list[Architecture]:
        return []

    def worth(
        self, config: RunConfig, task: Task, names: Sequence[str], device: torch.device, learner: Shared | None
    ) -> Scorer:
        if learner is not None:
            assert not isinstance(learner, PrunedNetwork)
            return SupernetScorer(learner, self.space, task, names, config.ranking)
        return TrainedAlone(self.space, task, names, config, device)

    def worth_in_words(self, config: RunConfig) -> str:
        return "its weights in the supernet" if config.supernets.count else "trained on training images"

    def weights(self, study: Study, arch: Architecture, task: Task | None, learner: Shared | None) -> nn.Module:
        assert task is not None and not isinstance(learner, PrunedNetwork)
        return from_supernet(study, arch, task, learner)

    def plan(self, arch: Architecture) -> PruningPlan | None:
        return None


class TrainedModel:
    """The smaller models inside a trained one: they keep their part of its weights."""

    source, alone, trains, races = "trained model", "further, from the weights that are left,", False, True

    def __init__(self, space: SearchSpace, network: PrunedNetwork) -> None:
        self.space, self.network, self.model = space, network, network.source

    @property
    def parent(self) -> Architecture | None:
        return self.model.whole

    def check(self, config: RunConfig) -> None:
        costs = (*config.objectives, *config.limits)
        if config.supernets.count or {"activations", *PATCHED} & set(costs):
            raise ValueError(
                f"{self.space.name!r} is a trained model: search it by a strategy that needs no supernets, with `supernets` 0, and "
                f"without activations, {' and '.join(PATCHED)}; got {config.strategy}, {config.supernets.count} and {', '.join(costs)}"
            )
        if config.worth.used != "repaired" and not config.measured:
            raise ValueError(
                f"`worth` {config.worth.used} trains on examples, got none that objectives are measured on; give `data` or a `task`, "
                "or leave it out"
            )

    def check_task(self, task: Task, config: RunConfig) -> None:
        check_task(self.model.model, task, self.model.kwargs or self.model.args, f"the model of {self.space.name!r}")

    def check_limits(self, limits: Mapping[str, float]) -> None:
        """Of exact costs, which the architecture of all smallest values has least of."""
        arch = smallest(self.space)
        (least,) = self.costs([arch], silent)
        beyond = [name for name, limit in limits.items() if name in least and least[name] > limit]
        if beyond:
            asked = " and ".join(f"{name} {limits[name]:,g}" for name in beyond)
            reach = " and ".join(f"{name} {least[name]:,}" for name in beyond)
            fixed = [group for group in self.model.found if group.protected]
            kept = (
                f"; {len(fixed)} groups are protected, such as {fixed[0].name}: {fixed[0].protected}" if fixed else ""
            )
            raise ValueError(
                f"no architecture of {self.space.name!r} has at most {asked}: the smallest has {reach}{kept}; allow more, or protect "
                "fewer groups"
            )

    def costs(self, archs: Sequence[Architecture], progress: Progress) -> list[Figures]:
        """Of the smaller models, without building them; with what the outputs lose, as scores estimate it, where they do."""
        estimates = [{"damage": self.model.damage(arch)} if self.model.of_outputs else {} for arch in archs]
        return [{**self.model.costs(arch), **damage} for arch, damage in zip(archs, estimates, strict=True)]

    def timed(self, arch: Architecture) -> nn.Module:
        return self.model.build(arch, check=False, every_size=False).model

    def start(self) -> list[Architecture]:
        """The trained model, then what loses least at each smaller size as scores estimate it, or the same share of every group."""
        if self.model.of_outputs:
            return self.model.front()
        return list(dict.fromkeys(self.model.uniform(step) for step in range(self.model.steps, 0, -1)))

    def worth(
        self, config: RunConfig, task: Task, names: Sequence[str], device: torch.device, learner: Shared | None
    ) -> Scorer:
        network = learner if isinstance(learner, PrunedNetwork) else self.network
        further = self._steps(config, task, device) if config.worth.used == "steps" else None

        def make(arch: Architecture, _: Progress) -> nn.Module:
            module = candidate(network, arch, task, config.seed)
            return (module if further is None or arch == self.model.whole else further(module)).to(device)

        return OneByOne(make, task, names, judged_on(task, config.seed))

    def worth_in_words(self, config: RunConfig) -> str:
        made_up = "" if self.model.batches is None else ", each layer making up for what it lost"
        gathered, length = ", batch statistics gathered again", config.worth.length
        if config.worth.used == "repaired":
            return f"the weights that are left{made_up}{gathered}"
        if config.worth.used == "steps":
            return f"the weights that are left{made_up}, trained towards the trained model for {length}"
        return f"its weights of a nested training of {length} that all share{made_up}{gathered}"

    def weights(self, study: Study, arch: Architecture, task: Task | None, learner: Shared | None) -> nn.Module:
        if task is None:
            return self.space.build(arch)
        config = study.config
        if isinstance(learner, PrunedNetwork):
            return shared(learner, arch, task, config.seed)
        found = repaired(self.network, arch, task, config.seed).model
        if config.worth.used == "steps" and arch != self.model.whole:
            self._steps(config, task, torch.device("cpu"))(found)
        return found

    def _steps(self, config: RunConfig, task: Task, device: torch.device) -> Steps:
        start = self.start()
        steps = config.worth.length.steps
        assert steps is not None
        return Steps(self.network, task, steps, config.seed, device, start[len(start) // 2])

    def plan(self, arch: Architecture) -> PruningPlan | None:
        return self.network.result(arch).plan
