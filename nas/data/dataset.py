"""Labelled images in memory, with splits fixed by a seed.

Shapes: N images in a split, B in a batch, C channels, H x W pixels. Images stay uint8 until a batch is on its device.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from nas.data.decoding import Found, Images, IntArray, check_labels, decode
from nas.data.folders import find_digits, find_path
from nas.data.libraries import LIBRARIES

TEST_FRACTION = 0.2  # carved out where a source has no test part of its own
CONSTANT = 1.0  # deviation that a constant channel is given


@dataclass(frozen=True)
class Split:
    """One part of a data set.

    Attributes:
        images: uint8 [N, C, H, W] on the CPU.
        labels: int64 [N] on the CPU.
    """

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class ImageData:
    """A data set in memory: three disjoint splits and what is needed to train on them.

    Attributes:
        name: what was asked for, such as 'digits' or the name of a folder.
        train: images to train on.
        validation: images to choose architectures with.
        test: images to report on, never used before.
        class_names: one name per label.
        mean: mean per channel of images / 255 over training and validation images.
        std: standard deviation of the same, 1 for a constant channel.
        crop_padding: pixels of zero padding before a random crop that suit the data; 0 for no crop.
        flip: whether mirrored images are images of the same class. Assumed for colour and not for gray images, which
            are mostly writing; `dataclasses.replace(data, flip=True)` says otherwise.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_padding: int
    flip: bool

    def __post_init__(self) -> None:
        for name in ("train", "validation", "test"):
            _check_split(name, getattr(self, name), len(self.class_names))

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of one image: channels, height, width."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @property
    def training(self) -> Split:
        """Training images followed by validation images, to retrain on; a copy."""
        parts = (self.train, self.validation)
        return Split(torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts]))

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the shapes, labels and pixels of all splits: equal for equal data on any machine."""
        digest = hashlib.sha256()
        for split in (self.train, self.validation, self.test):
            digest.update(repr(tuple(split.images.shape)).encode())
            digest.update(split.labels.numpy().astype("<i8").data)
            digest.update(split.images.contiguous().numpy().data)
        return digest.hexdigest()[:16]


def _check_split(name: str, split: Split, classes: int) -> None:
    """Refuse what is no split: deep inside it would fail, or mean something else."""
    images, labels = split.images, split.labels
    if images.dtype != torch.uint8 or images.dim() != 4:
        raise ValueError(
            f"`{name}` must hold images as uint8 of shape (N, channels, height, width), values from 0 to 255, got {images.dtype} of "
            f"shape {tuple(images.shape)}"
        )
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        raise ValueError(
            f"`{name}` must hold one int64 label for each of its {len(images)} images, got {labels.dtype} of shape "
            f"{tuple(labels.shape)}"
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(
            f"labels of `{name}` must be in 0..{classes - 1}, one for each of `class_names`, got {int(labels.min())} to "
            f"{int(labels.max())}; number the classes from 0"
        )


def with_normalisation(data: ImageData, mean: Sequence[float], std: Sequence[float]) -> ImageData:
    """The same images, normalised as the model was trained on, rather than by their own statistics."""
    channels = data.input_shape[0]
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != channels or (name == "std" and min(values) <= 0):
            raise ValueError(
                f"`{name}` must be {channels} numbers{' above 0' if name == 'std' else ''}, got {list(values)}"
            )
    return replace(data, mean=tuple(mean), std=tuple(std))


def with_classes(data: ImageData, names: Sequence[str]) -> ImageData:
    """The same images with labels in the order of a pretrained model's outputs, where its classes have the names of all of the data's.

    A name is found whatever its case, `_` is a space, and of several names that are joined by commas each counts. Data that already are
    in that order, or have a class without such a name, stay as they are.
    """
    known = {_plain(part): at for at, name in reversed(list(enumerate(names))) for part in (name, *name.split(","))}
    places = [known.get(_plain(name)) for name in data.class_names]
    if None in places or places == list(range(len(names))) or len(set(places)) < len(places):
        return data
    order = torch.tensor(places, dtype=torch.int64)

    def numbered(split: Split) -> Split:
        return Split(split.images, order[split.labels])

    train, validation, test = map(numbered, (data.train, data.validation, data.test))
    return replace(data, class_names=tuple(names), train=train, validation=validation, test=test)


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", " ")


def load_data(
    source: str | os.PathLike[str],
    *,
    seed: int = 0,
    limit: int | None = None,
    test_limit: int | None = None,
    validation_fraction: float = 0.5,
    image_size: int | None = None,
    damaged: Literal["refuse", "leave-out"] = "refuse",
    flip: bool | None = None,
    crop: int | None = None,
) -> ImageData:
    """Load labelled images and split them; the seed alone decides which image goes where.

    Sources:
        `digits`: 1,797 handwritten digits of 8 x 8 pixels that come with scikit-learn.
        A folder with a folder of images per class, or with 'train' and 'test' (or 'val') folders of these.
        A folder with train*.parquet and test*.parquet (or val*.parquet), or a single parquet file, in the layout of the
        Hugging Face hub.
        `torchvision:CIFAR10` or `torchvision:CIFAR10@FOLDER`: a data set class of torchvision, already downloaded.
        `datasets:uoft-cs/cifar10` or `datasets:FOLDER`: whatever `datasets.load_dataset` accepts by that name.

    A source without a test part has a fifth of each class set aside for it. Where a source has both a test and a validation part
    (`val` or `validation`), validation images are those of the latter; else they come from the training part.

    Args:
        source: one of the above; a path object is never taken for a name.
        seed: decides the splits, 0 or more.
        limit: training and validation images to keep, in the proportions of the classes; the others are not decoded. Of a source with
            a validation part, so many training images, and the same share of the validation part's.
        test_limit: the same for test images; may be smaller than the number of classes.
        validation_fraction: fraction of the kept images, of each class, that goes to validation, if there is no validation part.
        image_size: side in pixels that images are resized and centre cropped to; None keeps the size they have.
        flip: whether training mirrors images at random; None for colour images alone, as gray ones are mostly writing.
        crop: pixels of zero padding before training crops at random; 0 for no crop, None for an eighth of the shorter side.
        damaged: whether images that cannot be read are refused, all of them named, or left out.

    Returns:
        The data set; within a split, images stand in the order of the source.

    Raises:
        FileNotFoundError: the path does not exist, or a named set is not downloaded.
        ValueError: an argument is out of range, the data cannot be used, or the source needs a package to install.
    """
    found, chosen = choose_images(
        source,
        seed=seed,
        limit=limit,
        test_limit=test_limit,
        validation_fraction=validation_fraction,
        image_size=image_size,
    )
    parts = decode(chosen, image_size, leave_out_damaged=damaged == "leave-out")
    splits = [
        Split(torch.from_numpy(part.pixels), torch.from_numpy(images.labels[part.positions]))
        for part, (images, _) in zip(parts, chosen, strict=True)
    ]
    _check_splits(found, splits)
    mean, std = channel_statistics(split.images for split in splits[:2])
    if all(deviation == CONSTANT for deviation in std):
        raise ValueError(
            f"training images must differ, got {len(splits[0]):,} of {found.name!r} that hold one value, "
            f"{' '.join(map(str, splits[0].images[0, :, 0, 0].tolist()))} of 255; see whether they are read as they were meant"
        )
    height, width = splits[0].images.shape[2:]
    return ImageData(
        name=found.name,
        train=splits[0],
        validation=splits[1],
        test=splits[2],
        class_names=found.class_names,
        mean=mean,
        std=std,
        crop_padding=min(height, width) // 8 if crop is None else crop,
        flip=len(mean) == 3 if flip is None else flip,
    )


def choose_images(
    source: str | os.PathLike[str],
    *,
    seed: int = 0,
    limit: int | None = None,
    test_limit: int | None = None,
    validation_fraction: float = 0.5,
    image_size: int | None = None,
) -> tuple[Found, list[tuple[Images, IntArray]]]:
    """The images of a source, none of them decoded, and which of them are training, validation and test images; see `load_data`.

    Returns:
        What was found, and for each part the images that it is of and its positions in them, rising.
    """
    _check_arguments(seed, limit, test_limit, validation_fraction, image_size)
    found = _find(source)
    check_labels(found)
    train, validation, test = _choose(found, seed, limit, test_limit, validation_fraction)
    return found, [
        (found.train, train),
        (found.validation or found.train, validation),
        (found.test or found.train, test),
    ]


def _check_arguments(
    seed: int, limit: int | None, test_limit: int | None, validation_fraction: float, image_size: int | None
) -> None:
    if seed < 0:
        raise ValueError(f"`seed` must be 0 or more, got {seed}")
    if not 0 < validation_fraction < 1:
        raise ValueError(
            f"`validation_fraction` must be between 0 and 1, both excluded, got {validation_fraction}; "
            "0.5 validates on half of the training images"
        )
    for name, value in (("limit", limit), ("test_limit", test_limit), ("image_size", image_size)):
        if value is not None and value <= 0:
            raise ValueError(f"`{name}` must be 1 or more, got {value}; leave it out to keep all")


def _find(source: str | os.PathLike[str]) -> Found:
    if isinstance(source, str):
        kind, _, rest = source.partition(":")
        if source == "digits":
            return find_digits()
        if kind in LIBRARIES and rest:
            return LIBRARIES[kind](rest)
    path = Path(source).expanduser()
    if not path.exists():
        raise _unknown(source)
    return find_path(path, path.resolve().stem if path.is_file() else path.resolve().name)


def _unknown(source: str | os.PathLike[str]) -> Exception:
    text = os.fspath(source)
    rest = text.partition(":")[2] or "NAME"
    names = ["digits", *(f"{prefix}:{rest}" for prefix in LIBRARIES)]
    near = difflib.get_close_matches(Path(text).name if ":" not in text else text, names, n=1)
    way_out = f"did you mean {near[0]!r}?" if near else "check the spelling"
    misspelt_name = isinstance(source, str) and (":" in text or not {"/", os.sep, "."} & set(text))
    kind = ValueError if misspelt_name else FileNotFoundError
    rule = "data must be an existing file or folder, 'digits', 'torchvision:NAME' or 'datasets:NAME'"
    return kind(f"{rule}, got {text!r}; {way_out}")


def channel_statistics(parts: Iterable[torch.Tensor]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of images / 255, uint8 [N, C, H, W], from exact integer sums."""
    count, total, squares = 0, torch.zeros((), dtype=torch.int64), torch.zeros((), dtype=torch.int64)
    for images in parts:
        channels = images.shape[1]
        for start in range(0, len(images), 1024):
            values = images[start : start + 1024].to(torch.int32)
            count += values.numel() // channels
            total = total + values.sum((0, 2, 3))
            squares = squares + values.square_().sum((0, 2, 3))
    mean = total.double() / count
    variance = (squares.double() / count - mean.square()).clamp(min=0)
    std = torch.where(variance > 1e-6, variance.sqrt() / 255, CONSTANT)
    return tuple((mean / 255).tolist()), tuple(std.tolist())


