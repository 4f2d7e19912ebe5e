"""Loading, splitting and augmenting images, and what is said about data that cannot be used."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike
from PIL import Image

import nas.data as data_module
import nas.images as images_module
from nas.batches import augment, batches, normalize
from nas.data import ImageData, Split, load_data
from nas.images import Found, Images

REPOSITORY = Path(__file__).parents[1]


# ---------------------------------------------------------------------------------------------------- small data sets


def _image(value: int, mode: str = "RGB", size: tuple[int, int] = (8, 8)) -> Image.Image:
    return Image.new(mode, size, value if mode == "L" else (value, 255 - value, 7))


def _png(value: int, mode: str = "RGB", size: tuple[int, int] = (8, 8)) -> bytes:
    buffer = io.BytesIO()
    _image(value, mode, size).save(buffer, "PNG")
    return buffer.getvalue()


def _folder(root: Path, counts: dict[str, int], mode: str = "RGB", start: int = 0) -> Path:
    """A folder per class; every image has a colour of its own, so that it is known again after loading."""
    value = start
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            (root / name / f"{number:03}.png").write_bytes(_png(value, mode))
            value += 1
    return root


def _parquet(
    path: Path,
    labels: Sequence[int | None],
    names: Sequence[str] | None = None,
    columns: tuple[str, str] = ("image", "label"),
    encoded: Sequence[bytes | None] | None = None,
    label_type: pa.DataType | None = None,
    row_group_size: int = 5,
) -> Path:
    """One file in the layout of the hub; row r holds the colour r."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = encoded or [_png(row) for row in range(len(labels))]
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": cell, "path": f"{row}.png"} for row, cell in enumerate(cells)], struct)
    table = pa.table({columns[0]: images, columns[1]: pa.array(labels, label_type or pa.int64())})
    if names is not None:
        features = {columns[1]: {"names": list(names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


def _colours(split: Split) -> list[int]:
    """The red value of each image, which is its number in `_folder` and `_parquet`."""
    assert (split.images == split.images[:, :, :1, :1]).all()
    return split.images[:, 0, 0, 0].tolist()


def _same(first: ImageData, second: ImageData) -> bool:
    return first.fingerprint == second.fingerprint


# ---------------------------------------------------------------------------------------------------- digits


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
            (tmp_path / name / f"{number}.png").write_bytes(_png(9, "L"))
    data = load_data(tmp_path)
    assert data.std == (1.0,)
    assert torch.equal(normalize(data.test.images, data.mean, data.std), torch.zeros(2, 1, 8, 8))


# ---------------------------------------------------------------------------------------------------- splits


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
    assert _same(first, again)
    assert not _same(first, other)


def test_global_random_state_is_neither_used_nor_changed() -> None:
    np.random.seed(0)
    torch.manual_seed(0)
    first = load_data("digits", limit=50)
    next(batches(first.train, first, 5, rng=np.random.default_rng(0), augment=True))
    drawn = np.random.random(), torch.rand(1).item()
    assert _same(first, load_data("digits", limit=50))
    np.random.seed(0)
    torch.manual_seed(0)
    assert drawn == (np.random.random(), torch.rand(1).item())


def test_another_process_makes_the_same_splits_and_batches() -> None:
    script = (
        "import numpy as np\n"
        "from nas.batches import batches\n"
        "from nas.data import load_data\n"
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


# ---------------------------------------------------------------------------------------------------- image folders


def test_folder_per_class(tmp_path: Path) -> None:
    root = _folder(tmp_path / "pets", {"cat": 10, "dog": 20})
    data = load_data(root)
    assert data.name == "pets"
    assert data.class_names == ("cat", "dog")
    assert data.input_shape == (3, 8, 8)
    assert (data.crop_padding, data.flip) == (1, True)
    assert [split.labels.bincount().tolist() for split in (data.train, data.validation, data.test)] == [
        [4, 8],
        [4, 8],
        [2, 4],
    ]
    seen = [(colour, label) for split in (data.train, data.validation, data.test)
            for colour, label in zip(_colours(split), split.labels.tolist(), strict=True)]  # fmt: skip
    assert sorted(seen) == [(number, int(number >= 10)) for number in range(30)]


def test_a_relative_text_path_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _folder(tmp_path / "pets", {"cat": 5, "dog": 5})
    monkeypatch.chdir(tmp_path / "pets")
    assert load_data(".").name == "pets"


@pytest.mark.parametrize("test_name", ["test", "val"])
def test_folder_with_parts(tmp_path: Path, test_name: str) -> None:
    _folder(tmp_path / "train", {"cat": 6, "dog": 6})
    _folder(tmp_path / test_name, {"dog": 3}, start=100)
    data = load_data(tmp_path)
    assert _colours(data.test) == [100, 101, 102]
    assert data.test.labels.tolist() == [1, 1, 1]
    assert sorted(_colours(data.training)) == list(range(12))


def test_only_a_train_folder_has_its_test_part_carved(tmp_path: Path) -> None:
    _folder(tmp_path / "train", {"cat": 10, "dog": 10})
    assert len(load_data(tmp_path).test) == 4


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    assert load_data(_folder(tmp_path, {"bus": 5, "train": 5})).class_names == ("bus", "train")


def test_nested_hidden_and_other_files(tmp_path: Path) -> None:
    root = _folder(tmp_path, {"a/deep/er": 5, "b": 5})
    (root / "b" / "notes.txt").write_text("no image")
    (root / "b" / "._000.png").write_bytes(b"left by another system")
    (root / ".cache").mkdir()
    data = load_data(root)
    assert data.class_names == ("a", "b")
    assert len(data.train) + len(data.validation) + len(data.test) == 10


def test_the_order_of_the_file_system_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = _folder(tmp_path, {"a/x": 5, "a/y": 5, "b": 10})
    first = load_data(root)
    walk, listing = os.walk, Path.iterdir
    monkeypatch.setattr(
        os, "walk", lambda *args, **options: ((top, d, f[::-1]) for top, d, f in [*walk(*args, **options)][::-1])
    )
    monkeypatch.setattr(Path, "iterdir", lambda self: iter([*listing(self)][::-1]))
    assert _same(first, load_data(root))


def test_gray_stays_gray_and_a_mixture_becomes_colour(tmp_path: Path) -> None:
    gray = load_data(_folder(tmp_path / "gray", {"a": 10, "b": 10}, mode="L"))
    assert gray.input_shape == (1, 8, 8)
    assert not gray.flip
    root = _folder(tmp_path / "mixed", {"a": 10, "b": 10}, mode="L")
    (root / "b" / "005.png").write_bytes(_png(15))
    mixed = load_data(root)
    assert mixed.input_shape == (3, 8, 8)
    assert mixed.flip
    assert sorted(_colours(mixed.training) + _colours(mixed.test)) == list(range(20))
    for split in (mixed.train, mixed.validation, mixed.test):
        for image, colour in zip(split.images, _colours(split), strict=True):
            assert image[:, 0, 0].tolist() == ([15, 240, 7] if colour == 15 else [colour] * 3)


@pytest.mark.parametrize("kind", ["jpg", "bmp", "webp", "gif"])
def test_other_formats(tmp_path: Path, kind: str) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(4):
            _image(100).save(tmp_path / name / f"{number}.{kind.upper()}")
    data = load_data(tmp_path)
    pixel = data.train.images[0, :, 4, 4].tolist()
    assert np.allclose(pixel, [100, 155, 7], atol=4)


def test_deep_transparent_and_turned_images(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(3):
            deep = np.full((8, 4), 0x80FF, np.uint16)
            Image.fromarray(deep).save(tmp_path / name / f"{number}.png")
    assert load_data(tmp_path).train.images.unique().tolist() == [0x80]
    turned = Image.new("RGB", (8, 4))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "a" / "0.jpg", exif=exif)
    Image.new("RGBA", (4, 8), (1, 2, 3, 0)).save(tmp_path / "b" / "0.png")
    assert load_data(tmp_path).input_shape == (3, 8, 4)


def test_image_size_resizes_the_short_side_and_crops_the_centre(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(4):
            wide = np.zeros((16, 64), np.uint8)
            wide[:, 20:44] = 200  # the centre, and a margin that the filter reaches into
            Image.fromarray(wide if number % 2 else wide.T).save(tmp_path / name / f"{number}.png")
    data = load_data(tmp_path, image_size=4)
    assert data.input_shape == (1, 4, 4)
    assert data.training.images.unique().tolist() == [200]


def test_large_jpegs_shrink_to_the_same_picture(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 255, 512).astype(np.uint8), (512, 1))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.fromarray(ramp).save(tmp_path / name / f"{number}.jpg", quality=95)
    data = load_data(tmp_path, image_size=32)
    expected = torch.from_numpy(ramp[::16, 8::16].astype(np.int64))
    assert (data.train.images[0, 0].long() - expected).abs().max() <= 8


def test_a_limit_leaves_other_images_undecoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = _folder(tmp_path, {"a": 50, "b": 50})
    opened: list[Any] = []
    real = Image.open

    def recording(source: Any) -> Image.Image:
        opened.append(source)
        return real(source)

    monkeypatch.setattr(Image, "open", recording)
    data = load_data(root, limit=10, test_limit=3)
    assert (len(data.train), len(data.validation), len(data.test)) == (5, 5, 3)
    assert len(set(opened)) == 13
    assert len(opened) == 14  # the first one twice: its size decides what memory is needed


# ---------------------------------------------------------------------------------------------------- parquet


LABELS = [0, 1, 2] * 8


@pytest.mark.parametrize("size", [5, 12])
def test_parquet_parts_and_class_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    later = [_png(100 + row) for row in range(12)]
    _parquet(tmp_path / "train-00000-of-00002.parquet", LABELS[:12], ["cat", "dog", "owl"], row_group_size=size)
    _parquet(tmp_path / "train-00001-of-00002.parquet", LABELS[12:], encoded=later, row_group_size=size)
    _parquet(tmp_path / "test.parquet", [2, 1, 0], encoded=[_png(200 + row) for row in range(3)])
    _parquet(tmp_path / "validation.parquet", [0])
    data = load_data(tmp_path)
    glob = Path.glob
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter([*glob(self, pattern)][::-1]))
    assert _same(data, load_data(tmp_path))
    assert data.class_names == ("cat", "dog", "owl")
    assert _colours(data.test) == [200, 201, 202]
    assert data.test.labels.tolist() == [2, 1, 0]
    assert sorted(_colours(data.training)) == [*range(12), *range(100, 112)]
    for split in (data.train, data.validation):
        # 12 and 100 leave remainders 0 and 1: row r of the second file has colour 100 + r and label r % 3.
        assert split.labels.tolist() == [
            (colour - 1) % 3 if colour >= 100 else colour % 3 for colour in _colours(split)
        ]


@pytest.mark.parametrize("folder", ["", "data", "plain_text"])
@pytest.mark.parametrize("test_name", ["validation", "val-00000"])
def test_parquet_places_and_columns(tmp_path: Path, folder: str, test_name: str) -> None:
    _parquet(tmp_path / folder / "train.parquet", LABELS, columns=("img", "fine_label"))
    _parquet(tmp_path / folder / f"{test_name}.parquet", [0, 1], columns=("img", "fine_label"))
    data = load_data(str(tmp_path))
    assert data.class_names == ("0", "1", "2")
    assert len(data.test) == 2


def test_a_single_parquet_file_has_its_test_part_carved(tmp_path: Path) -> None:
    data = load_data(_parquet(tmp_path / "birds.parquet", LABELS, names=["x", "y", "z", "never seen"]))
    assert data.name == "birds"
    assert data.num_classes == 4
    assert sorted(_colours(data.training) + _colours(data.test)) == list(range(24))


def test_parquet_without_a_struct_of_path(tmp_path: Path) -> None:
    table = pa.table({"image": [_png(row) for row in range(12)], "label": LABELS[:12]})
    pq.write_table(table, tmp_path / "x.parquet")
    assert load_data(tmp_path / "x.parquet").input_shape == (3, 8, 8)


@pytest.mark.slow
def test_real_cifar10(real_data: Path) -> None:
    start = time.perf_counter()
    data = load_data(real_data / "cifar10")
    assert time.perf_counter() - start < 60
    assert (len(data.train), len(data.validation), len(data.test)) == (25_000, 25_000, 10_000)
    assert data.input_shape == (3, 32, 32)
    assert (data.crop_padding, data.flip) == (4, True)
    assert data.class_names[0] == "airplane" and data.class_names[9] == "truck"
    assert data.train.labels.bincount().tolist() == [2500] * 10
    # Published for the lossless images; JPEG moves them by less than a thousandth.
    assert data.mean == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-3)
    few = load_data(real_data / "cifar10", limit=200, test_limit=50)
    assert (len(few.training), len(few.test)) == (200, 50)


# ---------------------------------------------------------------------------------------------------- named sources


class _FakeData:
    """The surface of a torchvision data set class."""

    def __init__(self, root: str, train: bool = True, transform: Any = None, download: bool = False) -> None:
        assert not download
        if not Path(root, "here").exists():
            raise RuntimeError("Dataset not found or corrupted. You can use download=True to download it")
        self.targets = torch.tensor([0, 1] * (10 if train else 3))
        self.classes = ["even", "odd"]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, position: int) -> tuple[Image.Image, int]:
        return _image(position, "L"), int(self.targets[position])


class _FakeSplits(_FakeData):
    def __init__(self, root: str, split: str = "train", download: bool = False) -> None:
        if split not in ("train", "val"):
            raise ValueError(f"Unknown value '{split}' for argument split")
        super().__init__(root, train=split == "train")
        self._labels = self.targets.tolist()
        del self.targets, self.classes

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, position: int) -> tuple[Image.Image, int]:
        return _image(position, "L"), self._labels[position]


