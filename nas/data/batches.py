"""The batches that a training loop takes from a split: shuffled, augmented and normalised on their device.

Shapes: B images in a batch, C channels, H x W pixels. Images stay uint8 until a batch is on its device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from nas.data.dataset import ImageData, Split
from nas.runtime import WHOLE, Share


def batches(
    split: Split,
    data: ImageData,
    batch_size: int,
    *,
    rng: np.random.Generator | None = None,
    augment: bool = False,
    drop_last: bool = False,
    device: torch.device | str = "cpu",
    channels_last: bool = False,
    share: Share = WHOLE,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """One pass over a split.

    Args:
        split: the images to pass over.
        data: the data set it belongs to, for normalisation and augmentation.
        batch_size: images per batch; the last batch may be smaller.
        rng: shuffles the images and drives the augmentation; None keeps their order.
        augment: crop and flip at random as `data` says; needs `rng`.
        drop_last: leave out a last batch that is not full.
        device: where batches are made; images move there as uint8.
        channels_last: give images that memory format.
        share: of each batch, changed at random as the whole is.

    Returns:
        Batches of float32 [B, C, H, W] images and int64 [B] labels on the device. `rng` is used by this call, not
        by the iteration.

    Raises:
        ValueError: no batch would come out, or `augment` lacks `rng`.
    """
    if batch_size <= 0:
        raise ValueError(f"`batch_size` must be 1 or more, got {batch_size}")
    if len(split) < (batch_size if drop_last else 1):
        raise ValueError(
            f"a split must fill a batch, got {len(split)} images for batch_size={batch_size}; "
            "use a smaller batch, more images or drop_last=False"
        )
    if augment and rng is None:
        raise ValueError("`augment` draws at random and needs `rng`, got None; pass numpy.random.default_rng(seed)")
    order = None if rng is None else torch.from_numpy(rng.permutation(len(split)))
    # Drawn on the CPU so that a run on a GPU augments as one on the CPU does.
    generator = torch.Generator().manual_seed(int(rng.integers(2**63))) if rng is not None and augment else None

    def batch(start: int) -> tuple[torch.Tensor, torch.Tensor]:
        part = range(start, min(start + batch_size, len(split)))
        own = slice(start + share.rank, part.stop, share.of)
        index = own if order is None else order[own]
        images = split.images[index].to(device)
        if generator is not None:
            images = _augment(images, data.crop_padding, data.flip, generator, len(part), share)
        if channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return normalize(images, data.mean, data.std), split.labels[index].to(device)

    stop = len(split) - (len(split) % batch_size if drop_last else 0)
    return map(batch, range(0, stop, batch_size))


def augment(
    images: torch.Tensor,
    crop_padding: int,
    flip: bool,
    generator: torch.Generator,
    whole: int | None = None,
    share: Share = WHOLE,
) -> torch.Tensor:
    """Shift every image by its own random offset, and mirror half of them.

    Args:
        images: uint8 [B, C, H, W] on any device.
        crop_padding: largest shift in pixels, either way in both directions; what moves in is 0.
        flip: whether to mirror left and right with probability one half.
        generator: a CPU generator; it draws the same numbers whatever the device and the two switches.
        whole: images in the batch that these are a share of; None for these alone.
        share: which of them these are.

    Returns:
        New images of the same shape, type and device.
    """
    count, channels, height, width = images.shape
    drawn = whole or count
    shifts = torch.randint(0, 2 * crop_padding + 1, (drawn, 2, 1), generator=generator)
    mirrored = torch.randint(0, 2, (drawn, 1), generator=generator)
    shifts, mirrored = (x[share.rows][:count].to(images.device) for x in (shifts, mirrored))
    mirrored = mirrored.bool() & flip
    rows = shifts[:, 0] + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    columns = shifts[:, 1] + torch.where(mirrored, width - 1 - columns, columns)
    padded = F.pad(images, (crop_padding,) * 4)
    # One gather in flattened pixels takes less than half the time of indexing rows and columns.
    pixels = rows[:, :, None] * padded.shape[3] + columns[:, None, :]
    index = pixels.view(count, 1, -1).expand(-1, channels, -1)
    return padded.flatten(2).gather(2, index).view_as(images)


def normalize(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Turn pixels into what a network takes.

    Args:
        images: uint8 [B, C, H, W] on any device.
        mean: per channel, of images / 255.
        std: per channel, of images / 255.

    Returns:
        (images / 255 - mean) / std as float32 [B, C, H, W], same device and memory format.
    """
    shift = torch.tensor(mean, device=images.device).mul_(255).view(-1, 1, 1)
    scale = torch.tensor(std, device=images.device).mul_(255).reciprocal_().view(-1, 1, 1)
    return images.to(torch.float32).sub_(shift).mul_(scale)


_augment = augment  # `batches` has a switch of that name
