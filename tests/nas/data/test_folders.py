"""A folder of images per class, with parts or without, and folders that are something else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nas.data.dataset import load_data
from tests.small_data import class_folder, colours, png, same_data


def test_folder_per_class(tmp_path: Path) -> None:
    root = class_folder(tmp_path / "pets", {"cat": 10, "dog": 20})
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
            for colour, label in zip(colours(split), split.labels.tolist(), strict=True)]  # fmt: skip
    assert sorted(seen) == [(number, int(number >= 10)) for number in range(30)]


def test_a_relative_text_path_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class_folder(tmp_path / "pets", {"cat": 5, "dog": 5})
    monkeypatch.chdir(tmp_path / "pets")
    assert load_data(".").name == "pets"


@pytest.mark.parametrize("test_name", ["test", "val"])
def test_folder_with_parts(tmp_path: Path, test_name: str) -> None:
    class_folder(tmp_path / "train", {"cat": 6, "dog": 6})
    class_folder(tmp_path / test_name, {"dog": 3}, start=100)
    with pytest.warns(UserWarning, match="no test image of .* is of class 'cat': test figures say nothing of it"):
        data = load_data(tmp_path)
    assert colours(data.test) == [100, 101, 102]
    assert data.test.labels.tolist() == [1, 1, 1]
    assert sorted(colours(data.training)) == list(range(12))


def test_only_a_train_folder_has_its_test_part_carved(tmp_path: Path) -> None:
    class_folder(tmp_path / "train", {"cat": 10, "dog": 10})
    assert len(load_data(tmp_path).test) == 4


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    assert load_data(class_folder(tmp_path, {"bus": 5, "train": 5})).class_names == ("bus", "train")


def test_nested_hidden_and_other_files(tmp_path: Path) -> None:
    root = class_folder(tmp_path, {"a/deep/er": 5, "b": 5})
    (root / "b" / "notes.txt").write_text("no image")
    (root / "b" / "._000.png").write_bytes(b"left by another system")
    (root / ".cache").mkdir()
    data = load_data(root)
    assert data.class_names == ("a", "b")
    assert len(data.train) + len(data.validation) + len(data.test) == 10


def test_the_order_of_the_file_system_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = class_folder(tmp_path, {"a/x": 5, "a/y": 5, "b": 10})
    first = load_data(root)
    walk, listing = os.walk, Path.iterdir
    monkeypatch.setattr(
        os, "walk", lambda *args, **options: ((top, d, f[::-1]) for top, d, f in [*walk(*args, **options)][::-1])
    )
    monkeypatch.setattr(Path, "iterdir", lambda self: iter([*listing(self)][::-1]))
    assert same_data(first, load_data(root))


def test_folders_without_data(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"no data found in '{tmp_path}': expected a folder of images per class"):
        load_data(tmp_path)
    (tmp_path / "cat.png").write_bytes(png(0))
    with pytest.raises(ValueError, match=r"images directly in '.*'; move them to '.*/CLASS/'"):
        load_data(tmp_path)


def test_parts_without_class_folders(tmp_path: Path) -> None:
    class_folder(tmp_path / "train", {"a": 3, "b": 3})
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "0.png").write_bytes(png(0))
    with pytest.raises(ValueError, match=r"no class folders found in '.*test'"):
        load_data(tmp_path)
    class_folder(tmp_path / "test", {"c": 1})
    with pytest.raises(
        ValueError, match=r"every test class must be a training class, got '.*c', training has 'a', 'b'"
    ):
        load_data(tmp_path)


def test_images_directly_in_the_training_part(tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "0.png").write_bytes(png(0))
    with pytest.raises(ValueError, match=r"images directly in '.*train'"):
        load_data(tmp_path)


def test_an_empty_class_folder(tmp_path: Path) -> None:
    (class_folder(tmp_path, {"a": 5, "b": 5}) / "c").mkdir()
    with pytest.raises(ValueError, match=r"must hold images, got none in '.*c'; fill or remove it"):
        load_data(tmp_path)


def test_one_class_only(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'pets' needs at least 2 classes to train on, got only 'cat'"):
        load_data(class_folder(tmp_path / "pets", {"cat": 5}))


def test_another_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "x.csv").touch()
    with pytest.raises(ValueError, match=r"a data file must be \.parquet, got '.*x\.csv'"):
        load_data(tmp_path / "x.csv")


def test_images_beside_masks_are_no_classes(tmp_path: Path) -> None:
    root = class_folder(tmp_path, {"images": 5, "masks": 5})
    with pytest.raises(ValueError, match=r"got 'images', 'masks' in .* not like two classes; rename them"):
        load_data(root)
    assert load_data(class_folder(tmp_path / "three", {"images": 5, "masks": 5, "others": 5})).num_classes == 3


@pytest.mark.parametrize("name", ["val", "validation"])
def test_a_validation_part_beside_a_test_part_is_for_validation(tmp_path: Path, name: str) -> None:
    class_folder(tmp_path / "train", {"cat": 4, "dog": 4})
    class_folder(tmp_path / name, {"cat": 3, "dog": 5}, start=50)
    class_folder(tmp_path / "test", {"cat": 2, "dog": 2}, start=100)
    data = load_data(tmp_path)
    assert colours(data.train) == list(range(8))
    assert colours(data.validation) == list(range(50, 58)) and data.validation.labels.tolist() == [0] * 3 + [1] * 5
    assert colours(data.test) == [100, 101, 102, 103]
    small = load_data(tmp_path, limit=4)
    assert len(small.train) == len(small.validation) == 4 and small.train.labels.bincount().tolist() == [2, 2]


def test_augmentation_is_set(tmp_path: Path) -> None:
    root = class_folder(tmp_path, {"cat": 10, "dog": 10})
    data = load_data(root)
    assert (data.flip, data.crop_padding) == (True, 1)
    data = load_data(root, flip=False, crop=3)
    assert (data.flip, data.crop_padding) == (False, 3)