def _choose(
    found: Found, seed: int, limit: int | None, test_limit: int | None, validation_fraction: float
) -> tuple[IntArray, IntArray, IntArray]:
    """Positions of the training, validation and test images, each rising."""
    labels = found.train.labels
    _check_class_sizes(found)
    # One generator per decision: a limit on one part leaves the others as they are.
    rngs = [np.random.default_rng([seed, stream]) for stream in range(4)]
    kept = np.arange(len(labels))
    whole = len(kept)
    if found.test is None:
        test = _stratified(labels, kept, round(TEST_FRACTION * len(kept)), rngs[0], at_least=1, leave=2)
        kept = np.setdiff1d(kept, test, assume_unique=True)
        test_labels = labels
    else:
        test, test_labels = np.arange(len(found.test.labels)), found.test.labels
    if test_limit is not None:
        test = _stratified(test_labels, test, test_limit, rngs[1])
    if limit is not None:
        _check_limit(limit, 2 * len(np.unique(labels)))
        kept = _stratified(labels, kept, limit, rngs[2], at_least=2)
    if found.validation is not None:
        own = found.validation.labels
        every = np.arange(len(own))
        return (
            kept,
            every if limit is None else _stratified(own, every, round(len(own) * len(kept) / whole), rngs[3]),
            test,
        )
    validation = _stratified(labels, kept, round(validation_fraction * len(kept)), rngs[3], at_least=1, leave=1)
    return np.setdiff1d(kept, validation, assume_unique=True), validation, test


