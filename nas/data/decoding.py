"""Labelled images before they are decoded, and how they become uint8 arrays, in threads.

Finding is apart from decoding, so that a split or a limit is chosen from labels alone and nothing else is decoded.

Shapes: N images, C channels, H x W pixels.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

IntArray = NDArray[np.int64]
ByteArray = NDArray[np.uint8]
Encoded = bytes | Path | Image.Image

TEST_NAMES = ("test", "val", "validation")

_GRAY_MODES = frozenset({"1", "L", "LA", "La"})


@dataclass(frozen=True)
class Images:
    """Labelled images that are known but not decoded yet.

    Attributes:
        labels: class of each image, int64 [N].
        fetch: position to what holds the image; called with rising positions from one thread.
        where: position to words that tell a person which image that is.
    """

    labels: IntArray
    fetch: Callable[[int], Encoded]
    where: Callable[[int], str]


@dataclass(frozen=True)
class Found:
    """A data set before decoding; `test` is None where it has to be carved out of `train`."""

    name: str
    train: Images
    test: Images | None
    class_names: tuple[str, ...]


def default_class_names(labels: IntArray) -> tuple[str, ...]:
    """Names '0', '1', ... for as many classes as there are distinct labels."""
    return tuple(str(number) for number in range(len(np.unique(labels))))


def as_labels(values: Any, where: str) -> IntArray:
    """Labels of any kind of sequence as int64 [N]; `where` names one image, without its number, in an error."""
    labels = np.asarray(values if hasattr(values, "__array__") else list(values))
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(
            f"every image must have one integer label, got {labels.dtype} of shape {labels.shape} for {where}s; "
            "save the images as a folder per class"
        )
    return labels.astype(np.int64)


def check_labels(found: Found) -> None:
    """Refuse a data set without images, with labels outside its classes, or with one class only.

    Raises:
        ValueError: naming the first image at fault, or the only class.
    """
    if not len(found.train.labels):
        raise ValueError(f"{found.name!r} must hold training images, got none; fill it or name other data")
    classes = len(found.class_names)
    for images in (found.train, found.test):
        if images is None:
            continue
        wrong = np.flatnonzero((images.labels < 0) | (images.labels >= classes))
        if len(wrong):
            raise ValueError(
                f"labels must be in 0..{classes - 1} for {classes} classes, got {images.labels[wrong[0]]} in "
                f"{images.where(int(wrong[0]))} ({len(wrong)} such); number the classes from 0 without gaps, or list "
                "all class names in the file's metadata"
            )
    present = np.unique(found.train.labels)
    if len(present) < 2:
        only = found.class_names[present[0]]
        raise ValueError(f"{found.name!r} needs at least 2 classes to train on, got only {only!r}; add another class")


def decode(parts: Sequence[tuple[Images, IntArray]], image_size: int | None) -> list[ByteArray]:
    """Decode chosen images of several parts to one common shape.

    Channels are 1 where every image is gray and 3 otherwise. Transparency is dropped and the EXIF orientation applied.

    Args:
        parts: images and the rising positions to decode, at least one; a part may share its images with another.
        image_size: side in pixels that images are resized (shortest side) and centre cropped to; None keeps their size.

    Returns:
        One uint8 array [N, C, H, W] per part.

    Raises:
        ValueError: an image is damaged, sizes differ and `image_size` is None, or memory does not suffice.
    """
    images, positions = parts[0]
    first = _pixels(images, image_size, int(positions[0]), images.fetch(int(positions[0])))
    total = sum(len(positions) for _, positions in parts)
    check_memory(total, first.shape)
    reference = (first, images.where(int(positions[0])))
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        arrays = [_decode_part(images, positions, image_size, reference, pool) for images, positions in parts]
    channels = max(array.shape[1] for array in arrays)
    if any(array.shape[1] < channels for array in arrays):
        check_memory(total, (*first.shape[:2], channels))
    return [array if array.shape[1] == channels else np.repeat(array, channels, axis=1) for array in arrays]


def _decode_part(
    images: Images,
    positions: IntArray,
    image_size: int | None,
    reference: tuple[ByteArray, str],
    pool: ThreadPoolExecutor,
) -> ByteArray:
    first, first_where = reference
    height, width = first.shape[:2]
    out = np.empty((len(positions), 1 if first.ndim == 2 else 3, height, width), np.uint8)
    # Blocks bound what is decoded but not yet stored to about 64 MiB.
    block = max(8, min(2048, 2**26 // first.nbytes))
    for start in range(0, len(positions), block):
        for row, pixels in enumerate(_decode_block(images, positions[start : start + block], image_size, pool), start):
            if pixels.shape[:2] != (height, width):
                raise ValueError(
                    f"images must have one size, got {height} x {width} (height x width) in {first_where} and "
                    f"{pixels.shape[0]} x {pixels.shape[1]} in {images.where(int(positions[row]))}; give "
                    f"`image_size`, such as {min(height, width)}, to resize and crop them"
                )
            if pixels.ndim == 3 and out.shape[1] == 1:
                out = np.repeat(out, 3, axis=1)
            out[row] = pixels if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return out


def _decode_block(
    images: Images, positions: IntArray, image_size: int | None, pool: ThreadPoolExecutor
) -> Iterator[ByteArray]:
    fetched = [(int(position), images.fetch(int(position))) for position in positions]
    # Small images cost less than a hand-over between threads: give each thread several at once.
    runs = [fetched[start : start + 32] for start in range(0, len(fetched), 32)]
    return chain.from_iterable(pool.map(partial(_decode_run, images, image_size), runs))


def _decode_run(images: Images, image_size: int | None, run: Sequence[tuple[int, Encoded]]) -> list[ByteArray]:
    return [_pixels(images, image_size, position, encoded) for position, encoded in run]


def _pixels(images: Images, image_size: int | None, position: int, encoded: Encoded) -> ByteArray:
    """One image as uint8 [H, W] where gray and [H, W, 3] otherwise."""
    try:
        if isinstance(encoded, Image.Image):
            return _to_array(encoded, image_size)
        with Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded) as image:
            return _to_array(image, image_size)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers raise many kinds on damaged input, struct.error and IndexError too
        raise ValueError(
            f"{images.where(position)} is not an image that can be read ({error}); replace or remove it"
        ) from error


def _to_array(image: Image.Image, image_size: int | None) -> ByteArray:
    if image_size is not None:
        image.draft(image.mode, (image_size, image_size))  # lets JPEG decode at a smaller scale, never below this size
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bit gray, which Pillow would clip to 255
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("floating-point pixels have no fixed range, save it with 8 bits")
    mode = "L" if image.mode in _GRAY_MODES else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    if image_size is not None and image.size != (image_size, image_size):
        image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BILINEAR)
    return np.asarray(image)


def check_memory(count: int, shape: tuple[int, ...]) -> None:
    """Refuse to decode more than the memory holds.

    Args:
        count: images to decode.
        shape: shape of one as uint8, so its product is its bytes.

    Raises:
        ValueError: with the bytes needed and available.
    """
    needed, available = count * int(np.prod(shape)), available_memory()
    if available is not None and needed > available:
        raise ValueError(
            f"decoded images must fit into memory, got {count} of {' x '.join(map(str, shape))} bytes = "
            f"{needed / 1e9:.1f} GB with {available / 1e9:.1f} GB available; use `limit` for fewer or "
            "`image_size` for smaller images"
        )


def available_memory() -> int | None:
    """Bytes that can be allocated now, None where the system does not tell."""
    try:
        # The kernel's own estimate: SC_AVPHYS_PAGES would count cached files as used.
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        available = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        try:
            available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, ValueError, OSError):
            return None
    try:
        return min(available, int(Path("/sys/fs/cgroup/memory.max").read_text()))  # a container's own limit
    except (OSError, ValueError):
        return available
