"""A task: what a model is for. Its examples, the loss that it is trained on, and the metrics that it is judged by."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from nas.objectives import Objective
from nas.runtime import stream
from nas.tasks.examples import Batch, Examples
from nas.tasks.goals import Classes, Goal, Values, scores_of
from nas.tasks.images import Images
from nas.tasks.metrics import Metric, Read, as_metrics
from nas.tasks.splits import divided
from nas.tasks.streamed import StreamedImages
from pruners.untouched import untouched
from search_spaces.core import first_line, unknown_name

Step = Callable[[Callable[..., Any], Batch], Tensor]
"""(what runs the model on inputs, a batch) -> the loss of one training step."""
CALIBRATION_BATCH = 100


@dataclass(frozen=True, eq=False)
class Task:
    """What a model is for; made by `task` and the built-in kinds.

    Attributes:
        name: what reports call it.
        train: examples to train on.
        validation: examples to choose architectures with.
        test: examples to report on, never used before.
        goal: the loss, and what a teacher shows.
        metrics: what models are judged by, by name; the first is the one that is followed in training.
        step: a training step of the user's own, in place of the goal's loss on the outputs.
        outputs: classes or values that a network puts out, where that is known; built-in spaces are made with it.
        described: what an exported network's users need: `classes`, and `mean` and `std` of normalised inputs.
        digest: of all examples, where their kind has one; None for one of the parts'.
        chance: the figure of the first metric that a model without any knowledge reaches on a part, in words and as a number.
    """

    name: str
    train: Examples
    validation: Examples
    test: Examples
    goal: Goal
    metrics: Mapping[str, Metric]
    step: Step | None = None
    outputs: int | None = None
    described: Mapping[str, Any] = field(default_factory=dict)
    digest: str | None = None
    chance: Callable[[Examples], tuple[str, float]] | None = None

    @property
    def training(self) -> Examples:
        """Training examples followed by validation examples, to retrain on."""
        return self.train.joined(self.validation)

    @property
    def main(self) -> Objective:
        """The first metric."""
        return next(iter(self.metrics.values())).objective

    @cached_property
    def example(self) -> Batch:
        """The first two training examples, or one if there is one."""
        return next(self.train.head(2).batches(2))

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """Shape of one example where the inputs are one tensor, without the batch."""
        inputs = self.example.inputs
        return tuple(inputs.shape[1:]) if isinstance(inputs, Tensor) else None

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the parts: equal for equal examples on any machine."""
        if self.digest is not None:
            return self.digest
        parts = [part.fingerprint for part in (self.train, self.validation, self.test)]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]

    def calibration(self, count: int, *, seed: int = 0, size: int = CALIBRATION_BATCH) -> list[Batch]:
        """At least `count` training examples, or all, drawn by `seed`, in batches: `batches` of `pruners.prune`."""
        found, seen = [], 0
        for batch in self.train.batches(min(size, len(self.train)), rng=stream(seed, "calibration")):
            found.append(batch)
            seen += batch.size
            if seen >= count:
                break
        return found

    def metric(self, name: str) -> Metric:
        """The metric of that name; ValueError with the nearest if there is none."""
        if name not in self.metrics:
            raise unknown_name("metric of the task", name, self.metrics)
        return self.metrics[name]

    def check(self, model: nn.Module, example: Any = None) -> None:
        """Refuse a model, on the CPU, that this task cannot train or judge: its outputs on two examples go through the loss.

        Args:
            model: its mode is left as it was.
            example: inputs that it takes, for the message.

        Raises:
            ValueError: the model does not take the inputs, or its outputs do not fit the loss; the message says shapes.
        """
        batch = self.example
        try:
            with untouched(model), torch.no_grad():
                outputs = batch.call(model)
        except Exception as error:
            of_images = isinstance(self.train, (Images, StreamedImages))
            mend = (
                "give images of the model's shape (`image_size` resizes them), or leave the data out"
                if of_images
                else "mend the batches, or say by `unpack` what the inputs are"
            )
            takes = "" if example is None else f" for a model of inputs {described(example)}"
            raise ValueError(
                f"the model must take the inputs of {self.name!r}, got {described(batch.inputs)}{takes}: {first_line(error)}; {mend}"
            ) from error
        if self.step is not None:
            return
        try:
            if isinstance(self.goal, Classes) and self.outputs is not None:
                scores = scores_of(outputs)
                heads = scores.ndim == 3 and batch.target.ndim == 1
                found = scores.shape[-1 if heads else self.goal.axis]
                if found < self.outputs:
                    raise ValueError(f"{found} classes, of {self.outputs} or more")
            loss = self.goal.loss(outputs, batch.target)
            fits, said = isinstance(loss, Tensor) and loss.numel() == 1, f"a loss of {described(loss)}, not one number"
        except Exception as error:
            fits, said = False, first_line(error)
        if not fits:
            raise ValueError(
                f"the loss of {self.name!r} must fit what the model returns, got outputs {described(outputs)} for a target "
                f"{described(batch.target)}: {said}; change the model's head, the loss, or the target"
            )


def task(
    train: Any,
    *,
    loss: Callable[[Any, Any], Tensor] | Classes | Values,
    metrics: Mapping[str, Any] | None = None,
    validation: Any = None,
    test: Any = None,
    name: str = "task",
    read: Read | None = None,
    step: Step | None = None,
    outputs: int | None = None,
    described: Mapping[str, Any] | None = None,
    **data: Any,
) -> Task:
    """A task of one's own.

    Args:
        train: examples: arrays such as (X, y), a `Dataset`, a `DataLoader`, or an iterable of batches that can be started anew (a list
            is a `Dataset`). A batch is a pair (inputs, target), inputs being a tensor, several in a tuple or a dict by name; a
            dict of keyword inputs with `labels` or `target` in it; or inputs without a target. Floats become float32, and bytes float32
            from 0 to 1.
        loss: (outputs, target) -> the mean loss of a batch; outputs are what the model returns.
        metrics: by name one of torchmetrics, or a function (outputs, target) -> number with "max" or "min", see
            `nas.tasks.metrics.as_metrics`; the first is followed in training. None for the loss alone.
        validation, test: as `train`; left out, they are parts of it. See `data`.
        name: what reports call it.
        read: (outputs, target) -> what metrics of torchmetrics are given, such as decoded texts.
        step: (call, batch) -> the loss of a training step, where outputs and a target do not say it; `call` runs the model on inputs.
        outputs: classes or values that a network puts out, for built-in search spaces.
        described: what an exported network's users need, written beside it.
        data: how examples are read and divided: `seed`, `validation_fraction`, `test_fraction`, `groups`, `stratify`, `workers`,
            `steps` and `unpack`, see `nas.tasks.splits.divided`.

    Raises:
        ValueError: something does not fit; the message says what.
    """
    parts = divided(train, validation, test, **data)
    goal = loss if isinstance(loss, (Classes, Values)) else Values(loss)
    found = as_metrics(metrics, read) if metrics else {}
    if not found:
        found = as_metrics({"loss": (goal.loss, "min")})
    return Task(name, *parts, goal, found, step, outputs, dict(described or {}))


def described(x: Any) -> str:
    """Shapes and types of the tensors of a structure, such as 2x3x32x32 float32."""
    tensors = [leaf for leaf in tree_leaves(x) if isinstance(leaf, Tensor)]
    if not tensors:
        return type(x).__name__
    return ", ".join(
        f"{'x'.join(map(str, t.shape)) or 'scalar'} {str(t.dtype).removeprefix('torch.')}" for t in tensors
    )
