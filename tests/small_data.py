"""Data sets of a few images, written for one test; every image has a colour of its own."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from nas.data.dataset import ImageData, Split

LABELS = [0, 1, 2] * 8


def plain_image(value: int, mode: str = "RGB", size: tuple[int, int] = (8, 8)) -> Image.Image:
    return Image.new(mode, size, value if mode == "L" else (value, 255 - value, 7))


def png(value: int, mode: str = "RGB", size: tuple[int, int] = (8, 8)) -> bytes:
    buffer = io.BytesIO()
    plain_image(value, mode, size).save(buffer, "PNG")
    return buffer.getvalue()


def class_folder(root: Path, counts: dict[str, int], mode: str = "RGB", start: int = 0) -> Path:
    """A folder per class; every image has a colour of its own, so that it is known again after loading."""
    value = start
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            (root / name / f"{number:03}.png").write_bytes(png(value, mode))
            value += 1
    return root


def parquet_file(
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
    cells = encoded or [png(row) for row in range(len(labels))]
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": cell, "path": f"{row}.png"} for row, cell in enumerate(cells)], struct)
    table = pa.table({columns[0]: images, columns[1]: pa.array(labels, label_type or pa.int64())})
    if names is not None:
        features = {columns[1]: {"names": list(names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


def colours(split: Split) -> list[int]:
    """The red value of each image, which is its number in `class_folder` and `parquet_file`."""
    assert (split.images == split.images[:, :, :1, :1]).all()
    return split.images[:, 0, 0, 0].tolist()


def same_data(first: ImageData, second: ImageData) -> bool:
    return first.fingerprint == second.fingerprint
