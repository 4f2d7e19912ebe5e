"""Update rules: what each subnet of a step learns from. The gradients of a step's subnets add up to one step of the optimiser."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.runtime import memory_format
from nas.samplers import Draw
from nas.training import Distillation, TrainingConfig, cross_entropy
from search_spaces import Supernet
from search_spaces.core import Local


@dataclass
class Step:
    """A batch of B images [B, C, H, W] with labels [B], and the logits [B, classes], without gradient, of the subnets so far."""

    images: Tensor
    labels: Tensor
    done: list[tuple[Draw, Tensor]] = field(default_factory=list)
    taught: Tensor | None = None

    def from_teacher(self, teacher: nn.Module) -> Tensor:
        """The teacher's logits on the batch, computed once per step."""
        if self.taught is None:
            with torch.no_grad():
                self.taught = teacher(self.images)
        return self.taught


class Rule(ABC):
    """The loss of one subnet; rules without memory implement `loss` alone.

    Attributes:
        spares_small: dropout regularises the largest subnet only.
    """

    spares_small = False

    @abstractmethod
    def loss(self, draw: Draw, logits: Tensor, step: Step) -> Tensor:
        """The loss of a subnet's logits [B, classes]."""

    def begin(self, epoch: int, supernets: Sequence[Supernet]) -> None:  # noqa: B027
        """Called before the first step of an epoch."""

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint has to keep, by name."""
        return {}

    def restore(self, tensors: Mapping[str, Tensor], supernets: Sequence[Supernet]) -> None:  # noqa: B027
        """Go back to a checkpoint."""


class Labels(Rule):
    """Every subnet learns from the labels."""

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config

    def loss(self, draw: Draw, logits: Tensor, step: Step) -> Tensor:
        return cross_entropy(logits, step.labels, self.config)


class InPlace(Labels):
    """The largest subnet learns from the labels, the others from its predictions alone, and only it is regularised by dropout.

    Reference: Yu et al., "BigNAS: Scaling Up Neural Architecture Search with Big Single-Stage Models", ECCV 2020, arXiv:2003.11142.
    Differs: weight decay acts on all weights but those spared (`nas.training.make_optimizer`), as every step trains the largest subnet.
    """

    spares_small = True

    def loss(self, draw: Draw, logits: Tensor, step: Step) -> Tensor:
        if draw.role == "max":
            return super().loss(draw, logits, step)
        return soft_cross_entropy(next(done for other, done in step.done if other.role == "max"), logits)


class Peers(Labels):
    """The smallest subnet learns from the mean prediction of the step's other subnets, and these from `others`.

    Reference: Tang et al., "ElasticViT: Conflict-aware Supernet Training for Deploying Fast Vision Transformer on Diverse Mobile
    Devices", ICCV 2023, arXiv:2303.09730.
    Differs: cross-entropy in place of the alpha-divergence.
    """

    def __init__(self, config: TrainingConfig, others: Rule) -> None:
        super().__init__(config)
        self.others = others

    def loss(self, draw: Draw, logits: Tensor, step: Step) -> Tensor:
        if draw.role != "min" or not step.done:
            return self.others.loss(draw, logits, step)
        chances = torch.stack([done.float().softmax(dim=1) for _, done in step.done]).mean(0)
        return F.cross_entropy(logits.float(), chances)


class Taught(Labels):
    """Every subnet learns from the labels and from a given network.

    Args:
        config: label smoothing.
        teacher: a copy of it runs on `device` in eval mode; the given one is left as it is.
        distillation: the teacher's share.
        device: where it runs.
        shape: of an image, (channels, height, width).
        num_classes: of the labels.

    Raises:
        ValueError: the teacher does not take such images, or has other classes.
    """

    def __init__(
        self,
        config: TrainingConfig,
        teacher: nn.Module,
        distillation: Distillation,
        device: torch.device,
        shape: tuple[int, ...],
        num_classes: int,
    ) -> None:
        super().__init__(config)
        own = copy.deepcopy(teacher).eval().requires_grad_(False).to("cpu")
        check_teacher(own, shape, num_classes)
        self.teacher = own.to(device, memory_format=memory_format(device))  # type: ignore[call-overload]
        self.distillation = distillation

    def loss(self, draw: Draw, logits: Tensor, step: Step) -> Tensor:
        return self.distillation.loss(step.from_teacher(self.teacher), logits, super().loss(draw, logits, step))


class Snapshot(Labels):
    """From epoch `start` on, subnets learn from the labels and from the largest subnet as it was when that epoch began.

    Of several supernets the first one's largest subnet teaches all.

    Args:
        config: label smoothing.
        largest: local choices of the largest subnet.
        start: the epoch that takes the snapshot.

    Reference: Cai et al., "Once-for-All: Train One Network and Specialize it for Efficient Deployment", ICLR 2020, arXiv:1908.09791.
    """

    def __init__(self, config: TrainingConfig, largest: Sequence[Local], start: int) -> None:
        super().__init__(config)
        self.largest, self.start = largest, start
        self.teacher: nn.Module | None = None

    def begin(self, epoch: int, supernets: Sequence[Supernet]) -> None:
        if epoch == self.start:
            self.teacher = self._extract(supernets)

    def loss(self, draw: Draw, logits: Tensor, step: Step) -> Tensor:
        loss = super().loss(draw, logits, step)
        if self.teacher is None:
            return loss
        return loss + soft_cross_entropy(step.from_teacher(self.teacher), logits)

    def tensors(self) -> dict[str, Tensor]:
        return {} if self.teacher is None else dict(self.teacher.state_dict())

    def restore(self, tensors: Mapping[str, Tensor], supernets: Sequence[Supernet]) -> None:
        self.teacher = self._extract(supernets) if tensors else None
        if self.teacher is not None:
            self.teacher.load_state_dict(tensors)

    def _extract(self, supernets: Sequence[Supernet]) -> nn.Module:
        """In training mode, as a supernet's running statistics are of no use and each batch has its own."""
        return supernets[0].extract(self.largest).requires_grad_(False).train()


def soft_cross_entropy(teacher: Tensor, student: Tensor) -> Tensor:
    """Cross-entropy of the student's logits [B, classes] with the teacher's probabilities, averaged over the batch."""
    return F.cross_entropy(student.float(), teacher.float().softmax(dim=1))


def check_teacher(teacher: nn.Module, shape: tuple[int, ...], num_classes: int) -> None:
    """Raise ValueError unless a network on the CPU in eval mode turns images of `shape` into `num_classes` logits."""
    try:
        with torch.no_grad():
            logits = teacher(torch.zeros(2, *shape))
    except Exception as error:  # a network may fail in any way on what it was not made for
        raise ValueError(
            f"the teacher must take images of {shape}, but fails on them: {type(error).__name__}: {error}; use one made for such images"
        ) from error
    if not isinstance(logits, Tensor):
        raise ValueError(
            f"the teacher must return logits as a tensor, got {type(logits).__name__}; wrap it so that it does"
        )
    if logits.shape != (2, num_classes):
        raise ValueError(
            f"the teacher must know the data's {num_classes} classes, got logits of shape {tuple(logits.shape[1:])}; "
            "use a teacher that was trained on the same classes"
        )