def _check_splits(found: Found, splits: Sequence[Split]) -> None:
    """Refuse parts that lost all their images, and warn of classes that no test image has."""
    for name, split in zip(("training", "validation", "test"), splits, strict=True):
        if not len(split):
            raise ValueError(f"the {name} part of {found.name!r} must hold images that can be read, got none")
    absent = [] if found.test is None else np.setdiff1d(found.train.labels, found.test.labels).tolist()
    if absent:
        names = ", ".join(repr(found.class_names[label]) for label in absent)
        warnings.warn(
            f"no test image of {found.name!r} is of class {names}: test figures say nothing of it", stacklevel=3
        )


def _check_class_sizes(found: Found) -> None:
    needed = 1 + (found.test is None) + (found.validation is None)
    sizes = np.bincount(found.train.labels)
    for label in np.flatnonzero((sizes > 0) & (sizes < needed)):
        raise ValueError(
            f"every class must have an image for each of {needed} parts, got {sizes[label]} of class "
            f"{found.class_names[label]!r}; add images or remove the class"
        )
    for name, part in (("test", found.test), ("validation", found.validation)):
        if part is not None and not len(part.labels):
            raise ValueError(f"the {name} part of {found.name!r} must hold images, got none; fill it or remove it")


def _check_limit(limit: int, smallest: int) -> None:
    if limit < smallest:
        raise ValueError(
            f"`limit` must keep a training and a validation image of every class, at least {smallest}, got {limit}; "
            f"use --limit {smallest} or more"
        )


