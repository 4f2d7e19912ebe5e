"""What augmentation does to an image, and what one pass over a split gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.data.batches import augment, batches
from nas.data.dataset import ImageData, Split, load_data


def _random_images(count: int, channels: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator)


shapes = st.tuples(st.integers(1, 9), st.sampled_from([1, 3]), st.integers(1, 9), st.integers(1, 9))


@given(shape=shapes, padding=st.integers(0, 4), flip=st.booleans(), seed=st.integers(0, 2**60))
@settings(max_examples=100, deadline=None)
def test_augmented_images_are_windows_of_the_padded_original(
    shape: tuple[int, int, int, int], padding: int, flip: bool, seed: int
) -> None:
    images = _random_images(*shape, seed=seed % 1000)
    before = images.clone()
    result = augment(images, padding, flip, torch.Generator().manual_seed(seed))
    assert torch.equal(images, before)
    assert result.dtype == torch.uint8 and result.shape == images.shape
    height, width = shape[2:]
    padded = F.pad(images, (padding,) * 4)
    for image, original in zip(result, padded, strict=True):
        windows = [
            original[:, top : top + height, left : left + width]
            for top in range(2 * padding + 1)
            for left in range(2 * padding + 1)
        ]
        mirrored = [window.flip(2) for window in windows] if flip else []
        assert any(torch.equal(image, window) for window in windows + mirrored)


@given(shape=shapes, seed=st.integers(0, 2**60))
@settings(max_examples=30, deadline=None)
def test_no_padding_and_no_flip_change_nothing(shape: tuple[int, int, int, int], seed: int) -> None:
    images = _random_images(*shape)
    assert torch.equal(augment(images, 0, False, torch.Generator().manual_seed(seed)), images)


def test_every_offset_and_both_directions_occur_equally_often() -> None:
    picture = torch.arange(1, 10, dtype=torch.uint8).view(1, 1, 3, 3)
    result = augment(picture.expand(18_000, 1, 3, 3), 1, True, torch.Generator().manual_seed(0))
    _, counts = result.flatten(1).unique(dim=0, return_counts=True)
    assert len(counts) == 18  # 3 x 3 offsets, mirrored or not
    assert counts.min() > 850 and counts.max() < 1150  # 1,000 expected, standard deviation 31


def test_augmentation_keeps_any_memory_format() -> None:
    images = _random_images(4, 3, 6, 5)
    strided = images.contiguous(memory_format=torch.channels_last)
    first, second = (augment(x, 2, True, torch.Generator().manual_seed(3)) for x in (images, strided))
    assert torch.equal(first, second)


@pytest.mark.gpu
def test_cuda_augments_as_the_cpu_does() -> None:
    images = _random_images(64, 3, 32, 32)
    first, second = (augment(x, 4, True, torch.Generator().manual_seed(3)) for x in (images, images.cuda()))
    assert torch.equal(first, second.cpu())


@pytest.fixture(scope="module")
def small() -> ImageData:
    return load_data("digits", limit=100, test_limit=20)


def test_batches_in_order(small: ImageData) -> None:
    taken = list(batches(small.train, small, 16))
    assert [len(labels) for _, labels in taken] == [16, 16, 16, 2]
    assert torch.equal(torch.cat([labels for _, labels in taken]), small.train.labels)
    expected = (small.train.images / 255 - small.mean[0]) / small.std[0]
    images = torch.cat([images for images, _ in taken])
    assert images.dtype == torch.float32
    torch.testing.assert_close(images, expected)


def _pairs(images: torch.Tensor, labels: torch.Tensor) -> list[tuple[bytes, int]]:
    return [(image.numpy().tobytes(), label) for image, label in zip(images, labels.tolist(), strict=True)]


def test_shuffled_batches_hold_every_image_once_with_its_label(small: ImageData) -> None:
    taken = list(batches(small.train, small, 16, rng=np.random.default_rng(0)))
    labels = torch.cat([labels for _, labels in taken])
    assert not torch.equal(labels, small.train.labels)
    pixels = torch.cat([images for images, _ in taken]) * small.std[0] + small.mean[0]
    assert sorted(_pairs((pixels * 255).round().byte(), labels)) == sorted(
        _pairs(small.train.images, small.train.labels)
    )


def test_batches_repeat_with_the_generator(small: ImageData) -> None:
    def passes(seed: int) -> list[torch.Tensor]:
        rng = np.random.default_rng(seed)
        return [images for _ in range(2) for images, _ in batches(small.train, small, 10, rng=rng, augment=True)]

    first, again, other = passes(1), passes(1), passes(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert not torch.equal(first[0], first[5])  # the second pass draws anew


def test_batches_augment_as_the_data_says(small: ImageData) -> None:
    still = replace(small, crop_padding=0, flip=False)
    plain, same, moved = (
        next(batches(small.train, data, 20, rng=np.random.default_rng(4), augment=switch))[0]
        for data, switch in ((still, False), (still, True), (small, True))
    )
    assert torch.equal(plain, same)
    assert not torch.equal(plain, moved)


def test_each_pass_augments_anew(small: ImageData) -> None:
    alike = replace(small, train=Split(small.train.images[:1].expand(50, 1, 8, 8), small.train.labels))
    rng = np.random.default_rng(0)
    first, second = (next(batches(alike.train, alike, 50, rng=rng, augment=True))[0] for _ in range(2))
    assert not torch.equal(first, second)


def test_drop_last_and_channels_last(small: ImageData) -> None:
    colour = replace(
        small,
        train=Split(_random_images(50, 3, 8, 8), small.train.labels),
        mean=(0.1, 0.2, 0.3),
        std=(0.5, 0.6, 0.7),
    )
    taken = list(batches(colour.train, colour, 16, drop_last=True, channels_last=True))
    assert [len(labels) for _, labels in taken] == [16, 16, 16]
    assert taken[0][0].is_contiguous(memory_format=torch.channels_last)
    plain = next(batches(colour.train, colour, 16))[0]
    assert torch.equal(taken[0][0], plain)
    expected = (colour.train.images[:16, 2] / 255 - 0.3) / 0.7
    torch.testing.assert_close(plain[:, 2], expected)


def test_batch_errors(small: ImageData) -> None:
    with pytest.raises(ValueError, match="must fill a batch, got 50 images for batch_size=51; use a smaller batch"):
        batches(small.train, small, 51, drop_last=True)
    with pytest.raises(ValueError, match="`batch_size` must be 1 or more, got 0"):
        batches(small.train, small, 0)
    with pytest.raises(ValueError, match="`augment` draws at random and needs `rng`, got None"):
        batches(small.train, small, 8, augment=True)
    empty = Split(small.train.images[:0], small.train.labels[:0])
    with pytest.raises(ValueError, match="must fill a batch, got 0 images"):
        batches(empty, small, 8)
    assert len(list(batches(small.train, small, 50, drop_last=True))) == 1