class _FakeWhole:
    def __init__(self, size: int = 20) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, position: int) -> tuple[Image.Image, int]:
        return _image(position), position % 2


class _FakeManual(_FakeData):
    def __init__(self, root: str, split: str = "train") -> None:
        super().__init__(root)


class _FakeArguments(_FakeWhole):
    def __init__(self, annotation: str) -> None:
        super().__init__()


@pytest.fixture
def torchvision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A stand-in for torchvision, and a folder with its data."""
    module, datasets = ModuleType("torchvision"), ModuleType("torchvision.datasets")
    kinds = {
        "CIFAR10": _FakeData,
        "STL10": _FakeSplits,
        "FakeData": _FakeWhole,
        "Captions": _FakeArguments,
        "ImageNet": _FakeManual,
    }
    datasets.__dict__.update({name: type(name, (kind,), {}) for name, kind in kinds.items()})
    module.datasets = datasets  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", module)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", datasets)
    (tmp_path / "here").touch()
    return tmp_path


@pytest.mark.parametrize(("name", "class_names"), [("CIFAR10", ("even", "odd")), ("STL10", ("0", "1"))])
def test_torchvision(torchvision: Path, name: str, class_names: tuple[str, ...]) -> None:
    data = load_data(f"torchvision:{name}@{torchvision}")
    assert data.name == f"torchvision:{name}"
    assert data.class_names == class_names
    assert sorted(_colours(data.training)) == list(range(20))
    assert _colours(data.test) == list(range(6))
    assert data.test.labels.tolist() == [0, 1] * 3


def test_torchvision_without_parts_or_root(torchvision: Path) -> None:
    data = load_data("torchvision:FakeData")
    assert (len(data.training), len(data.test), data.num_classes) == (16, 4, 2)


def test_torchvision_default_folder(torchvision: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(torchvision)
    (torchvision / "data").mkdir()
    (torchvision / "data" / "here").touch()
    assert len(load_data("torchvision:CIFAR10").test) == 6


def test_torchvision_errors(torchvision: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"already lie in 'nowhere'.*CIFAR10\(root='nowhere', download=True"):
        load_data("torchvision:CIFAR10@nowhere")
    with pytest.raises(FileNotFoundError, match=r"torchvision:ImageNet@FOLDER$"):
        load_data("torchvision:ImageNet@nowhere")
    with pytest.raises(ValueError, match="no data set 'CIFAR1O'; did you mean 'torchvision:CIFAR10'"):
        load_data("torchvision:CIFAR1O")
    with pytest.raises(ValueError, match=r"Captions cannot be opened by its name alone.*folder of images per class"):
        load_data("torchvision:Captions")
    monkeypatch.setattr(_FakeWhole, "__getitem__", lambda self, position: (_image(0), {"boxes": []}))
    with pytest.raises(ValueError, match=r"one integer label.*'?torchvision:FakeData train images"):
        load_data("torchvision:FakeData")


class _FakeTable:
    """The surface of a `datasets.Dataset`."""

    def __init__(self, labels: list[Any], names: list[str] | None, columns: tuple[str, str] = ("img", "label")) -> None:
        self.column_names = list(columns)
        self.features = {
            columns[0]: SimpleNamespace(),
            columns[1]: SimpleNamespace(**({"names": names} if names else {})),
        }
        self._labels = labels

    def __getitem__(self, key: int | str) -> Any:
        if isinstance(key, str):
            return {self.column_names[1]: self._labels}[key]
        return dict(zip(self.column_names, (_image(key), self._labels[key]), strict=True))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A stand-in for the package datasets: name to parts."""
    known: dict[str, Any] = {"some/pets": {"train": _FakeTable([0, 1] * 10, ["cat", "dog"]),
                                           "validation": _FakeTable([1, 0], ["cat", "dog"])}}  # fmt: skip

    def load_dataset(name: str) -> Any:
        if name not in known:
            raise FileNotFoundError(f"Dataset '{name}' doesn't exist on the Hub")
        return known[name]

    module = ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    return known


