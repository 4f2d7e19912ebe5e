"""Samples of batches, one by one, and batches of them that waste little on padding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import rnn
from torch.utils import _pytree as pytree

from pruners.tracing import Batch, as_batch

JITTER = 0.2
"""How far lengths are stretched at random before samples are sorted by them, so that batches differ from pass to pass."""
Kept = Literal["trimmed", "padded", "whole"]


class Samples:
    """The samples of some batches, and batches of those that are alike in length.

    Args:
        batches: inputs, or (inputs, targets), as `pruners.prune` takes them; targets are not used. All are kept in memory.
        kept: "trimmed": of a text that is padded behind its end only the text, as a 2-D input with `mask` in its name says by zeros;
            "padded": samples as they are; "whole": batches as they are, each as one sample, for models that take or return something
            without a dimension of samples.

    Raises:
        ValueError: there is no sample, or batches have different inputs.
    """

    def __init__(self, batches: Iterable[Any], kept: Kept = "trimmed") -> None:
        self.kept = kept
        self.rows: list[list[Any]] = []
        self.spec: Any = None
        self.mask: int | None = None
        self.free: frozenset[int] = frozenset()
        for given in batches:
            self._add(as_batch(given))
        if not self.rows:
            raise ValueError("`batches` must hold at least one sample, got none; pass a list or a data loader")

    def __len__(self) -> int:
        return len(self.rows)

    def length(self, index: int) -> int:
        """How long a sample is: of a text its tokens, of another the entries of its inputs."""
        row = self.rows[index]
        return len(row[self.mask]) if self.mask is not None else sum(row[place].numel() for place in self.free)

    def batch(self, indices: Sequence[int], device: torch.device | None = None) -> Batch:
        """Some samples as inputs of a model; shorter texts are padded with zeros, also in the mask."""
        leaves = list(self.rows[indices[0]])
        for place in self.free:
            leaves[place] = self.joined([self.rows[index][place] for index in indices])
        args, kwargs = pytree.tree_unflatten(leaves, self.spec)
        return moved(Batch(args, kwargs, free=self.free), device)

    def joined(self, rows: Sequence[Tensor]) -> Tensor:
        """Tensors of one sample each as one of several, with zeros behind shorter ones."""
        if self.kept == "whole":
            return rows[0]
        if all(row.shape == rows[0].shape for row in rows):
            return torch.stack(list(rows))
        return rnn.pad_sequence(list(rows), batch_first=True)

    def counts(self, batch: Batch) -> Tensor | None:
        """Which positions of a batch hold something, (samples, positions) of 0 and 1; None where all do."""
        return None if self.mask is None else batch.inputs[self.mask].float()

    def passes(self, among: Sequence[int], size: int, rng: np.random.Generator) -> Iterator[list[int]]:
        """Batches of up to `size` samples, pass after pass over all of them, without end."""
        while True:
            yield from self.one_pass(among, size, rng)

    def one_pass(self, among: Sequence[int], size: int, rng: np.random.Generator | None = None) -> list[list[int]]:
        """Batches of up to `size` samples of like lengths, at random, or from the shortest to the longest."""
        lengths = np.array([self.length(index) for index in among], dtype=float)
        if rng is not None:
            stretch = rng.uniform(1 - JITTER, 1 + JITTER, len(among))
            order = np.lexsort((rng.permutation(len(among)), lengths * stretch if self.mask is not None else lengths))
        else:
            order = np.argsort(lengths, kind="stable")
        found: list[list[int]] = []
        for index in (among[place] for place in order):
            if not found or len(found[-1]) == size or not self._alike(found[-1][0], index):
                found.append([])
            found[-1].append(index)
        if rng is not None:
            rng.shuffle(found)
        return found

    def _alike(self, first: int, second: int) -> bool:
        """Whether two samples can stand in one batch."""
        if self.kept == "whole":
            return False
        return self.mask is not None or all(self.rows[first][p].shape == self.rows[second][p].shape for p in self.free)

    def _add(self, batch: Batch) -> None:
        paths, spec = pytree.tree_flatten_with_path((batch.args, dict(batch.kwargs)))
        leaves = [leaf for _, leaf in paths]
        tensors = [place for place, x in enumerate(leaves) if isinstance(x, Tensor) and x.dim()]
        if not tensors or not len(leaves[tensors[0]]):
            return
        size = len(leaves[tensors[0]])
        free = frozenset(place for place in tensors if len(leaves[place]) == size)
        if self.spec is None:
            self.spec, self.free = spec, free
            masks = [p for p in sorted(free) if "mask" in pytree.keystr(paths[p][0]).lower() and leaves[p].dim() == 2]
            self.mask = masks[0] if masks else None
        if spec != self.spec:
            raise ValueError(f"`batches` must all have the same inputs, got {spec} after {self.spec}")
        if self.kept == "whole":
            self.rows.append(leaves)
            return
        if free != self.free:
            raise ValueError("`batches` must hold the samples in the first dimension of the same inputs, got others")
        for n in range(size):
            row = [x[n] if place in free else x for place, x in enumerate(leaves)]
            self.rows.append(self._trimmed(row) if self.mask is not None and self.kept == "trimmed" else row)

    def _trimmed(self, row: list[Any]) -> list[Any]:
        assert self.mask is not None
        whole, there = len(row[self.mask]), row[self.mask].nonzero()
        length = int(there[-1]) + 1 if len(there) else whole
        return [x[:length] if p in self.free and x.dim() and len(x) == whole else x for p, x in enumerate(row)]


def moved(batch: Batch, device: torch.device | None) -> Batch:
    """A batch with its inputs on a device."""
    args, kwargs = pytree.tree_map_only(Tensor, lambda x: x.to(device), (batch.args, dict(batch.kwargs)))
    return replace(batch, args=args, kwargs=kwargs)
