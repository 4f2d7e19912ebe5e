"""What outputs are for: the loss on a target, and how much outputs differ from those of another network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves

IGNORED = -100
"""The class of a position that has none."""


class Goal(Protocol):
    """What outputs are trained for; `soft` is whether a temperature softens what a student is shown of a teacher."""

    @property
    def soft(self) -> bool: ...

    def loss(self, outputs: Any, target: Any) -> Tensor:
        """The mean loss of a batch, a scalar in float32."""

    def towards(self, teachers: Sequence[Any], outputs: Any) -> Tensor:
        """A loss, a scalar, that is least where outputs are what these teachers give on average."""

    def divergence(self, teacher: Any, student: Any, temperature: float) -> Tensor:
        """How far the student's outputs are from the teacher's, a scalar, 0 where they are equal."""

    def smoothed(self, share: float) -> Goal:
        """The same with so much of each label spread over all classes; ValueError where there are none."""


@dataclass(frozen=True)
class Values:
    """Outputs of any kind, under a loss of the user's own or a usual one.

    What a teacher shows of them is their values: the squared distance relative to that of the teacher's outputs from their mean.

    Args:
        of: (outputs, target) -> scalar.
    """

    of: Callable[[Any, Any], Tensor]
    soft: bool = False

    def loss(self, outputs: Any, target: Any) -> Tensor:
        return self.of(outputs, target)

    def towards(self, teachers: Sequence[Any], outputs: Any) -> Tensor:
        return torch.stack([distance(teacher, outputs) for teacher in teachers]).mean()

    def divergence(self, teacher: Any, student: Any, temperature: float) -> Tensor:
        return distance(teacher, student)

    def smoothed(self, share: float) -> Values:
        if share:
            raise ValueError(
                f"`label_smoothing` is for a task whose target is one of several classes, got {share:g}; leave it out"
            )
        return self


@dataclass(frozen=True)
class Classes:
    """Outputs are scores of classes along one dimension, the target holds classes.

    Args:
        axis: the dimension of the classes: 1 for (batch, classes, ...), -1 for (batch, positions, classes).
        weight: of each class, (classes,); None for equal ones.
        label_smoothing: share of each label that is spread over all classes.
        shift: positions predict the class of the next one, as a language model does.
    """

    axis: int = 1
    weight: Tensor | None = None
    label_smoothing: float = 0.0
    shift: bool = False
    soft: bool = True

    def loss(self, outputs: Any, target: Any) -> Tensor:
        """Mean cross-entropy in float32; of the heads of an ensemble (batch, heads, classes) with labels (batch,), the sum of theirs.

        Positions of class -100 count nothing.

        Raises:
            ValueError: a label is no class.
        """
        scores = scores_of(outputs)
        if scores.ndim == 3 and target.ndim == 1:
            return torch.stack([self.loss(head, target) for head in scores.unbind(1)]).sum()
        if self.shift:
            scores, target = scores[:, :-1], target[:, 1:]
        scores = scores if self.axis == 1 else scores.movedim(self.axis, 1)
        weight = None if self.weight is None else self.weight.to(scores.device)
        try:
            return F.cross_entropy(
                scores.float(), target, weight, label_smoothing=self.label_smoothing, ignore_index=IGNORED
            )
        except IndexError:
            inside = target[target != IGNORED]
            raise ValueError(
                f"labels must be in 0..{scores.shape[1] - 1}, for {scores.shape[1]} scores of classes, got {int(inside.min())} to "
                f"{int(inside.max())}; number the classes from 0, or give the model more outputs"
            ) from None

    def towards(self, teachers: Sequence[Any], outputs: Any) -> Tensor:
        """Cross-entropy with the mean of the teachers' probabilities."""
        chances = torch.stack([scores_of(t).float().softmax(dim=self.axis) for t in teachers]).mean(0)
        scores = scores_of(outputs).float()
        if self.axis != 1:
            scores, chances = scores.movedim(self.axis, 1), chances.movedim(self.axis, 1)
        return F.cross_entropy(scores, chances)

    def divergence(self, teacher: Any, student: Any, temperature: float) -> Tensor:
        """KL(teacher || student) of the classes at a temperature, averaged over all that is classified."""
        ours, theirs = (F.log_softmax(scores_of(x).float() / temperature, dim=self.axis) for x in (student, teacher))
        if ours.ndim == 2:
            return F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
        return F.kl_div(ours, theirs, reduction="sum", log_target=True) * ours.shape[self.axis] / ours.numel()

    def smoothed(self, share: float) -> Classes:
        return replace(self, label_smoothing=share) if share else self


def scores_of(outputs: Any) -> Tensor:
    """The tensor of scores among what a model returns: itself, what is named `logits`, or the first of several.

    Raises:
        ValueError: there is no tensor.
    """
    if isinstance(outputs, Tensor):
        return outputs
    if isinstance(outputs, Mapping) and "logits" in outputs:
        return outputs["logits"]
    if isinstance(named := getattr(outputs, "logits", None), Tensor):
        return named
    for leaf in tree_leaves(outputs):
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            return leaf
    raise ValueError(f"a model must return a tensor of scores, got {type(outputs).__name__}; wrap it so that it does")


def distance(teacher: Any, student: Any, spreads: Sequence[float] | None = None) -> Tensor:
    """Mean over the tensors of outputs: the squared distance relative to that of the teacher's from their mean over examples.

    Args:
        teacher, student: outputs for the same examples.
        spreads: of each tensor of the teacher's outputs; None for those of these examples.

    Raises:
        ValueError: the outputs differ in their tensors.
    """
    theirs, ours = (
        [x.float() for x in tree_leaves(out) if isinstance(x, Tensor) and x.is_floating_point()]
        for out in (teacher, student)
    )
    if not theirs or [x.shape for x in theirs] != [x.shape for x in ours]:
        said = [", ".join("x".join(map(str, x.shape)) for x in found) or "nothing" for found in (theirs, ours)]
        raise ValueError(f"a teacher must return what its student does, got {said[0]} and {said[1]}")
    by: Sequence[Tensor | float] = [spread(x) for x in theirs] if spreads is None else spreads
    return torch.stack([(y - x).square().mean() / of for x, y, of in zip(theirs, ours, by, strict=True)]).mean()


def spread(x: Tensor) -> Tensor:
    """Mean squared distance of examples (N, ...) from their mean, above 0; of one example, its mean square."""
    found = (x - x.mean(0)).square().mean() if len(x) > 1 else x.square().mean()
    return found.clamp(min=torch.finfo(found.dtype).tiny)
