"""Nested training: the smaller models inside a trained one share its weights, and come nearer to what it computed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from estimators.counting import device_of, standing_in
from nas.pruning.matching import check_training, learning
from nas.pruning.nearing import Matching, Nearing
from nas.pruning.states import Watched
from nas.runtime import stream
from pruners import PrunableSpace, recalibrate_
from pruners.progress import Progress, silent
from pruners.surgery import GraphModel
from pruners.untouched import untouched
from search_spaces import Architecture

MEMBERS = 8
"""Smaller models that are trained, from the whole model down; those between them share their weights."""
AT_ONCE = 3
"""Of these in a step: the smallest and others at random."""
SMALL_BATCH, BATCH = 16, 64
"""Samples per step without batch norms, and with them."""
LOOKED_AT = 2
"""Batches that statistics of batch norms are first gathered on."""


class Nested(NamedTuple):
    """What a nested training leaves.

    Attributes:
        space: of the trained weights, with the scores of those before.
        did: what the training did; its gaps are means over three of the smaller models.
    """

    space: PrunableSpace
    did: Matching


class _Member(Watched):
    """A smaller model that computes with the weights of the full one."""

    def __init__(self, model: nn.Module, parts: Callable[[Mapping[str, Tensor]], dict[str, Tensor]], full: nn.Module):
        super().__init__(model)
        inner: Any = self.model
        trained = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        shared = dict(full.named_parameters(remove_duplicate=False)) | dict(full.named_buffers())

        def call(*args: Any, **kwargs: Any) -> Any:
            own = {name: x for name, x in parts(shared).items() if name in trained}
            return functional_call(inner, own, args, kwargs, tie_weights=False)

        self.model = call


def nest(
    space: PrunableSpace,
    batches: Iterable[Any],
    *,
    seconds: float | None = None,
    steps: int | None = None,
    archs: Sequence[Architecture] | None = None,
    every_size: bool = False,
    device: torch.device | None = None,
    seed: int = 0,
    path: Path | None = None,
    progress: Progress = silent,
) -> Nested:
    """Train the weights of a model so that the smaller models inside it compute what it computed, without labels.

    Each smaller model is what `PrunableSpace.candidate` gives: a slice whose layers make up for what they lost, as a function of the
    shared weights, by which gradients reach them. A step takes the smallest and two others at random; the loss is that of
    `match_`. Batch norms use the statistics of the batch, and are to be given their own afterwards.

    Args:
        space: of the trained model, which is left untouched and is the teacher.
        batches: of inputs, as `match_` takes them.
        seconds: how long all may take.
        steps: in place of `seconds`, how many steps.
        archs: the smaller models that are trained; eight from the whole model down to where the outputs say nothing any more, as
            `PrunableSpace.front` finds them.
        every_size: let them serve inputs of other sizes than the example's, as texts are.
        device: where they run; the CPU if None.
        seed: decides what is drawn.
        path: of a checkpoint, from which a second call goes on.
        progress: called as ("matching", share done, 1).

    Raises:
        ValueError: not exactly one of `seconds` and `steps`, batches that do not fit, or a space without scores of outputs and no
            `archs`.

    Reference: Yu et al., "BigNAS: Scaling Up Neural Architecture Search with Big Single-Stage Models", ECCV 2020, arXiv:2003.11142
        (sandwich rule, distillation in place); Cai et al., "Once-for-All", ICLR 2020, arXiv:1908.09791 (sorted weights shared).
    Differs: the teacher is the model as it was, so the whole model takes no part of its own in every step; layers make up for what they
        lost by maps that stay as they are; states of layers are matched where shapes allow.
    """
    began = time.perf_counter()
    lengths = {"seconds": seconds, "steps": steps, "epochs": None}
    check_training(lengths, "auto", 1)
    place = torch.device("cpu") if device is None else device
    members = list(archs) if archs is not None else space.front(MEMBERS)[1:] or [space.whole]
    student = space.with_weights({}).model.to(place)
    given = list(batches)
    norms = any(isinstance(part, _BatchNorm) for part in student.modules())
    made = []
    for arch in members:
        model, parts = space.shared(arch, every_size)
        if norms:
            recalibrate_(model, given[:LOOKED_AT])
            if isinstance(model, GraphModel):
                model.set_batch_norm(training=True)
        made.append((model.to(place), parts))

    def drawn(number: int) -> list[int]:
        others = stream(seed, "members", number).permutation(len(made) - 1)[: AT_ONCE - 1]
        return [len(made) - 1, *others.tolist()]

    teacher = space.model if device_of(space.model) == place else standing_in(space.model, place)
    with untouched(teacher), learning(student, space.model) as weights, Watched(teacher) as leader:
        followers = [_Member(model, parts, student) for model, parts in made]
        size = BATCH if norms else SMALL_BATCH
        training = Nearing(student, weights, followers, leader, given, 1.0, 1.0, size, place, seed, drawn)
        for model, _ in made:
            for part in model.modules():
                if isinstance(part, _BatchNorm):
                    part.train()
        did = training.run(lengths, "auto", began, path, progress)
    student.to("cpu")
    return Nested(space.with_weights(dict(student.named_parameters())), did)
