"""Labelled images before they are decoded, and how they become uint8 arrays, in threads.

Finding is apart from decoding, so that a split or a limit is chosen from labels alone and nothing else is decoded.

Shapes: N images, C channels, H x W pixels.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from search_spaces.core import first_line

IntArray = NDArray[np.int64]
ByteArray = NDArray[np.uint8]
Encoded = bytes | Path | Image.Image

TEST_NAMES = ("test", "val", "validation")

NAMED = 50  # damaged images that a message lists

_GRAY_MODES = frozenset({"1", "L", "LA", "La"})
_TRANSPARENT_MODES = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})


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
    """A data set before decoding; `test` and `validation` are None where they have to be carved out of `train`."""

    name: str
    train: Images
    test: Images | None
    class_names: tuple[str, ...]
    validation: Images | None = None


def held_out_parts(names: Collection[str]) -> tuple[str | None, str | None]:
    """Which of these parts are for validation and for test; a lone val or validation part is for test."""
    test = next((name for name in TEST_NAMES if name in names), None)
    return next((name for name in TEST_NAMES[1:] if name in names and test == "test"), None), test


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
    for images in (found.train, found.validation, found.test):
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


def decode(
    parts: Sequence[tuple[Images, IntArray]], image_size: int | None, *, leave_out_damaged: bool = False
) -> list[Decoded]:
    """Decode chosen images of several parts to one common shape.

    Channels are 1 where every image is gray and 3 otherwise. The EXIF orientation is applied. Transparency is dropped; where all
    colours of an image are one, its transparency is the image. Gray images of more than 8 bits are read by as many bits as the largest
    value of all parts but the last needs, and these are warned of: 12-bit values are divided by 16, and those up to 255 stay.

    Args:
        parts: images and the rising positions to decode, at least one; a part may share its images with another.
        image_size: side in pixels that images are resized (shortest side) and centre cropped to; None keeps their size.
        leave_out_damaged: go on without images that cannot be read.

    Raises:
        ValueError: images are damaged, sizes differ and `image_size` is None, or memory does not suffice.
    """
    reference = _first(parts, image_size)
    total = sum(len(positions) for _, positions in parts)
    first = reference[0]
    check_memory(total, first.shape if first.dtype == np.uint8 else (*first.shape, 1 + first.itemsize))
    damaged: list[Damaged] = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = [_decode_part(images, positions, image_size, reference, pool, damaged) for images, positions in parts]
    if damaged and not leave_out_damaged:
        raise _unreadable(damaged)
    if damaged:
        warnings.warn(f"{len(damaged)} images that cannot be read are left out: {_listed(damaged)}", stacklevel=2)
    _settle_deep(found)
    channels = max(part.pixels.shape[1] for part in found)
    if any(part.pixels.shape[1] < channels for part in found):
        check_memory(total, (*reference[0].shape[:2], channels))
    return [part.readable(channels) for part in found]


@dataclass
class Decoded:
    """A part while it is decoded, and after.

    Attributes:
        pixels: uint8 [N, C, H, W].
        positions: of its images, int64 [N], rising.
        read: whether each could be read, bool [N].
        deep: images of more than 8 bits by their rows in `pixels`, [H, W] each.
    """

    pixels: ByteArray
    positions: IntArray
    read: NDArray[np.bool_]
    deep: dict[int, NDArray[Any]]

    def readable(self, channels: int) -> Decoded:
        """The images that could be read, of so many channels."""
        pixels = self.pixels if self.read.all() else self.pixels[self.read]
        if pixels.shape[1] < channels:
            pixels = np.repeat(pixels, channels, axis=1)
        return Decoded(pixels, self.positions[self.read], self.read[self.read], {})


class Damaged(NamedTuple):
    """An image that cannot be read: which one, in words, and why."""

    where: str
    error: str


def _unreadable(damaged: Sequence[Damaged]) -> ValueError:
    return ValueError(
        f"images must be readable, got {len(damaged)} that are not: {_listed(damaged)}; replace or remove them, or leave them out by "
        "`damaged='leave-out'`"
    )


def _listed(damaged: Sequence[Damaged]) -> str:
    more = f" and {len(damaged) - NAMED} more" if len(damaged) > NAMED else ""
    return ", ".join(f"{where} ({error})" for where, error in damaged[:NAMED]) + more


def _first(parts: Sequence[tuple[Images, IntArray]], image_size: int | None) -> tuple[NDArray[Any], str]:
    """The first image that can be read, and where it is."""
    damaged = []
    for images, positions in parts:
        for position in positions.tolist():
            pixels = _pixels(images, image_size, position, images.fetch(position))
            if not isinstance(pixels, Damaged):
                return pixels, images.where(position)
            damaged.append(pixels)
    raise _unreadable(damaged)


def _decode_part(
    images: Images,
    positions: IntArray,
    image_size: int | None,
    reference: tuple[NDArray[Any], str],
    pool: ThreadPoolExecutor,
    damaged: list[Damaged],
) -> Decoded:
    first, first_where = reference
    height, width = first.shape[:2]
    out = np.zeros((len(positions), 1 if first.ndim == 2 else 3, height, width), np.uint8)
    read, deep = np.ones(len(positions), np.bool_), {}
    # Blocks bound what is decoded but not yet stored to about 64 MiB.
    block = max(8, min(2048, 2**26 // first.nbytes))
    for start in range(0, len(positions), block):
        for row, pixels in enumerate(_decode_block(images, positions[start : start + block], image_size, pool), start):
            if isinstance(pixels, Damaged):
                damaged.append(pixels)
                read[row] = False
                continue
            if pixels.shape[:2] != (height, width):
                raise ValueError(
                    f"images must have one size, got {height} x {width} (height x width) in {first_where} and "
                    f"{pixels.shape[0]} x {pixels.shape[1]} in {images.where(int(positions[row]))}; give "
                    f"`image_size`, such as {min(height, width)}, to resize and crop them"
                )
            if pixels.dtype != np.uint8:
                deep[row] = pixels
                continue
            if pixels.ndim == 3 and out.shape[1] == 1:
                out = np.repeat(out, 3, axis=1)
            out[row] = pixels if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return Decoded(out, positions, read, deep)


def _settle_deep(parts: Sequence[Decoded]) -> None:
    """Bring images of more than 8 bits to 8, all alike; the last part, which is reported on, has no say in it."""
    known = [pixels for part in (parts[:-1] or parts) for pixels in part.deep.values()]
    if not any(part.deep for part in parts):
        return
    largest = max((int(pixels.max()) for pixels in known), default=2**16 - 1)
    bits = max(8, largest.bit_length())
    for part in parts:
        for row, pixels in part.deep.items():
            part.pixels[row] = (pixels >> (bits - 8)).clip(max=255)
    if bits != 16:
        divided = f"divided by {2 ** (bits - 8)}" if bits > 8 else "taken as they are"
        warnings.warn(
            f"gray images of more than 8 bits have values up to {largest:,}, so that they are read as {bits} bits: {divided}",
            stacklevel=3,
        )


def _decode_block(
    images: Images, positions: IntArray, image_size: int | None, pool: ThreadPoolExecutor
) -> Iterator[NDArray[Any] | Damaged]:
    fetched = [(int(position), images.fetch(int(position))) for position in positions]
    # Small images cost less than a hand-over between threads: give each thread several at once.
    runs = [fetched[start : start + 32] for start in range(0, len(fetched), 32)]
    return chain.from_iterable(pool.map(partial(_decode_run, images, image_size), runs))


def _decode_run(
    images: Images, image_size: int | None, run: Sequence[tuple[int, Encoded]]
) -> list[NDArray[Any] | Damaged]:
    return [_pixels(images, image_size, position, encoded) for position, encoded in run]


def _pixels(images: Images, image_size: int | None, position: int, encoded: Encoded) -> NDArray[Any] | Damaged:
    """One image as uint8 [H, W] where gray and [H, W, 3] otherwise; uint16 or uint32 [H, W] where gray of more."""
    try:
        if isinstance(encoded, Image.Image):
            return _to_array(encoded, image_size)
        with Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded) as image:
            return _to_array(image, image_size)
    except MemoryError:
        raise
    except UnidentifiedImageError:
        return Damaged(images.where(position), "no known format")
    except Exception as error:  # Pillow's readers raise many kinds on damaged input, struct.error and IndexError too
        return Damaged(images.where(position), first_line(error))


def read_one(images: Images, position: int, image_size: int | None, channels: int, bits: int) -> ByteArray | Damaged:
    """One image, uint8 [channels, H, W]; gray ones of more than 8 bits lose all but the highest 8 of `bits`.

    Raises:
        ValueError: it is in colour where `channels` is 1.
    """
    pixels = _pixels(images, image_size, position, images.fetch(position))
    if isinstance(pixels, Damaged):
        return pixels
    if pixels.dtype != np.uint8:
        pixels = (pixels >> (bits - 8)).clip(max=255).astype(np.uint8)
    if pixels.ndim == 2:
        return np.repeat(pixels[None], channels, axis=0)
    if channels == 1:
        raise ValueError(
            f"images must all be gray if those looked at first are, got {images.where(position)} in colour"
        )
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def look_at(images: Images, positions: Sequence[int], image_size: int | None) -> tuple[int, int]:
    """Channels of images, 1 where all of some are gray, and bits of their gray values, 8 or more.

    Raises:
        ValueError: none of them can be read.
    """
    found = [_pixels(images, image_size, at, images.fetch(at)) for at in positions]
    read = [pixels for pixels in found if not isinstance(pixels, Damaged)]
    if not read:
        raise _unreadable([pixels for pixels in found if isinstance(pixels, Damaged)])
    deep = [int(pixels.max()) for pixels in read if pixels.dtype != np.uint8]
    return 3 if any(pixels.ndim == 3 for pixels in read) else 1, max(8, max(deep, default=0).bit_length())


def _to_array(image: Image.Image, image_size: int | None) -> NDArray[Any]:
    if image_size is not None:
        image.draft(image.mode, (image_size, image_size))  # lets JPEG decode at a smaller scale, never below this size
    image = ImageOps.exif_transpose(image)
    deep = image.mode.startswith("I")
    if deep:  # Pillow would clip it to 255; resizing needs floating point
        image = Image.fromarray(np.asarray(image).astype(np.float32))
    elif image.mode == "F":
        raise ValueError("floating-point pixels have no fixed range, save it with 8 bits")
    else:
        image = _shown(image)
        mode = "L" if image.mode in _GRAY_MODES else "RGB"
        if image.mode != mode:
            image = image.convert(mode)
    if image_size is not None and image.size != (image_size, image_size):
        image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BILINEAR)
    if not deep:
        return np.asarray(image)
    values = np.rint(np.asarray(image).clip(min=0))
    return values.astype(np.uint16 if values.max() < 2**16 else np.uint32)


def _shown(image: Image.Image) -> Image.Image:
    """An image, or its transparency where that alone shows anything."""
    if image.mode not in _TRANSPARENT_MODES and "transparency" not in image.info:
        return image
    pixels = np.asarray(image.convert("RGBA"))
    shows_nothing = (pixels[..., :3] == pixels[0, 0, :3]).all() and (pixels[..., 3] != pixels[0, 0, 3]).any()
    return Image.fromarray(np.ascontiguousarray(pixels[..., 3])) if shows_nothing else image


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
