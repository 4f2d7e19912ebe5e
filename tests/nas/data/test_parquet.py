"""Parquet files in the layout of the Hugging Face hub: where they lie, what they hold, how they are damaged."""

from __future__ import annotations

import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nas.data.dataset import load_data
from tests.small_data import LABELS, colours, parquet_file, png, same_data


@pytest.mark.parametrize("size", [5, 12])
def test_parquet_parts_and_class_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    later = [png(100 + row) for row in range(12)]
    parquet_file(tmp_path / "train-00000-of-00002.parquet", LABELS[:12], ["cat", "dog", "owl"], row_group_size=size)
    parquet_file(tmp_path / "train-00001-of-00002.parquet", LABELS[12:], encoded=later, row_group_size=size)
    parquet_file(tmp_path / "test.parquet", [2, 1, 0], encoded=[png(200 + row) for row in range(3)])
    data = load_data(tmp_path)
    glob = Path.glob
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter([*glob(self, pattern)][::-1]))
    assert same_data(data, load_data(tmp_path))
    assert data.class_names == ("cat", "dog", "owl")
    assert colours(data.test) == [200, 201, 202]
    assert data.test.labels.tolist() == [2, 1, 0]
    assert sorted(colours(data.training)) == [*range(12), *range(100, 112)]
    for split in (data.train, data.validation):
        # 12 and 100 leave remainders 0 and 1: row r of the second file has colour 100 + r and label r % 3.
        assert split.labels.tolist() == [(colour - 1) % 3 if colour >= 100 else colour % 3 for colour in colours(split)]


@pytest.mark.parametrize("folder", ["", "data", "plain_text"])
@pytest.mark.parametrize("test_name", ["validation", "val-00000"])
def test_parquet_places_and_columns(tmp_path: Path, folder: str, test_name: str) -> None:
    parquet_file(tmp_path / folder / "train.parquet", LABELS, columns=("img", "fine_label"))
    parquet_file(tmp_path / folder / f"{test_name}.parquet", [0, 1, 2], columns=("img", "fine_label"))
    data = load_data(str(tmp_path))
    assert data.class_names == ("0", "1", "2")
    assert len(data.test) == 3


def test_a_single_parquet_file_has_its_test_part_carved(tmp_path: Path) -> None:
    data = load_data(parquet_file(tmp_path / "birds.parquet", LABELS, names=["x", "y", "z", "never seen"]))
    assert data.name == "birds"
    assert data.num_classes == 4
    assert sorted(colours(data.training) + colours(data.test)) == list(range(24))


def test_parquet_without_a_struct_of_path(tmp_path: Path) -> None:
    table = pa.table({"image": [png(row) for row in range(12)], "label": LABELS[:12]})
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


def test_a_corrupt_row_is_named_within_its_file(tmp_path: Path) -> None:
    parquet_file(tmp_path / "train-0.parquet", LABELS)
    cells = [png(row) for row in range(24)]
    cells[17] = cells[17][:40]
    parquet_file(tmp_path / "train-1.parquet", LABELS, encoded=cells)
    with pytest.raises(ValueError, match=r"train-1\.parquet' row 17 \(counted from 0\) \("):
        load_data(tmp_path)
    parquet_file(tmp_path / "train-1.parquet", LABELS, encoded=[None, *cells[1:17], *cells[:7]])
    with pytest.raises(ValueError, match=r"must hold an image, got none in '.*train-1\.parquet' row 0"):
        load_data(tmp_path)


@pytest.mark.parametrize(("wrong", "names"), [(-1, ["a", "b", "c"]), (3, ["a", "b", "c"]), (9, None)])
def test_labels_out_of_range(tmp_path: Path, wrong: int, names: list[str] | None) -> None:
    labels = [*LABELS[:20], wrong, *LABELS[21:]]
    classes = 3 if names else 4
    message = rf"labels must be in 0\.\.{classes - 1} .* got {wrong} in '.*x\.parquet' row 20 .*number the classes"
    with pytest.raises(ValueError, match=message):
        load_data(parquet_file(tmp_path / "x.parquet", labels, names=names))


def test_test_labels_out_of_range(tmp_path: Path) -> None:
    parquet_file(tmp_path / "train.parquet", LABELS)
    parquet_file(tmp_path / "test.parquet", [0, 1, 3])
    with pytest.raises(ValueError, match=r"got 3 in '.*test\.parquet' row 2"):
        load_data(tmp_path)


def test_labels_that_are_missing_or_no_integers(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must have a label, got none in '.*' row 4"):
        load_data(parquet_file(tmp_path / "x.parquet", [0, 1, 0, 1, None]))
    with pytest.raises(ValueError, match="labels must be integers, got double in"):
        load_data(parquet_file(tmp_path / "x.parquet", LABELS, label_type=pa.float64()))


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
        load_data(parquet_file(tmp_path / "x.parquet", LABELS, columns=columns))


def test_parquet_without_bytes(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": ["a.png"] * 24, "label": LABELS}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"'image' must be a struct of bytes and path, got string in '.*x\.parquet'"):
        load_data(tmp_path / "x.parquet")


def test_parquet_cut_short(tmp_path: Path) -> None:
    file = parquet_file(tmp_path / "train.parquet", LABELS)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        ValueError, match=r"train\.parquet' is cut short or no parquet file .*copy or download it again"
    ):
        load_data(tmp_path)


def test_parquet_damaged_between_its_ends(tmp_path: Path) -> None:
    file = parquet_file(tmp_path / "x.parquet", LABELS, row_group_size=24)
    whole = bytearray(file.read_bytes())
    whole[4 : len(whole) // 2] = bytes(len(whole) // 2 - 4)
    file.write_bytes(whole)
    with pytest.raises(ValueError, match=r"x\.parquet' is cut short"):
        load_data(file)


def test_parquet_without_rows(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'x' must hold training images, got none"):
        load_data(parquet_file(tmp_path / "x.parquet", []))
    parquet_file(tmp_path / "train.parquet", LABELS)
    parquet_file(tmp_path / "test.parquet", [])
    with pytest.raises(ValueError, match=r"the test part of .* must hold images, got none"):
        load_data(tmp_path)


def test_parquet_names_that_say_nothing(tmp_path: Path) -> None:
    parquet_file(tmp_path / "part.parquet", LABELS)
    with pytest.raises(ValueError, match=r"must hold train\*\.parquet, got 'part\.parquet' in .*name one file instead"):
        load_data(tmp_path)


def test_several_folders_of_parquet(tmp_path: Path) -> None:
    for name in ("coarse", "fine"):
        parquet_file(tmp_path / name / "train.parquet", LABELS)
    with pytest.raises(ValueError, match=r"must lie in one folder, got 'coarse', 'fine' in .*name one of them"):
        load_data(tmp_path)


def test_a_validation_file_beside_a_test_file(tmp_path: Path) -> None:
    for part in ("train", "validation", "test"):
        parquet_file(tmp_path / f"{part}-00000.parquet", LABELS[:12])
    data = load_data(tmp_path)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [12, 12, 12]