def test_hub(hub: dict[str, Any]) -> None:
    data = load_data("datasets:some/pets")
    assert data.name == "datasets:some/pets"
    assert data.class_names == ("cat", "dog")
    assert sorted(_colours(data.training)) == list(range(20))
    assert (_colours(data.test), data.test.labels.tolist()) == ([0, 1], [1, 0])


def test_hub_folder_without_class_names_or_test_part(hub: dict[str, Any], tmp_path: Path) -> None:
    hub[str(tmp_path)] = {"train": _FakeTable([0, 1, 2] * 10, None)}
    data = load_data(f"datasets:{tmp_path}")
    assert data.name == tmp_path.name
    assert (data.class_names, len(data.test)) == (("0", "1", "2"), 6)


def test_hub_errors(hub: dict[str, Any]) -> None:
    with pytest.raises(FileNotFoundError, match=r"cannot load 'some/petz'.*check the name and the connection"):
        load_data("datasets:some/petz")
    hub["a/b"] = {"everything": None}
    with pytest.raises(ValueError, match="split called train, got everything"):
        load_data("datasets:a/b")
    hub["a/b"] = {"train": _FakeTable([0, 1] * 5, None, ("picture", "label"))}
    with pytest.raises(ValueError, match=r"image column must be called image or img, got columns 'picture', 'label'"):
        load_data("datasets:a/b")
    hub["a/b"] = {"train": _FakeTable(["x", "y"] * 5, None)}
    with pytest.raises(ValueError, match="must have one integer label"):
        load_data("datasets:a/b")
    hub["a/b"] = {"train": _FakeTable([0, 1] * 5, None), "test": _FakeTable([-1], None)}
    with pytest.raises(ValueError, match=r"labels must be in 0\.\.1 .* got -1 in datasets:a/b test row 0"):
        load_data("datasets:a/b")


