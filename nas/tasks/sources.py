"""Where examples are read by position: arrays and Datasets; and what is random about them, by a seed."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map
from torch.utils.data import DataLoader, Dataset

LOOKED_AT = 16
"""Examples that the digest of a Dataset is made of, from its beginning and its end."""


class Source(Protocol):
    """Examples by position."""

    def __len__(self) -> int: ...

    def read(self, parts: Sequence[Tensor], seed: int) -> Iterator[Any]:
        """A batch as it is kept for each list of positions; `seed` decides what is random about them."""

    @property
    def fingerprint(self) -> str: ...


class Arrays:
    """Examples in memory.

    Args:
        tree: tensors or arrays in any structure, examples in the first dimension of each.

    Raises:
        ValueError: there is no array, or their lengths differ.
    """

    def __init__(self, tree: Any) -> None:
        self.tree = tree_map(_tensor, tree, is_leaf=_is_numbers)
        lengths = {len(x) for x in tree_leaves(self.tree)}
        if len(lengths) != 1:
            found = ", ".join(map(str, sorted(lengths))) or "none"
            raise ValueError(
                f"arrays of examples must all have the same length, got {found}; give one entry for each example"
            )
        (self.length,) = lengths

    def __len__(self) -> int:
        return self.length

    def read(self, parts: Sequence[Tensor], seed: int) -> Iterator[Any]:
        return (tree_map(lambda x: x[part], self.tree) for part in parts)  # noqa: B023

    @cached_property
    def fingerprint(self) -> str:
        return digest(tree_leaves(self.tree))


@dataclass
class Mapped:
    """Examples of a Dataset with positions, read and put together by a DataLoader.

    Args:
        dataset: with `__getitem__` and `__len__`.
        collate: puts examples together; None for the usual way.
        workers: processes that read.
    """

    dataset: Dataset[Any]
    collate: Callable[[list[Any]], Any] | None = None
    workers: int = 0

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def read(self, parts: Sequence[Tensor], seed: int) -> Iterator[Any]:
        loader: DataLoader[Any] = DataLoader(
            self.dataset,
            batch_sampler=[part.tolist() for part in parts],
            collate_fn=self.collate,
            num_workers=self.workers,
            generator=torch.Generator().manual_seed(seed),  # of the workers, each of which seeds all its generators
        )
        return iter(loader) if self.workers else by_seed(loader, seed)

    @cached_property
    def fingerprint(self) -> str:
        count = len(self)
        places = sorted({*range(min(count, LOOKED_AT)), *range(max(count - LOOKED_AT, 0), count)})
        with _seeded(0):
            seen = [self.dataset[place] for place in places]
        return digest([torch.tensor(count), *(x for one in seen for x in numbers(one))])


def _tensor(x: Any) -> Tensor:
    try:
        return torch.as_tensor(x)
    except TypeError:
        raise ValueError(
            f"arrays of examples must hold numbers, got {getattr(x, 'dtype', type(x).__name__)}; number the classes from 0"
        ) from None


def is_tree(given: Any) -> bool:
    """Whether all leaves of a tuple or dict are arrays, tensors or lists of numbers."""
    leaves, _ = tree_flatten(given, is_leaf=_is_numbers)
    return isinstance(given, (tuple, dict, Tensor, np.ndarray)) and bool(leaves) and all(map(_is_numbers, leaves))


def _is_numbers(x: Any) -> bool:
    return isinstance(x, (Tensor, np.ndarray)) or (
        isinstance(x, list) and bool(x) and isinstance(x[0], (int, float, np.generic))
    )


def numbers(one: Any) -> list[Tensor]:
    """The tensors, arrays and numbers of an example, in order."""
    leaves = tree_leaves(one)
    return [torch.as_tensor(x) for x in leaves if isinstance(x, (Tensor, np.ndarray, int, float, np.generic))]


def digest(tensors: Sequence[Tensor], more: str = "") -> str:
    """A short name of shapes, types and values, and of a text: equal for equal ones on any machine."""
    found = hashlib.sha256(more.encode())
    for x in tensors:
        found.update(repr((tuple(x.shape), str(x.dtype))).encode())
        found.update(x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()[:16]


def by_seed(batches: Any, seed: int) -> Iterator[Any]:
    """What iterables give when everything random in this process starts at a seed, without changing what is random elsewhere."""
    state: Any = None
    iterator: Iterator[Any] | None = None
    while True:
        with _seeded(seed, state) as held:
            try:
                iterator = iter(batches) if iterator is None else iterator
                raw = next(iterator)
            except StopIteration:
                return
            state = held()
        yield raw


@contextmanager
def _seeded(seed: int, state: Any = None) -> Iterator[Callable[[], Any]]:
    """Let Python's, NumPy's and torch's generators start at a seed or a state for a while, and give them back as they were."""

    def now() -> Any:
        return random.getstate(), np.random.get_state(), torch.get_rng_state()

    before = now()
    try:
        if state is None:
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.default_generator.manual_seed(seed)
        else:
            _restore(state)
        yield now
    finally:
        _restore(before)


def _restore(state: Any) -> None:
    python, numpy, own = state
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(own)