def _stratified(
    labels: IntArray, among: IntArray, count: int, rng: np.random.Generator, at_least: int = 0, leave: int = 0
) -> IntArray:
    """Choose positions so that every class is represented in proportion.

    Args:
        labels: class of every image, int64 [N].
        among: positions to choose from.
        count: how many; moved into what the two bounds allow.
        rng: decides which.
        at_least: chosen of every class at the least.
        leave: not chosen of every class at the least.

    Returns:
        The chosen positions, rising.
    """
    inside = labels[among]
    sizes = np.bincount(inside)
    present = sizes > 0
    takes = _allocate(sizes, count, np.where(present, at_least, 0), np.where(present, sizes - leave, 0))
    shuffled = rng.permutation(len(among))
    by_class = shuffled[np.argsort(inside[shuffled], kind="stable")]
    place_in_class = np.arange(len(among)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    chosen: IntArray = np.sort(among[by_class[place_in_class < np.repeat(takes, sizes)]])
    return chosen


def _allocate(sizes: IntArray, count: int, low: IntArray, high: IntArray) -> IntArray:
    """Share `count` among classes in proportion to their sizes, within bounds, by largest remainder."""
    count = int(np.clip(count, low.sum(), high.sum()))
    ideal = count * sizes / sizes.sum()
    takes: IntArray = np.clip(ideal.astype(np.int64), low, high)
    while takes.sum() < count:
        takes[np.argmax(np.where(takes < high, ideal - takes, -np.inf))] += 1
    while takes.sum() > count:
        takes[np.argmin(np.where(takes > low, ideal - takes, np.inf))] -= 1
    return takes