@pytest.mark.parametrize(
    ("source", "package", "install"),
    [
        ("torchvision:CIFAR10", "torchvision", "pip install torchvision"),
        ("datasets:uoft-cs/cifar10", "datasets", r'pip install "nas-toolkit\[hub\]"'),
    ],
)
def test_missing_packages_are_named(source: str, package: str, install: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf"needs .*{package}.* \(.*{package}.*\); {install}"):
        load_data(source)


# ---------------------------------------------------------------------------------------------------- bad input


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


def test_folders_without_data(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"no data found in '{tmp_path}': expected a folder of images per class"):
        load_data(tmp_path)
    (tmp_path / "cat.png").write_bytes(_png(0))
    with pytest.raises(ValueError, match=r"images directly in '.*'; move them to '.*/CLASS/'"):
        load_data(tmp_path)


def test_parts_without_class_folders(tmp_path: Path) -> None:
    _folder(tmp_path / "train", {"a": 3, "b": 3})
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "0.png").write_bytes(_png(0))
    with pytest.raises(ValueError, match=r"no class folders found in '.*test'"):
        load_data(tmp_path)
    _folder(tmp_path / "test", {"c": 1})
    with pytest.raises(
        ValueError, match=r"every test class must be a training class, got '.*c', training has 'a', 'b'"
    ):
        load_data(tmp_path)


