"""Where labelled images lie and how they become uint8 arrays: class folders, parquet files, decoding in threads.

Finding is apart from decoding, so that a split or a limit is chosen from labels alone and nothing else is decoded.

Shapes: N images, C channels, H x W pixels.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".ppm", ".pgm", ".tif", ".tiff"})
IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "fine_label", "labels")
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


# ---------------------------------------------------------------------------------------------------- labels


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


# ---------------------------------------------------------------------------------------------------- finding


def find_digits() -> Found:
    """Find the 1,797 handwritten digits that come with scikit-learn."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.int64)
    images = Images(labels, lambda position: Image.fromarray(pixels[position]), lambda position: f"digit {position}")
    return Found("digits", images, None, default_class_names(labels))


def find_path(path: Path, name: str) -> Found:
    """Find the data set in a parquet file, a folder of parquet files or a folder with a folder per class.

    Args:
        path: an existing file or folder.
        name: what the data set is called.

    Returns:
        The training images and, where the layout has them, the test images.

    Raises:
        ValueError: the layout is none of these, or a part of it is empty or damaged.
    """
    if path.is_file():
        if path.suffix != ".parquet":
            raise ValueError(f"a data file must be .parquet, got '{path}'; name a parquet file or a folder")
        return _find_tables(name, [path], [])
    parquet = _parquet_folder(path)
    if parquet is not None:
        return _find_tables(name, *_parquet_parts(parquet))
    return _find_class_folders(name, path)


def _find_class_folders(name: str, root: Path) -> Found:
    train_root = root / "train"
    test_root = next((root / part for part in TEST_NAMES if (root / part).is_dir()), None)
    # A class may be called 'train', so the name alone does not make a folder of splits.
    if not train_root.is_dir() or (test_root is None and not _folders(train_root)):
        train_root, test_root = root, None
    class_names = _class_names(train_root)
    train = _class_folders(train_root, class_names)
    test = None if test_root is None else _class_folders(test_root, class_names)
    return Found(name, train, test, class_names)


def _class_names(root: Path) -> tuple[str, ...]:
    names = tuple(folder.name for folder in _folders(root))
    if names:
        return names
    if any(_is_image(file.name) for file in root.iterdir()):
        raise ValueError(
            f"an image folder must hold one folder per class, got images directly in '{root}'; "
            f"move them to '{root}/CLASS/'"
        )
    raise ValueError(
        f"no data found in '{root}': expected a folder of images per class, 'train' and 'test' folders of these, "
        "or train*.parquet"
    )


def _class_folders(root: Path, class_names: tuple[str, ...]) -> Images:
    numbers = {name: number for number, name in enumerate(class_names)}
    files: list[Path] = []
    labels: list[int] = []
    for folder in _folders(root):
        if folder.name not in numbers:
            raise ValueError(
                f"every test class must be a training class, got '{folder}', training has {_listing(class_names)}; "
                "rename or remove the folder"
            )
        inside = sorted(_image_files(folder))
        if not inside:
            raise ValueError(f"every class folder must hold images, got none in '{folder}'; fill or remove it")
        files += inside
        labels += [numbers[folder.name]] * len(inside)
    if not files:
        raise ValueError(f"no class folders found in '{root}'; put the images in '{root}/CLASS/', or remove it")
    return Images(np.array(labels, np.int64), files.__getitem__, lambda position: f"'{files[position]}'")


def _folders(root: Path) -> list[Path]:
    return sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith((".", "__")))


def _image_files(folder: Path) -> Iterator[Path]:
    for where, _, names in os.walk(folder, followlinks=True):
        yield from (Path(where, name) for name in names if _is_image(name))


def _is_image(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in EXTENSIONS


def _listing(names: Sequence[str], most: int = 12) -> str:
    shown = ", ".join(repr(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown}, ... ({len(names)} in all)"


# ---------------------------------------------------------------------------------------------------- parquet


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


def _parquet_folder(root: Path) -> Path | None:
    """The folder with the parquet files: the root, its 'data', or the only one that has any (a hub configuration)."""
    for folder in (root, root / "data"):
        if any(folder.glob("*.parquet")):
            return folder
    folders = [folder for folder in _folders(root) if any(folder.glob("*.parquet"))]
    if len(folders) > 1:
        raise ValueError(
            f"parquet files must lie in one folder, got {_listing([folder.name for folder in folders])} in '{root}'; "
            f"name one of them, such as '{folders[0]}'"
        )
    return folders[0] if folders else None


def _parquet_parts(folder: Path) -> tuple[list[Path], list[Path]]:
    train = sorted(folder.glob("train*.parquet"))
    if not train:
        names = _listing(sorted(file.name for file in folder.glob("*.parquet")))
        raise ValueError(f"a parquet folder must hold train*.parquet, got {names} in '{folder}'; name one file instead")
    tests = (sorted(folder.glob(f"{part}*.parquet")) for part in TEST_NAMES)
    return train, next((files for files in tests if files), [])


def _find_tables(name: str, train_files: Sequence[Path], test_files: Sequence[Path]) -> Found:
    train = [_open_table(path) for path in train_files]
    test = [_open_table(path) for path in test_files]
    images = _Rows(train).images()
    class_names = train[0].class_names or default_class_names(images.labels)
    return Found(name, images, _Rows(test).images() if test else None, class_names)


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
        f"the {what} column must be called {' or '.join(wanted)}, got columns {_listing(names)} in {where}; "
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


# ---------------------------------------------------------------------------------------------------- decoding


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
                    f"{pixels.shape[0]} x {pixels.shape[1]} in {images.where(int(positions[row]))}; give image_size "
                    f"(--image-size {min(height, width)}) to resize and crop them"
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


# ---------------------------------------------------------------------------------------------------- memory


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
            f"{needed / 1e9:.1f} GB with {available / 1e9:.1f} GB available; use --limit (limit) for fewer or "
            "--image-size (image_size) for smaller images"
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
