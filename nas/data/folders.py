"""Images that lie in files: the embedded digits, and folders of images per class or of parquet."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nas.data.decoding import Found, Images, default_class_names, held_out_parts
from nas.data.parquet import find_tables, listing, parquet_folder, parquet_parts, subfolders

IMAGE_FOLDERS = frozenset({"image", "img", "input", "photo"})
MASK_FOLDERS = frozenset({"mask", "label", "annotation", "target", "gt", "segmentation", "output"})
EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".ppm", ".pgm", ".tif", ".tiff"})


@dataclass(frozen=True)
class FileNames:
    """Names of hundreds of thousands of files, as bytes in one array, which other processes read without a copy of it."""

    names: NDArray[np.bytes_]

    def path(self, position: int) -> Path:
        return Path(os.fsdecode(self.names[position]))

    def where(self, position: int) -> str:
        return f"'{self.path(position)}'"


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
        return find_tables(name, [path])
    parquet = parquet_folder(path)
    if parquet is not None:
        return find_tables(name, *parquet_parts(parquet))
    return _find_class_folders(name, path)


def _find_class_folders(name: str, root: Path) -> Found:
    train_root = root / "train"
    held_out = held_out_parts([folder.name for folder in subfolders(root)])
    # A class may be called 'train', so the name alone does not make a folder of splits.
    if not train_root.is_dir() or (held_out[1] is None and not subfolders(train_root)):
        train_root, held_out = root, (None, None)
    class_names = _class_names(train_root)
    train = _class_folders(train_root, class_names)
    validation, test = (None if part is None else _class_folders(root / part, class_names) for part in held_out)
    return Found(name, train, test, class_names, validation)


def _class_names(root: Path) -> tuple[str, ...]:
    names = tuple(folder.name for folder in subfolders(root))
    if names:
        _refuse_masks(root, names)
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


def _refuse_masks(root: Path, names: tuple[str, ...]) -> None:
    """Refuse two folders that look like inputs and what is wanted of them."""
    if len(names) != 2:
        return
    kinds = {name.lower().rstrip("s") for name in names}
    if kinds & IMAGE_FOLDERS and kinds & MASK_FOLDERS:
        raise ValueError(
            f"an image folder must hold one folder per class, got {listing(names)} in '{root}', which look like images and what is "
            "wanted of each, not like two classes; rename them if they are classes"
        )


def _class_folders(root: Path, class_names: tuple[str, ...]) -> Images:
    numbers = {name: number for number, name in enumerate(class_names)}
    files: list[bytes] = []
    labels: list[int] = []
    for folder in subfolders(root):
        if folder.name not in numbers:
            raise ValueError(
                f"every test class must be a training class, got '{folder}', training has {listing(class_names)}; "
                "rename or remove the folder"
            )
        inside = sorted(map(os.fsencode, _image_files(folder)))
        if not inside:
            raise ValueError(f"every class folder must hold images, got none in '{folder}'; fill or remove it")
        files += inside
        labels += [numbers[folder.name]] * len(inside)
    if not files:
        raise ValueError(f"no class folders found in '{root}'; put the images in '{root}/CLASS/', or remove it")
    names = FileNames(np.array(files))
    return Images(np.array(labels, np.int64), names.path, names.where)


def _image_files(folder: Path) -> Iterator[str]:
    for where, _, names in os.walk(folder, followlinks=True):
        yield from (os.path.join(where, name) for name in names if _is_image(name))


def _is_image(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in EXTENSIONS
