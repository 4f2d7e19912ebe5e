"""The examples of one part of a task, and batches of them: the one contract between data and everything that learns or measures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from nas.runtime import WHOLE, Share
from pruners.groups import split_inputs


class Batch(NamedTuple):
    """Some examples at once; as a pair, what `pruners` takes.

    Attributes:
        inputs: what a model is called with: a tensor, a tuple of positional inputs, or a dict of keyword inputs, examples in the
            first dimension of their tensors.
        target: what the outputs are judged by, of any structure; None without labels.
    """

    inputs: Any
    target: Any = None

    @property
    def size(self) -> int:
        """Examples: the first dimension of the first tensor among the inputs."""
        return len(next(x for x in tree_leaves(self.inputs) if isinstance(x, Tensor) and x.dim()))

    def call(self, model: nn.Module, *more: Any) -> Any:
        """What a model returns for the inputs; `more` are further positional arguments behind them."""
        if isinstance(self.inputs, Tensor):
            return model(self.inputs, *more)
        args, kwargs = split_inputs(self.inputs)
        return model(*args, *more, **kwargs)

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        return tree_map_only(Tensor, lambda x: x.to(device, non_blocking=True), self)

    def split(self, count: int) -> list[Batch]:
        """So many parts of nearly equal size; tensors without a dimension of examples stay whole in each."""
        size = self.size
        rest = size % count  # the first parts have one more
        edges = [n * (size // count) + min(n, rest) for n in range(count + 1)]

        return [self._of(slice(start, stop)) for start, stop in zip(edges, edges[1:], strict=False)]

    def share(self, share: Share) -> Batch:
        """One process's part.

        Raises:
            ValueError: there are fewer examples than processes.
        """
        if self.size < share.of:
            raise ValueError(
                f"a batch must hold an example for each of {share.of} processes, got {self.size}; leave out batches that are not full"
            )
        return self._of(share.rows)

    def _of(self, rows: slice) -> Batch:
        size = self.size
        return tree_map_only(Tensor, lambda x: x[rows] if x.dim() and len(x) == size else x, self)


class Examples(ABC):
    """The examples of one part of a task."""

    @abstractmethod
    def __len__(self) -> int:
        """How many there are."""

    @abstractmethod
    def batches(
        self,
        size: int,
        *,
        device: torch.device | str = "cpu",
        rng: np.random.Generator | None = None,
        augment: bool = False,
        drop_last: bool = False,
        share: Share = WHOLE,
    ) -> Iterator[Batch]:
        """One pass.

        Args:
            size: examples in a batch; the last one may have fewer.
            device: where batches come out.
            rng: shuffles, and drives what is random about examples; None keeps their order.
            augment: change examples at random as their kind allows; needs `rng`.
            drop_last: leave out a last batch that is not full.
            share: give this part of each batch of `size`, as one of several processes that train together.
        """

    @abstractmethod
    def evenly(self, size: int, device: torch.device | str = "cpu") -> Iterator[Batch]:
        """All examples in order, in batches of nearly equal size, at most `size`: none is left too small for batch statistics."""

    @abstractmethod
    def take(self, indices: Tensor) -> Examples:
        """The examples at some positions, int64 (count,)."""

    @abstractmethod
    def joined(self, other: Examples) -> Examples:
        """These examples followed by others of the same kind."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Digest that is equal for equal examples on any machine."""

    def head(self, most: int) -> Examples:
        """The first examples, at most so many."""
        return self.take(torch.arange(min(most, len(self))))

    def steps(self, size: int) -> int:
        """Full batches in one pass."""
        return len(self) // size


def parts_of(positions: Tensor, size: int, drop_last: bool) -> list[Tensor]:
    """Positions in parts of `size`, the last one with what is left, or without it."""
    parts = list(positions.split(size))
    return parts[:-1] if drop_last and parts and len(parts[-1]) < size else parts


def even_parts(positions: Tensor, size: int) -> list[Tensor]:
    """Positions in order, in parts of nearly equal size, at most `size`."""
    edges = even_edges(len(positions), size)
    return [positions[start:stop] for start, stop in zip(edges, edges[1:], strict=False)]


def even_edges(count: int, size: int) -> list[int]:
    """Where batches of nearly equal size, at most `size`, begin and end."""
    edges: list[int] = np.linspace(0, count, -(-count // size) + 1).astype(int).tolist()
    return edges
