"""A trained model as a search space for `nas search`: `pruned:module:function`, and what builds its networks."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from nas.pruning.inputs import given_inputs
from nas.pruning.recovery import sample_of
from nas.pruning.searched import searched_model
from nas.pruning.weights import load_model
from nas.tasks import Batch, Task, scores_of
from pruners import PrunableSpace, PruneResult
from pruners.config import WidthsConfig
from pruners.untouched import untouched
from search_spaces import Architecture, SearchSpace
from search_spaces.core import Local, Network, Value, keywords

LOOKED_AT = 16
"""Examples of a part of a task whose sizes are compared."""
WIDTHS = tuple(keywords(WidthsConfig))


@dataclass(frozen=True, eq=False)
class PrunedNetwork(Network):
    """The smaller models inside a trained one, where other spaces have a chain of blocks.

    `input_shape` is that of one example where the model takes one tensor of floats, else empty; `num_classes` is how many scores it
    returns for an example, 0 where it returns others than (batch, classes).

    Args:
        source: what builds them, each with its part of the trained weights.
        every_size: whether they serve inputs of other sizes than the example's, as texts are.
    """

    source: PrunableSpace
    every_size: bool = False

    @property
    def inputs(self) -> Any:
        """What a network is measured on: the shape of an example, or the model's own example inputs."""
        return self.input_shape or self.source.kwargs or self.source.args

    def locals(self, columns: Mapping[str, Value]) -> tuple[Local, ...]:
        """The choices that exist, with their values."""
        return tuple((name, value) for name, value in columns.items() if value is not None)

    def build(self, locals: Sequence[Hashable], seed: int = 0) -> nn.Module:
        """The smaller model of these choices, proved against the masked one; nothing about it is random."""
        arch = self.source.space.architecture(dict(locals))  # type: ignore[arg-type]
        return self.result(arch).model

    def result(self, arch: Architecture) -> PruneResult:
        """The smaller model of an architecture with its plan."""
        return self.source.build(arch, every_size=self.every_size)


def searchable(prunable: PrunableSpace, task: Task | None = None) -> SearchSpace:
    """The space of a prunable model, with what `nas.search` needs to build its networks.

    Args:
        prunable: of any inputs and outputs.
        task: what its networks are for; where its examples differ in size, networks serve every size.

    Raises:
        ValueError: the model takes batches of one size only.
    """
    model, args = prunable.model, prunable.args
    if not prunable.graph.trace.batched:
        raise ValueError("a model to search must take batches of any size, got one that is traced for one size only")
    with untouched(model), torch.no_grad():
        returned = model(*args, **prunable.kwargs)
    given = args[0] if len(args) == 1 and not prunable.kwargs else None
    one = isinstance(given, Tensor) and given.is_floating_point()
    shape = tuple(given.shape[1:]) if isinstance(given, Tensor) and one else ()
    example = prunable.kwargs or args
    differ = task is not None and _sizes_differ(example, task)
    return replace(prunable.space, network=PrunedNetwork((), shape, _scores(returned), prunable, differ))


def pruned_space(name: str, task: Task | None = None, *, milliseconds: bool = False, **options: Any) -> SearchSpace:
    """The search space of a trained model.

    Args:
        name: `pruned:MODEL`, of what `nas prune` takes: `module:function`, or a library's model.
        task: what the model is for. Its first example is the model's, where `input` is not given, and criteria pass over some of its
            training examples, without labels; where examples differ in size, those of the size of the model's example.
        milliseconds: whether they are what is searched for, see `pruners.PrunableSpace`.
        options: `input`, `weights` and `arguments` as for `nas prune`, and settings of `pruners.PrunableSpace`, by keyword.

    Raises:
        ValueError: an option does not fit, or the model does not fit the task; the message says which.
    """
    config = searched_model(name, options)
    model = load_model(config.model, config.arguments, config.weights)
    example = given_inputs(model, config.input, task)
    batches = None
    if task is not None:
        check_task(model, task, example, config.model)
        sampled = [Batch(batch.inputs) for batch in sample_of(task.train, config.widths.seed)]
        batches = [batch for batch in sampled if _sizes(batch.inputs) == _sizes(example)] or sampled
    widths = {key: value for key, value in options.items() if key in WIDTHS}
    prunable = PrunableSpace(model, example, batches=batches, name=name, milliseconds=milliseconds, **widths)
    return searchable(prunable, task)


def check_task(model: nn.Module, task: Task, example: Any, name: str) -> None:
    """Refuse a trained model that a task cannot judge, or data whose classes are not the model's.

    Args:
        model: the trained model.
        task: what it is for.
        example: inputs that it takes.
        name: of the model, for the message.

    Raises:
        ValueError: the model does not take the inputs, its outputs do not fit the loss, or data have fewer or more classes than it
            has outputs.
    """
    classes = task.described.get("classes")
    if classes and (found := _outputs(model, task)) and found != len(classes):
        raise ValueError(
            f"the classes of data must be those of the model, got {len(classes)} classes in {task.name!r} for the {found} outputs of "
            f"{name}; give data of the model's classes, or a model whose last layer has {len(classes)} outputs"
        )
    task.check(model, example)


def _outputs(model: nn.Module, task: Task) -> int:
    """How many scores a model returns for an example of a task; 0 where it does not take it, or returns something else."""
    try:
        with untouched(model), torch.no_grad():
            return _scores(task.example.call(model))
    except Exception:  # `Task.check` says what is wrong
        return 0


def _scores(returned: Any) -> int:
    """How many scores stand in what a model returns for each example; 0 where there are others than (batch, classes)."""
    try:
        scores = scores_of(returned)
    except ValueError:
        return 0
    return scores.shape[1] if scores.dim() == 2 else 0


def _sizes_differ(example: Any, task: Task) -> bool:
    """Whether some of a task's examples have other sizes than the model's."""
    parts = (part.head(LOOKED_AT).batches(1) for part in (task.train, task.validation))
    sizes = {_sizes(batch.inputs) for part in parts for batch in part}
    return bool(sizes - {_sizes(example)})


def _sizes(inputs: Any) -> tuple[tuple[int, ...], ...]:
    """The sizes of one example's tensors, without the batch."""
    return tuple(tuple(x.shape[1:]) for x in tree_leaves(inputs) if isinstance(x, Tensor))