def test_images_directly_in_the_training_part(tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "0.png").write_bytes(_png(0))
    with pytest.raises(ValueError, match=r"images directly in '.*train'"):
        load_data(tmp_path)


def test_an_empty_class_folder(tmp_path: Path) -> None:
    (_folder(tmp_path, {"a": 5, "b": 5}) / "c").mkdir()
    with pytest.raises(ValueError, match=r"must hold images, got none in '.*c'; fill or remove it"):
        load_data(tmp_path)


def test_one_class_only(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'pets' needs at least 2 classes to train on, got only 'cat'"):
        load_data(_folder(tmp_path / "pets", {"cat": 5}))


def test_a_class_too_small_to_split(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="an image for each of 3 parts, got 2 of class 'b'; add images or remove"):
        load_data(_folder(tmp_path, {"a": 5, "b": 2}))


@pytest.mark.parametrize("damage", [lambda whole: whole[:46], lambda whole: b"no image", lambda whole: b""])
def test_a_corrupt_image_is_named(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    file = _folder(tmp_path, {"a": 10, "b": 10}) / "b" / "007.png"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=r"'.*b/007\.png' is not an image that can be read .*; replace or remove it"):
        load_data(tmp_path)


def test_a_corrupt_row_is_named_within_its_file(tmp_path: Path) -> None:
    _parquet(tmp_path / "train-0.parquet", LABELS)
    cells = [_png(row) for row in range(24)]
    cells[17] = cells[17][:40]
    _parquet(tmp_path / "train-1.parquet", LABELS, encoded=cells)
    with pytest.raises(ValueError, match=r"train-1\.parquet' row 17 \(counted from 0\) is not an image"):
        load_data(tmp_path)
    _parquet(tmp_path / "train-1.parquet", LABELS, encoded=[None, *cells[1:17], *cells[:7]])
    with pytest.raises(ValueError, match=r"must hold an image, got none in '.*train-1\.parquet' row 0"):
        load_data(tmp_path)


def test_sizes_that_differ(tmp_path: Path) -> None:
    file = _folder(tmp_path, {"a": 10, "b": 10}) / "b" / "003.png"
    file.write_bytes(_png(3, size=(12, 9)))
    with pytest.raises(ValueError, match=r"8 x 8 .* and 9 x 12 in '.*b/003\.png'; give image_size \(--image-size 8\)"):
        load_data(tmp_path)
    assert load_data(tmp_path, image_size=8).input_shape == (3, 8, 8)


@pytest.mark.parametrize(("wrong", "names"), [(-1, ["a", "b", "c"]), (3, ["a", "b", "c"]), (9, None)])
def test_labels_out_of_range(tmp_path: Path, wrong: int, names: list[str] | None) -> None:
    labels = [*LABELS[:20], wrong, *LABELS[21:]]
    classes = 3 if names else 4
    message = rf"labels must be in 0\.\.{classes - 1} .* got {wrong} in '.*x\.parquet' row 20 .*number the classes"
    with pytest.raises(ValueError, match=message):
        load_data(_parquet(tmp_path / "x.parquet", labels, names=names))


def test_test_labels_out_of_range(tmp_path: Path) -> None:
    _parquet(tmp_path / "train.parquet", LABELS)
    _parquet(tmp_path / "test.parquet", [0, 1, 3])
    with pytest.raises(ValueError, match=r"got 3 in '.*test\.parquet' row 2"):
        load_data(tmp_path)


def test_labels_that_are_missing_or_no_integers(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must have a label, got none in '.*' row 4"):
        load_data(_parquet(tmp_path / "x.parquet", [0, 1, 0, 1, None]))
    with pytest.raises(ValueError, match="labels must be integers, got double in"):
        load_data(_parquet(tmp_path / "x.parquet", LABELS, label_type=pa.float64()))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            ("picture", "label"),
            r"image column must be called image or img, got columns 'picture', 'label' in '.*x\.par",
        ),
        (
            ("image", "class"),
            r"label column must be called label or fine_label or labels, got columns 'image', 'class'",
        ),
    ],
)
def test_parquet_without_the_columns(tmp_path: Path, columns: tuple[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_data(_parquet(tmp_path / "x.parquet", LABELS, columns=columns))


def test_parquet_without_bytes(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": ["a.png"] * 24, "label": LABELS}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"'image' must be a struct of bytes and path, got string in '.*x\.parquet'"):
        load_data(tmp_path / "x.parquet")


def test_parquet_cut_short(tmp_path: Path) -> None:
    file = _parquet(tmp_path / "train.parquet", LABELS)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        ValueError, match=r"train\.parquet' is cut short or no parquet file .*copy or download it again"
    ):
        load_data(tmp_path)


def test_parquet_damaged_between_its_ends(tmp_path: Path) -> None:
    file = _parquet(tmp_path / "x.parquet", LABELS, row_group_size=24)
    whole = bytearray(file.read_bytes())
    whole[4 : len(whole) // 2] = bytes(len(whole) // 2 - 4)
    file.write_bytes(whole)
    with pytest.raises(ValueError, match=r"x\.parquet' is cut short"):
        load_data(file)


def test_parquet_without_rows(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'x' must hold training images, got none"):
        load_data(_parquet(tmp_path / "x.parquet", []))
    _parquet(tmp_path / "train.parquet", LABELS)
    _parquet(tmp_path / "test.parquet", [])
    with pytest.raises(ValueError, match=r"the test part of .* must hold images, got none"):
        load_data(tmp_path)


def test_parquet_names_that_say_nothing(tmp_path: Path) -> None:
    _parquet(tmp_path / "part.parquet", LABELS)
    with pytest.raises(ValueError, match=r"must hold train\*\.parquet, got 'part\.parquet' in .*name one file instead"):
        load_data(tmp_path)


def test_several_folders_of_parquet(tmp_path: Path) -> None:
    for name in ("coarse", "fine"):
        _parquet(tmp_path / name / "train.parquet", LABELS)
    with pytest.raises(ValueError, match=r"must lie in one folder, got 'coarse', 'fine' in .*name one of them"):
        load_data(tmp_path)


def test_another_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "x.csv").touch()
    with pytest.raises(ValueError, match=r"a data file must be \.parquet, got '.*x\.csv'"):
        load_data(tmp_path / "x.csv")


def test_more_images_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = _folder(tmp_path, {"a": 10, "b": 10})
    assert (images_module.available_memory() or 0) > 2**20
    monkeypatch.setattr(images_module, "available_memory", lambda: 20 * 8 * 8 * 3 - 1)
    with pytest.raises(ValueError, match=r"must fit into memory, got 20 of 8 x 8 x 3 bytes .*--limit .* --image-size"):
        load_data(root)
    assert load_data(root, limit=12).input_shape == (3, 8, 8)
    assert load_data(root, image_size=4).input_shape == (3, 4, 4)
    monkeypatch.setattr(images_module, "available_memory", lambda: None)
    assert len(load_data(root).test) == 4


def test_memory_is_checked_again_when_gray_becomes_colour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = _folder(tmp_path, {"a": 10, "b": 10}, mode="L")
    (root / "b" / "009.png").write_bytes(_png(0))
    monkeypatch.setattr(images_module, "available_memory", lambda: 20 * 8 * 8 * 2)
    with pytest.raises(ValueError, match="must fit into memory, got 20 of 8 x 8 x 3"):
        load_data(root)


# ---------------------------------------------------------------------------------------------------- augmentation


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


# ---------------------------------------------------------------------------------------------------- batches


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
