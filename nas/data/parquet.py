"""Images in parquet files, in the layout of the Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nas.data.decoding import TEST_NAMES, Found, Images, IntArray, default_class_names, held_out_parts

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "fine_label", "labels")


@dataclass(frozen=True)
class _Table:
    """One parquet file: its labels in memory, its images on disk."""

    path: Path
    labels: IntArray
    image_column: str
    group_starts: IntArray  # the row each row group starts with
    class_names: tuple[str, ...] | None

    def image_bytes(self, group: int) -> Any:
        """The encoded images of one row group, as an arrow array."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        with _reading(self.path), pq.ParquetFile(self.path) as file:
            column = file.read_row_group(group, columns=[self.image_column]).column(0).combine_chunks()
        if pa.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0:
            column = column.field("bytes")
        if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
            raise ValueError(
                f"column {self.image_column!r} must be a struct of bytes and path, got {column.type} in '{self.path}'; "
                "write the encoded images (PNG or JPEG) as bytes"
            )
        return column


class _Rows:
    """The rows of several tables, one after the other; remembers the row group read last."""

    def __init__(self, tables: Sequence[_Table]) -> None:
        self._tables = tables
        self._starts = np.cumsum([0] + [len(table.labels) for table in tables])
        self._last: tuple[_Table, int] | None = None
        self._bytes: Any = None

    def images(self) -> Images:
        return Images(np.concatenate([table.labels for table in self._tables]), self._fetch, self._where)

    def _locate(self, position: int) -> tuple[_Table, int]:
        number = int(np.searchsorted(self._starts, position, side="right")) - 1
        return self._tables[number], position - int(self._starts[number])

    def _where(self, position: int) -> str:
        table, row = self._locate(position)
        return f"'{table.path}' row {row} (counted from 0)"

    def _fetch(self, position: int) -> bytes:
        table, row = self._locate(position)
        group = int(np.searchsorted(table.group_starts, row, side="right")) - 1
        if self._last is None or self._last[0] is not table or self._last[1] != group:
            self._bytes, self._last = table.image_bytes(group), (table, group)
        encoded = self._bytes[row - int(table.group_starts[group])].as_py()
        if encoded is None:
            raise ValueError(f"every row must hold an image, got none in {self._where(position)}; remove the row")
        return bytes(encoded)


def parquet_folder(root: Path) -> Path | None:
    """The folder with the parquet files: the root, its 'data', or the only one that has any (a hub configuration)."""
    for folder in (root, root / "data"):
        if any(folder.glob("*.parquet")):
            return folder
    folders = [folder for folder in subfolders(root) if any(folder.glob("*.parquet"))]
    if len(folders) > 1:
        raise ValueError(
            f"parquet files must lie in one folder, got {listing([folder.name for folder in folders])} in '{root}'; "
            f"name one of them, such as '{folders[0]}'"
        )
    return folders[0] if folders else None


def parquet_parts(folder: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """The files for training, for test and for validation."""
    train = sorted(folder.glob("train*.parquet"))
    if not train:
        names = listing(sorted(file.name for file in folder.glob("*.parquet")))
        raise ValueError(f"a parquet folder must hold train*.parquet, got {names} in '{folder}'; name one file instead")
    files = {part: sorted(folder.glob(f"{part}*.parquet")) for part in TEST_NAMES}
    files["val"] = [path for path in files["val"] if path not in files["validation"]]
    validation, test = held_out_parts([part for part, found in files.items() if found])
    return train, files[test] if test else [], files[validation] if validation else []


def find_tables(
    name: str, train_files: Sequence[Path], test_files: Sequence[Path] = (), validation_files: Sequence[Path] = ()
) -> Found:
    train = [_open_table(path) for path in train_files]
    images = _Rows(train).images()
    class_names = train[0].class_names or default_class_names(images.labels)
    held = [[_open_table(path) for path in files] for files in (test_files, validation_files)]
    test, validation = (_Rows(tables).images() if tables else None for tables in held)
    return Found(name, images, test, class_names, validation)


def _open_table(path: Path) -> _Table:
    import pyarrow.parquet as pq

    with _reading(path), pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        image_column = pick_column(names, IMAGE_COLUMNS, "image", f"'{path}'")
        label_column = pick_column(names, LABEL_COLUMNS, "label", f"'{path}'")
        rows = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        labels = _integer_labels(file.read(columns=[label_column]).column(0), path)
        class_names = _metadata_class_names(file.schema_arrow.metadata, label_column)
    return _Table(path, labels, image_column, np.cumsum([0, *rows[:-1]]), class_names)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Say which parquet file could not be read: arrow's own messages do not."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"'{path}' is cut short or no parquet file ({error}); copy or download it again") from error


def pick_column(names: Sequence[str], wanted: Sequence[str], what: str, where: str) -> str:
    """The first of the wanted column names that is there.

    Raises:
        ValueError: none is; the message lists the columns found.
    """
    for name in wanted:
        if name in names:
            return name
    raise ValueError(
        f"the {what} column must be called {' or '.join(wanted)}, got columns {listing(names)} in {where}; "
        "rename the column"
    )


def _integer_labels(column: Any, path: Path) -> IntArray:
    import pyarrow as pa

    if not pa.types.is_integer(column.type):
        raise ValueError(f"labels must be integers, got {column.type} in '{path}'; number the classes from 0")
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise ValueError(f"every row must have a label, got none in '{path}' row {row} (counted from 0)")
    return np.asarray(column.to_numpy(), np.int64)


def _metadata_class_names(metadata: dict[bytes, bytes] | None, label_column: str) -> tuple[str, ...] | None:
    """Class names from the `huggingface` entry of a parquet schema, None where it has none."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(str(name) for name in features[label_column]["names"])
    except (KeyError, TypeError, ValueError):
        return None


def subfolders(root: Path) -> list[Path]:
    return sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith((".", "__")))


def listing(names: Sequence[str], most: int = 12) -> str:
    shown = ", ".join(repr(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown}, ... ({len(names)} in all)"
