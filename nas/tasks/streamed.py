"""Labelled images that are read from disk when they are needed, by other processes: the path for what exceeds memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nas.data import (
    Damaged,
    DataConfig,
    Images,
    augment,
    channel_statistics,
    choose_images,
    look_at,
    normalize,
    read_one,
)
from nas.runtime import WHOLE, Share, memory_format, stream
from nas.tasks.examples import Batch, Examples, even_parts, parts_of

LOOKED_AT = 2000
"""Training and validation images by which channels, bits, mean and deviation are known."""
Read = tuple[Tensor, int] | None


@dataclass(frozen=True)
class How:
    """How images are read, and what becomes of them."""

    image_size: int | None
    channels: int
    bits: int
    leave_out_damaged: bool
    workers: int
    crop_padding: int = 0
    flip: bool = False
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)


@dataclass
class Files(Dataset[Read]):
    """Images by position, uint8 [C, H, W] with their label; None for a damaged one that is left out."""

    images: Images
    how: How

    def __getitem__(self, position: int) -> Read:
        how = self.how
        found = read_one(self.images, position, how.image_size, how.channels, how.bits)
        if isinstance(found, Damaged):
            if how.leave_out_damaged:
                return None
            raise ValueError(
                f"images must be readable, got {found.where} ({found.error}); replace or remove it, or leave it out by "
                "`damaged='leave-out'`"
            )
        return torch.from_numpy(found), int(self.images.labels[position])


class StreamedImages(Examples):
    """Some images of a source, in batches as those in memory are: the same order and the same crops for the same seed.

    Args:
        images: of the source.
        positions: which, int64 (count,).
        how: how they are read.
    """

    def __init__(self, images: Images, positions: Tensor, how: How) -> None:
        self.images, self.positions, self.how = images, positions, how

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def labels(self) -> Tensor:
        """int64 (count,)."""
        return torch.from_numpy(self.images.labels)[self.positions]

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
        order = self.positions if rng is None else self.positions[torch.from_numpy(rng.permutation(len(self)))]
        drawn = torch.Generator().manual_seed(int(rng.integers(2**63))) if rng is not None and augment else None
        return self._read(parts_of(order, size, drop_last), torch.device(device), drawn, share)

    def evenly(self, size: int, device: torch.device | str = "cpu") -> Iterator[Batch]:
        return self._read(even_parts(self.positions, size), torch.device(device), None)

    def _read(
        self, parts: Sequence[Tensor], device: torch.device, drawn: torch.Generator | None, share: Share = WHOLE
    ) -> Iterator[Batch]:
        how = self.how
        own = [part[share.rows] for part in parts]
        for part, (images, labels) in zip(parts, _read(self.images, own, how), strict=True):
            images = images.to(device)
            if drawn is not None:
                whole = None if share == WHOLE else len(part)
                images = augment(images, how.crop_padding, how.flip, drawn, whole, share)
            if memory_format(device) == torch.channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            yield Batch(normalize(images, how.mean, how.std), labels.to(device))

    def take(self, indices: Tensor) -> StreamedImages:
        return StreamedImages(self.images, self.positions[indices], self.how)

    def joined(self, other: Examples) -> Examples:
        assert isinstance(other, StreamedImages)
        if other.images is self.images:
            return StreamedImages(self.images, torch.cat([self.positions, other.positions]), self.how)
        both = Both(self.images, other.images)
        labels = np.concatenate([self.images.labels, other.images.labels])
        behind = other.positions + len(self.images.labels)
        return StreamedImages(Images(labels, both.fetch, both.where), torch.cat([self.positions, behind]), self.how)

    @cached_property
    def fingerprint(self) -> str:
        """Of labels, names of the images and what normalises them; pixels are not read."""
        digest = hashlib.sha256(repr(self.how).encode())
        digest.update(self.labels.numpy().astype("<i8").data)
        for position in self.positions.tolist():
            digest.update(self.images.where(position).rpartition("/")[2].encode("utf-8", "surrogatepass"))
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Both:
    """Images of two sources under positions that go on from one to the other."""

    first: Images
    second: Images

    def fetch(self, position: int) -> Any:
        images, at = self._of(position)
        return images.fetch(at)

    def where(self, position: int) -> str:
        images, at = self._of(position)
        return images.where(at)

    def _of(self, position: int) -> tuple[Images, int]:
        count = len(self.first.labels)
        return (self.first, position) if position < count else (self.second, position - count)


def _together(rows: list[Read]) -> tuple[Tensor, Tensor]:
    kept = [row for row in rows if row is not None]
    shapes = {tuple(images.shape[1:]) for images, _ in kept}
    if len(shapes) > 1:
        said = " and ".join(f"{height} x {width}" for height, width in sorted(shapes)[:2])
        raise ValueError(
            f"images must have one size, got {said} (height x width); give `image_size` to resize and crop them"
        )
    if not kept:
        raise ValueError("a batch must hold an image that can be read, got none; replace the damaged ones")
    return torch.stack([images for images, _ in kept]), torch.tensor([label for _, label in kept])


@dataclass(frozen=True)
class Streamed:
    """The parts of a source whose images are streamed.

    Attributes:
        name: of the source.
        parts: training, validation and test images.
        class_names: one name per label.
        shape: of an image, (channels, height, width).
    """

    name: str
    parts: tuple[StreamedImages, StreamedImages, StreamedImages]
    class_names: tuple[str, ...]
    shape: tuple[int, ...]


def stream_images(config: DataConfig, seed: int) -> Streamed:
    """Find the images of a configuration, look at some, and say how all are read.

    Channels, bits, and where the configuration has none, mean and deviation, are those of at most 2,000 training and validation images.

    Raises:
        ValueError: see `nas.load_data`; or images of the first 2,000 differ in size.
    """
    found, chosen = choose_images(
        config.source,
        seed=seed,
        limit=config.limit,
        test_limit=config.test_limit,
        validation_fraction=config.validation_fraction,
        image_size=config.image_size,
    )
    some = _some(chosen[:2], seed)
    channels, bits = map(max, zip(*(look_at(of, at[:200].tolist(), config.image_size) for of, at in some), strict=True))
    how = How(config.image_size, channels, bits, config.damaged == "leave-out", config.workers)
    seen = [batch for of, at in some for batch, _ in _read(of, torch.from_numpy(at).split(250), how)]
    shape = tuple(seen[0].shape[1:])
    mean, std = channel_statistics(seen) if config.mean is None or config.std is None else (config.mean, config.std)
    how = replace(
        how,
        crop_padding=min(shape[1:]) // 8 if config.crop is None else config.crop,
        flip=channels == 3 if config.flip is None else config.flip,
        mean=mean,
        std=std,
    )
    train, validation, test = (StreamedImages(of, torch.from_numpy(at), how) for of, at in chosen)
    return Streamed(found.name, (train, validation, test), found.class_names, shape)


def _some(parts: Sequence[tuple[Images, np.ndarray]], seed: int) -> list[tuple[Images, np.ndarray]]:
    """At most `LOOKED_AT` images of some parts, in the proportion of their sizes."""
    total = sum(len(positions) for _, positions in parts)
    share = min(1.0, LOOKED_AT / total)
    found = []
    for number, (images, positions) in enumerate(parts):
        order = stream(seed, "looked at", number).permutation(len(positions))[: max(1, round(share * len(positions)))]
        found.append((images, positions[np.sort(order)]))
    return found


def _read(images: Images, parts: Sequence[Tensor], how: How) -> Iterator[tuple[Tensor, Tensor]]:
    """Images uint8 [B, C, H, W] and labels [B] of positions, part by part."""
    loader: DataLoader[Read] = DataLoader(
        Files(images, how),
        batch_sampler=[part.tolist() for part in parts],
        collate_fn=_together,
        num_workers=min(how.workers, len(parts)),
        generator=torch.Generator().manual_seed(0),  # that of the process stays as it is
    )
    yield from loader
