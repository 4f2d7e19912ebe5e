"""Update rules: what each subnet of a step learns from. The gradients of a step's subnets add up to one step of the optimiser."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from nas.runtime import memory_format
from nas.samplers import Draw
from nas.tasks import Batch, Goal
from nas.training import Distillation
from search_spaces import Supernet
from search_spaces.core import Local


@dataclass
class Step:
    """A batch, and the outputs, without gradient, of the subnets so far."""

    batch: Batch
    done: list[tuple[Draw, Any]] = field(default_factory=list)
    taught: Any = None

    def from_teacher(self, teacher: nn.Module) -> Any:
        """The teacher's outputs on the batch, computed once per step."""
        if self.taught is None:
            with torch.no_grad():
                self.taught = self.batch.call(teacher)
        return self.taught


class Rule(ABC):
    """The loss of one subnet; rules without memory implement `loss` alone.

    Args:
        goal: of the task.

    Attributes:
        spares_small: dropout regularises the largest subnet only.
    """

    spares_small = False

    def __init__(self, goal: Goal) -> None:
        self.goal = goal

    @abstractmethod
    def loss(self, draw: Draw, outputs: Any, step: Step) -> Tensor:
        """The loss of a subnet's outputs on the batch."""

    def begin(self, epoch: int, supernets: Sequence[Supernet]) -> None:  # noqa: B027
        """Called before the first step of an epoch."""

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint has to keep, by name."""
        return {}

    def restore(self, tensors: Mapping[str, Tensor], supernets: Sequence[Supernet]) -> None:  # noqa: B027
        """Go back to a checkpoint."""


class Labels(Rule):
    """Every subnet learns from the task: outputs are to fit the target."""

    def loss(self, draw: Draw, outputs: Any, step: Step) -> Tensor:
        return self.goal.loss(outputs, step.batch.target)


class InPlace(Labels):
    """The largest subnet learns from the task, the others from its predictions alone, and only it is regularised by dropout.

    Reference: Yu et al., "BigNAS: Scaling Up Neural Architecture Search with Big Single-Stage Models", ECCV 2020, arXiv:2003.11142.
    Differs: weight decay acts on all weights but those spared (`nas.training.make_optimizer`), as every step trains the largest subnet.
    """

    spares_small = True

    def loss(self, draw: Draw, outputs: Any, step: Step) -> Tensor:
        if draw.role == "max":
            return super().loss(draw, outputs, step)
        return self.goal.towards([next(done for other, done in step.done if other.role == "max")], outputs)


class Peers(Labels):
    """The smallest subnet learns from the mean prediction of the step's other subnets, and these from `others`.

    Reference: Tang et al., "ElasticViT: Conflict-aware Supernet Training for Deploying Fast Vision Transformer on Diverse Mobile
    Devices", ICCV 2023, arXiv:2303.09730.
    Differs: cross-entropy in place of the alpha-divergence.
    """

    def __init__(self, goal: Goal, others: Rule) -> None:
        super().__init__(goal)
        self.others = others

    def loss(self, draw: Draw, outputs: Any, step: Step) -> Tensor:
        if draw.role != "min" or not step.done:
            return self.others.loss(draw, outputs, step)
        return self.goal.towards([done for _, done in step.done], outputs)


class Taught(Labels):
    """Every subnet learns from the task and from a given network.

    Args:
        goal: of the task.
        teacher: a copy of it runs on `device` in eval mode; the given one is left as it is.
        distillation: the teacher's share.
        device: where it runs.
        batch: inputs on the CPU, of two examples.
        expected: what subnets put out for them, shapes that count.

    Raises:
        ValueError: the teacher does not take such inputs, or puts out something else.
    """

    def __init__(
        self,
        goal: Goal,
        teacher: nn.Module,
        distillation: Distillation,
        device: torch.device,
        batch: Batch,
        expected: Any,
    ) -> None:
        super().__init__(goal)
        own = copy.deepcopy(teacher).eval().requires_grad_(False).to("cpu")
        check_teacher(own, batch, expected)
        self.teacher = own.to(device, memory_format=memory_format(device))  # type: ignore[call-overload]
        self.distillation = distillation

    def loss(self, draw: Draw, outputs: Any, step: Step) -> Tensor:
        hard = super().loss(draw, outputs, step)
        return self.distillation.loss(self.goal, step.from_teacher(self.teacher), outputs, hard)


class Snapshot(Labels):
    """From epoch `start` on, subnets learn from the task and from the largest subnet as it was when that epoch began.

    Of several supernets the first one's largest subnet teaches all.

    Args:
        goal: of the task.
        largest: local choices of the largest subnet.
        start: the epoch that takes the snapshot.

    Reference: Cai et al., "Once-for-All: Train One Network and Specialize it for Efficient Deployment", ICLR 2020, arXiv:1908.09791.
    """

    def __init__(self, goal: Goal, largest: Sequence[Local], start: int) -> None:
        super().__init__(goal)
        self.largest, self.start = largest, start
        self.teacher: nn.Module | None = None

    def begin(self, epoch: int, supernets: Sequence[Supernet]) -> None:
        if epoch == self.start:
            self.teacher = self._extract(supernets)

    def loss(self, draw: Draw, outputs: Any, step: Step) -> Tensor:
        loss = super().loss(draw, outputs, step)
        if self.teacher is None:
            return loss
        return loss + self.goal.towards([step.from_teacher(self.teacher)], outputs)

    def tensors(self) -> dict[str, Tensor]:
        return {} if self.teacher is None else dict(self.teacher.state_dict())

    def restore(self, tensors: Mapping[str, Tensor], supernets: Sequence[Supernet]) -> None:
        self.teacher = self._extract(supernets) if tensors else None
        if self.teacher is not None:
            self.teacher.load_state_dict(tensors)

    def _extract(self, supernets: Sequence[Supernet]) -> nn.Module:
        """In training mode, as a supernet's running statistics are of no use and each batch has its own."""
        return supernets[0].extract(self.largest).requires_grad_(False).train()


def without_gradient(outputs: Any) -> Any:
    """The same outputs, detached."""
    return outputs.detach() if isinstance(outputs, Tensor) else tree_map_only(Tensor, Tensor.detach, outputs)


def check_teacher(teacher: nn.Module, batch: Batch, expected: Any) -> None:
    """Raise ValueError unless a network on the CPU in eval mode puts out the shapes of `expected` for a batch."""
    shapes = _shapes(batch.inputs)
    try:
        with torch.no_grad():
            outputs = batch.call(teacher)
    except Exception as error:  # a network may fail in any way on what it was not made for
        raise ValueError(
            f"the teacher must take the inputs of the task, {shapes}, but fails on them: {type(error).__name__}: {error}; use one made "
            "for such inputs"
        ) from error
    if (found := _shapes(outputs)) != (wanted := _shapes(expected)):
        raise ValueError(
            f"the teacher must put out what the networks of the space do, for each example {wanted}, got {found}; use one that was "
            "trained for the same task, on the same classes"
        )


def _shapes(x: Any) -> str:
    """Of the tensors of a structure, without the batch."""
    tensors = [leaf for leaf in tree_leaves(x) if isinstance(leaf, Tensor)]
    return ", ".join(f"{tuple(leaf.shape[1:])}" for leaf in tensors) or type(x).__name__
