"""Examples from arrays, a Dataset or a DataLoader, read by position; and from what can only be iterated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, RandomSampler, SequentialSampler

from nas.runtime import WHOLE, Share
from nas.tasks.batches import Unpack, unpacked
from nas.tasks.examples import Batch, Examples, even_parts, parts_of
from nas.tasks.sources import Arrays, Mapped, Source, by_seed, digest, is_tree, numbers


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
        share: Share = WHOLE,
    ) -> Iterator[Batch]:
        order = self.indices if rng is None else self.indices[torch.from_numpy(rng.permutation(len(self)))]
        seed = 0 if rng is None else int(rng.integers(2**63))
        parts = [part[share.rows] for part in parts_of(order, size, drop_last)]
        return self._read(parts, (seed + share.rank) % 2**63, torch.device(device))

    def evenly(self, size: int, device: torch.device | str = "cpu") -> Iterator[Batch]:
        return self._read(even_parts(self.indices, size), 0, torch.device(device))

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
        return digest([self.indices], self.source.fingerprint)


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
        share: Share = WHOLE,
    ) -> Iterator[Batch]:
        both = [
            part.batches(
                min(size, len(part)), device=device, rng=rng, augment=augment, drop_last=drop_last, share=share
            )
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
        return digest([], self.first.fingerprint + self.second.fingerprint)


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
        share: Share = WHOLE,
    ) -> Iterator[Batch]:
        seed = 0 if rng is None else int(rng.integers(2**63))
        given = 0
        while given < self.count:
            before = given
            for raw in islice(by_seed(self.loader, seed), self.count - given):
                batch = unpacked(raw, self.unpack)
                yield (batch if share == WHOLE else batch.share(share)).to(torch.device(device))
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
        return digest([torch.tensor(self.count), *numbers(self._first)])


def as_examples(given: Any, *, workers: int = 0, steps: int | None = None, unpack: Unpack | None = None) -> Examples:
    """The examples of what people have: see `task`.

    Raises:
        ValueError: it holds no examples.
    """
    if isinstance(given, Examples):
        return given
    if isinstance(given, DataLoader):
        usual = type(given.sampler) in (RandomSampler, SequentialSampler) and type(given.batch_sampler) is BatchSampler
        if isinstance(given.dataset, IterableDataset) or not usual:
            return Stream(given, steps, unpack)
        return _filled(Samples(Mapped(given.dataset, given.collate_fn, given.num_workers), unpack=unpack))
    if isinstance(given, IterableDataset):
        return Stream(DataLoader(given, batch_size=None), steps, unpack)
    if isinstance(given, Dataset) or (
        hasattr(given, "__getitem__") and hasattr(given, "__len__") and not is_tree(given)
    ):
        return _filled(Samples(Mapped(given, workers=workers), unpack=unpack))
    if is_tree(given):
        return _filled(Samples(Arrays(given), unpack=unpack))
    if hasattr(given, "__iter__") and not isinstance(given, (str, bytes, Iterator)):
        return Stream(given, steps, unpack)
    raise ValueError(
        "examples must be arrays such as (X, y), a Dataset, a DataLoader, or an iterable of batches that can be started again, got "
        f"{type(given).__name__}"
    )


def _filled(examples: Examples) -> Examples:
    if not len(examples):
        raise ValueError("a part must hold at least one example, got none; fill it, or leave it out")
    return examples
