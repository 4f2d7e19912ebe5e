"""Examples from arrays, a Dataset or a DataLoader, read by position; and from what can only be iterated."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map
from torch.utils.data import BatchSampler as TorchBatchSampler
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, SequentialSampler

from nas.tasks.examples import Batch, Examples, even_edges

TARGETS = ("labels", "label", "targets", "target")
"""Keys of a batch that is a dict, of which one holds the target; the others are keyword inputs."""
LOOKED_AT = 16
"""Examples that the digest of a Dataset is made of, from its beginning and its end."""
Unpack = Callable[[Any], tuple[Any, Any]]


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
        self.tree = tree_map(torch.as_tensor, tree, is_leaf=_is_numbers)
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
        return _digest(tree_leaves(self.tree))


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
        return iter(loader) if self.workers else _by_seed(loader, seed)

    @cached_property
    def fingerprint(self) -> str:
        count = len(self)
        places = sorted({*range(min(count, LOOKED_AT)), *range(max(count - LOOKED_AT, 0), count)})
        with _seeded(0):
            seen = [self.dataset[place] for place in places]
        return _digest([torch.tensor(count), *(x for one in seen for x in _numbers(one))])


class Samples(Examples):
    """Some examples of a source.

    Args:
        source: all of them.
        indices: which, int64 (count,); None for all.
        unpack: what a batch of the source is as (inputs, target); None for the usual rule, see `unpacked`.
    """

    def __init__(self, source: Source, indices: Tensor | None = None, unpack: Unpack | None = None) -> None:
        self.source, self.unpack = source, unpack
        self.indices = torch.arange(len(source)) if indices is None else indices

    def __len__(self) -> int:
        return len(self.indices)

    def batches(
        self,
        size: int,
        *,
        device: torch.device | str = "cpu",
        rng: np.random.Generator | None = None,
        augment: bool = False,
        drop_last: bool = False,
    ) -> Iterator[Batch]:
        order = self.indices if rng is None else self.indices[torch.from_numpy(rng.permutation(len(self)))]
        seed = 0 if rng is None else int(rng.integers(2**63))
        parts = list(order.split(size))
        if drop_last and parts and len(parts[-1]) < size:
            parts.pop()
        return self._read(parts, seed, torch.device(device))

    def evenly(self, size: int, device: torch.device | str = "cpu") -> Iterator[Batch]:
        edges = even_edges(len(self), size)
        parts = [self.indices[a:b] for a, b in zip(edges, edges[1:], strict=False)]
        return self._read(parts, 0, torch.device(device))

    def _read(self, parts: Sequence[Tensor], seed: int, device: torch.device) -> Iterator[Batch]:
        for raw in self.source.read(parts, seed):
            yield unpacked(raw, self.unpack).to(device)

    def take(self, indices: Tensor) -> Samples:
        return Samples(self.source, self.indices[indices], self.unpack)

    def joined(self, other: Examples) -> Examples:
        if isinstance(other, Samples) and other.source is self.source:
            return Samples(self.source, torch.cat([self.indices, other.indices]), self.unpack)
        return Chained(self, other)

    @property
    def fingerprint(self) -> str:
        return _digest([self.indices], self.source.fingerprint)


class Chained(Examples):
    """Examples of two sources, one after the other where they stand in order, mixed batch by batch where they are shuffled."""

    def __init__(self, first: Examples, second: Examples) -> None:
        self.first, self.second = first, second

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def steps(self, size: int) -> int:
        return self.first.steps(size) + self.second.steps(size)

    def batches(
        self,
        size: int,
        *,
        device: torch.device | str = "cpu",
        rng: np.random.Generator | None = None,
        augment: bool = False,
        drop_last: bool = False,
    ) -> Iterator[Batch]:
        both = [
            part.batches(min(size, len(part)), device=device, rng=rng, augment=augment, drop_last=drop_last)
            for part in (self.first, self.second)
        ]
        if rng is None:
            for part in both:
                yield from part
            return
        shares = [part.steps(min(size, len(part))) for part in (self.first, self.second)]
        for which in rng.permutation(np.repeat([0, 1], shares)):
            yield next(both[which])
        for part in both:
            yield from part

    def evenly(self, size: int, device: torch.device | str = "cpu") -> Iterator[Batch]:
        yield from self.first.evenly(size, device)
        yield from self.second.evenly(size, device)

    def take(self, indices: Tensor) -> Examples:
        inside = indices < len(self.first)
        parts = self.first.take(indices[inside]), self.second.take(indices[~inside] - len(self.first))
        full = [part for part in parts if len(part)]
        return full[0] if len(full) == 1 else Chained(*parts)

    def joined(self, other: Examples) -> Examples:
        return Chained(self, other)

    @property
    def fingerprint(self) -> str:
        return _digest([], self.first.fingerprint + self.second.fingerprint)


class Stream(Examples):
    """Examples that can only be iterated, in the batches and the order of a loader of the user's own.

    Sizes of batches, shuffling and what is left out are the loader's. The examples at given positions are its first ones, as many, and
    are kept in memory.

    Args:
        loader: an iterable of batches that can be started again and again.
        count: batches in a pass; None for `len(loader)`.
        unpack: see `Samples`.

    Raises:
        ValueError: its length is not known.
    """

    def __init__(self, loader: Any, count: int | None = None, unpack: Unpack | None = None) -> None:
        self.loader, self.unpack = loader, unpack
        try:
            self.count = len(loader) if count is None else count
        except TypeError:
            raise ValueError(
                f"a loader without a length needs `steps`, the batches of one pass, got none for a {type(loader).__name__}; give it"
            ) from None

    @cached_property
    def _first(self) -> Batch:
        return self._kept(1)[0]

    def __len__(self) -> int:
        return self.count * self._first.size

    def steps(self, size: int) -> int:
        return self.count

    def batches(
        self,
        size: int,
        *,
        device: torch.device | str = "cpu",
        rng: np.random.Generator | None = None,
        augment: bool = False,
        drop_last: bool = False,
    ) -> Iterator[Batch]:
        seed = 0 if rng is None else int(rng.integers(2**63))
        given = 0
        while given < self.count:
            before = given
            for raw in islice(_by_seed(self.loader, seed), self.count - given):
                yield unpacked(raw, self.unpack).to(torch.device(device))
                given += 1
            if given == before or rng is None:
                break
        if not given:
            raise ValueError(
                "an iterable of batches must give at least one each time it is started, got none; pass a list or a DataLoader"
            )

    def evenly(self, size: int, device: torch.device | str = "cpu") -> Iterator[Batch]:
        return self.batches(size, device=device)

    def take(self, indices: Tensor) -> Examples:
        kept: list[Batch] = []
        for batch in self.batches(1):
            kept.append(batch)
            if sum(one.size for one in kept) >= len(indices):
                break
        return Stream(kept)

    def joined(self, other: Examples) -> Examples:
        return Chained(self, other)

    def _kept(self, count: int) -> list[Batch]:
        return list(islice(self.batches(1), count))

    @cached_property
    def fingerprint(self) -> str:
        return _digest([torch.tensor(self.count), *_numbers(self._first)])


def as_examples(given: Any, *, workers: int = 0, steps: int | None = None, unpack: Unpack | None = None) -> Examples:
    """The examples of what people have: see `task`.

    Raises:
        ValueError: it holds no examples.
    """
    if isinstance(given, Examples):
        return given
    if isinstance(given, DataLoader):
        usual = (
            type(given.sampler) in (RandomSampler, SequentialSampler) and type(given.batch_sampler) is TorchBatchSampler
        )
        if isinstance(given.dataset, IterableDataset) or not usual:
            return Stream(given, steps, unpack)
        return _filled(Samples(Mapped(given.dataset, given.collate_fn, given.num_workers), unpack=unpack))
    if isinstance(given, IterableDataset):
        return Stream(DataLoader(given, batch_size=None), steps, unpack)
    if isinstance(given, Dataset) or (
        hasattr(given, "__getitem__") and hasattr(given, "__len__") and not _is_tree(given)
    ):
        return _filled(Samples(Mapped(given, workers=workers), unpack=unpack))
    if _is_tree(given):
        return _filled(Samples(Arrays(given), unpack=unpack))
    if hasattr(given, "__iter__") and not isinstance(given, (str, bytes, Iterator)):
        return Stream(given, steps, unpack)
    raise ValueError(
        "examples must be arrays such as (X, y), a Dataset, a DataLoader, or an iterable of batches that can be started again, got "
        f"{type(given).__name__}"
    )


def unpacked(raw: Any, unpack: Unpack | None = None) -> Batch:
    """A batch as inputs and target, floats in float32, images in bytes from 0 to 1.

    By the usual rule a pair is (inputs, target), a dict holds keyword inputs and a target by one of the names labels, label, targets
    and target, and all else is inputs without a target. Integers of a target become int64.

    Raises:
        ValueError: more than two things in a row, of which nobody knows which is the target.
    """
    if unpack is not None:
        inputs, target = unpack(raw)
    elif isinstance(raw, (tuple, list)):
        if len(raw) > 2:
            raise ValueError(
                f"a batch must be inputs, a pair (inputs, target), or a dict, got a row of {len(raw)}; several inputs are a tuple in "
                "the pair, or say by `unpack` which is which"
            )
        inputs, target = (raw[0], raw[1]) if len(raw) == 2 else (raw[0], None)
    elif isinstance(raw, Mapping):
        key = next((name for name in TARGETS if name in raw), None)
        inputs = {name: value for name, value in raw.items() if name != key}
        target = None if key is None else raw[key]
    else:
        inputs, target = raw, None
    if isinstance(inputs, list):
        inputs = tuple(inputs)
    return Batch(tree_map(_as_input, inputs), tree_map(_as_target, target))


def _as_input(x: Any) -> Any:
    if not isinstance(x, Tensor):
        return x
    if x.dtype == torch.uint8:
        return x.float() / 255
    return x.float() if x.dtype == torch.float64 else x


def _as_target(x: Any) -> Any:
    if not isinstance(x, Tensor):
        return x
    if x.dtype == torch.float64:
        return x.float()
    return x.long() if not x.is_floating_point() and not x.is_complex() and x.dtype != torch.bool else x


def _filled(examples: Examples) -> Examples:
    if not len(examples):
        raise ValueError("a part must hold at least one example, got none; fill it, or leave it out")
    return examples


def _is_numbers(x: Any) -> bool:
    return isinstance(x, (Tensor, np.ndarray)) or (
        isinstance(x, list) and bool(x) and isinstance(x[0], (int, float, np.generic))
    )


def _is_tree(given: Any) -> bool:
    leaves, _ = tree_flatten(given, is_leaf=_is_numbers)
    return isinstance(given, (tuple, dict, Tensor, np.ndarray)) and bool(leaves) and all(map(_is_numbers, leaves))


def _numbers(one: Any) -> list[Tensor]:
    """The tensors, arrays and numbers of an example, in order."""
    leaves = tree_leaves(one)
    return [torch.as_tensor(x) for x in leaves if isinstance(x, (Tensor, np.ndarray, int, float, np.generic))]


def _digest(tensors: Sequence[Tensor], more: str = "") -> str:
    digest = hashlib.sha256(more.encode())
    for x in tensors:
        digest.update(repr((tuple(x.shape), str(x.dtype))).encode())
        digest.update(x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _by_seed(batches: Any, seed: int) -> Iterator[Any]:
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
