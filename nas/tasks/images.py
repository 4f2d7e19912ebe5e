"""Labelled images in memory as the parts of a task: the fast path, in which images stay uint8 until a batch is on its device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import starmap

import numpy as np
import torch
from torch import Tensor

from nas.data import ImageData, Split, batches, normalize
from nas.runtime import WHOLE, Share, memory_format
from nas.tasks.examples import Batch, Examples, even_edges


class Images(Examples):
    """Images of one split, cropped and mirrored in training as their data set says, and normalised.

    Args:
        data: the data set.
        split: one of its parts, or some images of one.
    """

    def __init__(self, data: ImageData, split: Split) -> None:
        self.data, self.split = data, split

    def __len__(self) -> int:
        return len(self.split)

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
        there = torch.device(device)
        found = batches(
            self.split,
            self.data,
            size,
            rng=rng,
            augment=augment,
            drop_last=drop_last,
            device=there,
            channels_last=memory_format(there) == torch.channels_last,
            share=share,
        )
        return starmap(Batch, found)

    def evenly(self, size: int, device: torch.device | str = "cpu") -> Iterator[Batch]:
        there, edges = torch.device(device), even_edges(len(self), size)
        for start, stop in zip(edges, edges[1:], strict=False):
            images = normalize(self.split.images[start:stop].to(there), self.data.mean, self.data.std)
            labels = self.split.labels[start:stop].to(there)
            yield Batch(images.to(memory_format=memory_format(there)), labels)

    def take(self, indices: Tensor) -> Images:
        return Images(self.data, Split(self.split.images[indices], self.split.labels[indices]))

    def head(self, most: int) -> Images:
        return Images(self.data, Split(self.split.images[:most], self.split.labels[:most]))

    def joined(self, other: Examples) -> Images:
        assert isinstance(other, Images)
        both = (self.split, other.split)
        return Images(self.data, Split(torch.cat([s.images for s in both]), torch.cat([s.labels for s in both])))

    @property
    def fingerprint(self) -> str:
        return replace(self.data, train=self.split, validation=self.split, test=self.split).fingerprint
