"""How data is split, described and told apart, and what `load_data` refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike
from PIL import Image
from torch.utils.data import TensorDataset

import nas.data.dataset as data_module
from nas import search
from nas.data import named_data
from nas.data.batches import batches, normalize
from nas.data.dataset import ImageData, Split, load_data
from nas.data.decoding import Found, Images
from tests.small_data import class_folder, png, same_data

REPOSITORY = Path(__file__).parents[3]


def test_digits_are_complete_gray_and_scaled() -> None:
    data = load_data("digits")
    assert (len(data.train), len(data.validation), len(data.test)) == (719, 719, 359)
    assert data.input_shape == (1, 8, 8)
    assert data.class_names == tuple("0123456789")
    assert data.num_classes == 10
    assert (data.crop_padding, data.flip) == (1, False)
    assert data.train.images.dtype == torch.uint8 and data.train.labels.dtype == torch.int64
    assert (int(data.train.images.min()), int(data.train.images.max())) == (0, 255)


def test_digits_keep_their_labels() -> None:
    from sklearn.datasets import load_digits

    original = load_digits()
    known = {
        np.rint(image * 255 / 16).astype(np.uint8).tobytes(): int(label)
        for image, label in zip(original.images, original.target, strict=True)
    }
    data = load_data("digits", seed=3)
    for split in (data.train, data.validation, data.test):
        assert [known[image.numpy().tobytes()] for image in split.images] == split.labels.tolist()


def test_statistics_are_those_of_training_and_validation_images() -> None:
    data = load_data(source="digits", limit=100)
    pixels = data.training.images.double() / 255
    assert data.mean == pytest.approx([pixels.mean().item()], abs=1e-12)
    assert data.std == pytest.approx([pixels.std(correction=0).item()], abs=1e-12)
    assert len(data.training) == 100


def test_constant_channels_normalise_without_nan(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(5):
            Image.new("RGB", (8, 8), (9, 20 * number, 0)).save(tmp_path / name / f"{number}.png")
    data = load_data(tmp_path)
    assert data.std[0] == data.std[2] == 1.0 != data.std[1]
    assert torch.equal(normalize(data.test.images, data.mean, data.std)[:, ::2], torch.zeros(2, 2, 8, 8))


def test_training_images_of_one_value_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(5):
            (tmp_path / name / f"{number}.png").write_bytes(png(9, "L"))
    with pytest.raises(ValueError, match=r"training images must differ, got 4 of '.*' that hold one value, 9 of 255"):
        load_data(tmp_path)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(4, 1, 2, 2), torch.zeros(4, dtype=torch.int64), r"`train` must hold images as uint8 .*float32"),
        (torch.zeros(4, 2, 2).byte(), torch.zeros(4, dtype=torch.int64), r"uint8 of shape \(N, .*\(4, 2, 2\)"),
        (torch.zeros(4, 1, 2, 2).byte(), torch.zeros(4, 1, dtype=torch.int64), r"one int64 label for each of its 4"),
        (torch.zeros(4, 1, 2, 2).byte(), torch.zeros(4), r"one int64 label .* got torch.float32"),
        (torch.zeros(4, 1, 2, 2).byte(), torch.arange(1, 5), r"in 0..3, .* got 1 to 4; number the classes from 0"),
    ],
)
def test_images_and_labels_of_ones_own_are_checked(images: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    empty = Split(torch.zeros(1, 1, 2, 2).byte(), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ValueError, match=message):
        ImageData("own", Split(images, labels), empty, empty, tuple("abcd"), (0.5,), (0.5,), 0, False)


def test_data_are_taken_by_name_by_path_and_loaded(tmp_path: Path) -> None:
    assert named_data("digits") == ("digits", None)
    assert named_data(tmp_path) == (str(tmp_path), None)
    digits = load_data("digits")
    assert named_data(digits) == ("digits", digits)
    dataset = TensorDataset(torch.zeros(3, 1))
    with pytest.raises(
        ValueError, match=r"a path, or a name such as digits.* got a TensorDataset; make a task of other data"
    ):
        named_data(dataset)
    with pytest.raises(ValueError, match="got a TensorDataset"):
        search("resnet20-pooling", dataset)  # type: ignore[arg-type]


def _labelled(labels: ArrayLike, test: ArrayLike | None = None) -> Found:
    def part(values: ArrayLike) -> Images:
        return Images(np.array(values, np.int64), lambda position: b"", str)

    return Found("made up", part(labels), None if test is None else part(test), tuple("abcdefgh"))


@given(
    sizes=st.lists(st.integers(3, 40), min_size=2, max_size=6),
    seed=st.integers(0, 2**40),
    fraction=st.floats(0.01, 0.99),
    extra=st.none() | st.integers(0, 150),
)
@settings(max_examples=100, deadline=None)
def test_splits_are_disjoint_complete_and_stratified(
    sizes: list[int], seed: int, fraction: float, extra: int | None
) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    limit = None if extra is None else 2 * len(sizes) + extra
    train, validation, test = data_module._choose(_labelled(labels), seed, limit, None, fraction)
    together = np.concatenate([train, validation, test])
    assert len(np.unique(together)) == len(together)
    assert all((np.diff(part) > 0).all() for part in (train, validation, test))
    if limit is None:
        assert len(together) == len(labels)
    else:
        assert len(train) + len(validation) == min(limit, len(labels) - len(test))
    assert set(labels[train]) == set(labels[validation]) == set(labels[test]) == set(range(len(sizes)))
    for part, share in ((test, 0.2), (validation, fraction)):
        pool = labels if part is test else labels[np.concatenate([train, validation])]
        taken, had = np.bincount(labels[part]), np.bincount(pool)
        free = (taken > 1) & (taken < had - 2)  # neither bound of the class is met
        assert (abs(taken - share * had)[free] < len(sizes) + 1).all()


@given(seed=st.integers(0, 2**40), limit=st.integers(4, 60))
@settings(max_examples=30, deadline=None)
def test_the_test_part_does_not_depend_on_the_limit(seed: int, limit: int) -> None:
    found = _labelled([0, 1] * 40)
    whole = data_module._choose(found, seed, None, None, 0.5)[2]
    assert np.array_equal(data_module._choose(found, seed, limit, None, 0.3)[2], whole)


def test_equal_classes_get_equal_shares() -> None:
    train, validation, test = data_module._choose(_labelled([0, 1, 2, 3] * 50, [0, 1, 2, 3] * 5), 1, 100, 8, 0.2)
    counts = [np.bincount(part % 4).tolist() for part in (train, validation, test)]
    assert counts == [[20] * 4, [5] * 4, [2] * 4]


def test_seeds_differ_and_repeat() -> None:
    first, again, other = load_data("digits", seed=1), load_data("digits", seed=1), load_data("digits", seed=2)
    assert same_data(first, again)
    assert not same_data(first, other)


def test_global_random_state_is_neither_used_nor_changed() -> None:
    np.random.seed(0)
    torch.manual_seed(0)
    first = load_data("digits", limit=50)
    next(batches(first.train, first, 5, rng=np.random.default_rng(0), augment=True))
    drawn = np.random.random(), torch.rand(1).item()
    assert same_data(first, load_data("digits", limit=50))
    np.random.seed(0)
    torch.manual_seed(0)
    assert drawn == (np.random.random(), torch.rand(1).item())


def test_another_process_makes_the_same_splits_and_batches() -> None:
    script = (
        "import numpy as np\n"
        "from nas.data.batches import batches\n"
        "from nas.data.dataset import load_data\n"
        "data = load_data('digits', seed=5, limit=200)\n"
        "images, labels = next(batches(data.train, data, 32, rng=np.random.default_rng(7), augment=True))\n"
        "print(data.fingerprint, images.sum().item(), labels.tolist())\n"
    )
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "PYTHONHASHSEED": "17"}
    told = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True
    ).stdout
    data = load_data("digits", seed=5, limit=200)
    images, labels = next(batches(data.train, data, 32, rng=np.random.default_rng(7), augment=True))
    assert told.strip() == f"{data.fingerprint} {images.sum().item()} {labels.tolist()}"


def test_fingerprint_sees_pixels_labels_and_order() -> None:
    data = load_data("digits", limit=50, test_limit=20)
    changed = data.test.images.clone()
    changed[0, 0, 0, 0] ^= 1
    others = [
        replace(data, test=Split(changed, data.test.labels)),
        replace(data, test=Split(data.test.images, data.test.labels.flip(0))),
        replace(data, train=data.validation, validation=data.train),
        replace(data, train=Split(data.train.images.transpose(2, 3), data.train.labels)),
    ]
    assert len({other.fingerprint for other in [data, *others]}) == 5
    assert replace(data, name="renamed").fingerprint == data.fingerprint


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        ("digitz", ValueError, "'digits', 'torchvision:NAME' or 'datasets:NAME', got 'digitz'; did you mean 'digits'"),
        ("torchvison:MNIST", ValueError, "did you mean 'torchvision:MNIST'"),
        ("torchvision:", ValueError, "did you mean 'torchvision:NAME'"),
        ("no/such/place", FileNotFoundError, "existing file or folder.*got 'no/such/place'; check the spelling"),
        ("./digits", FileNotFoundError, "did you mean 'digits'"),
        (Path("digits"), FileNotFoundError, "did you mean 'digits'"),
        ("gone.parquet", FileNotFoundError, "existing file or folder"),
    ],
)
def test_unknown_sources(source: str | Path, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        load_data(source)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation_fraction": 0.0}, "`validation_fraction` must be between 0 and 1, both excluded, got 0.0"),
        ({"validation_fraction": 1.0}, "`validation_fraction` must be between 0 and 1, both excluded, got 1.0"),
        ({"validation_fraction": float("nan")}, "`validation_fraction` must be"),
        ({"image_size": 0}, "`image_size` must be 1 or more, got 0"),
        ({"image_size": -4}, "`image_size` must be 1 or more, got -4"),
        ({"limit": 0}, "`limit` must be 1 or more, got 0"),
        ({"limit": 19}, "every class, at least 20, got 19; use --limit 20 or more"),
        ({"test_limit": -1}, "`test_limit` must be 1 or more, got -1"),
        ({"seed": -1}, "`seed` must be 0 or more, got -1"),
    ],
)
def test_arguments_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_data("digits", **options)


def test_the_smallest_limit_serves_every_class() -> None:
    data = load_data("digits", limit=20)
    assert data.train.labels.bincount().tolist() == data.validation.labels.bincount().tolist() == [1] * 10


def test_a_class_too_small_to_split(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="an image for each of 3 parts, got 2 of class 'b'; add images or remove"):
        load_data(class_folder(tmp_path, {"a": 5, "b": 2}))
