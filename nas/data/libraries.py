"""Data sets of torchvision and of Hugging Face datasets, where those are installed."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nas.data.decoding import Found, Images, as_labels, default_class_names, held_out_parts
from nas.data.parquet import IMAGE_COLUMNS, LABEL_COLUMNS, pick_column


def _find_torchvision(rest: str) -> Found:
    try:
        from torchvision import datasets
    except (ImportError, RuntimeError) as error:  # RuntimeError: built for another torch
        raise ValueError(
            f"'torchvision:{rest}' needs a torchvision that fits torch ({error}); pip install torchvision"
        ) from error
    name, _, root = rest.partition("@")
    kind = getattr(datasets, name, None)
    if not inspect.isclass(kind):
        near = difflib.get_close_matches(name, dir(datasets), n=1)
        way_out = f"did you mean 'torchvision:{near[0]}'?" if near else "see the list in torchvision's documentation"
        raise ValueError(f"torchvision has no data set {name!r}; {way_out}")
    if name.startswith("LSUN"):
        raise ValueError(
            f"torchvision reads {name}'s index from a pickle, which can run code; save it as a folder of images per class"
        )
    train, class_names = _torchvision_part(kind, root or "data", "train")
    test = None
    if {"train", "split"} & inspect.signature(kind).parameters.keys():
        test, _ = _torchvision_part(kind, root or "data", "test")
    return Found(f"torchvision:{name}", train, test, class_names)


def _torchvision_part(kind: Callable[..., Any], root: str, part: str) -> tuple[Images, tuple[str, ...]]:
    name = kind.__name__
    data = _torchvision_open(kind, root, part)
    listed = next((getattr(data, key) for key in ("targets", "labels", "_labels") if hasattr(data, key)), None)
    if listed is None:
        listed = [data[position][1] for position in range(len(data))]
    where = f"torchvision:{name} {part} image"
    labels = as_labels(listed, where)
    images = Images(labels, lambda position: data[position][0], lambda position: f"{where} {position}")
    classes = getattr(data, "classes", None)
    return images, tuple(map(str, classes)) if classes else default_class_names(labels)


def _torchvision_open(kind: Callable[..., Any], root: str, part: str) -> Any:
    known = inspect.signature(kind).parameters
    available = {"root": root, "download": False, "train": part == "train", "split": part}
    options = {key: value for key, value in available.items() if key in known}
    try:
        return kind(**options)
    except (RuntimeError, OSError) as error:
        call = ", ".join(f"{key}={value!r}" for key, value in (options | {"download": True}).items())
        command = f'python -c "from torchvision.datasets import {kind.__name__}; {kind.__name__}({call})"'
        raise FileNotFoundError(
            f"torchvision's {kind.__name__} must already lie in '{root}' ({error}); name its folder as "
            f"torchvision:{kind.__name__}@FOLDER" + (f", or download it: {command}" if "download" in known else "")
        ) from error
    except (TypeError, ValueError) as error:
        if options.get("split") == "test":
            return _torchvision_open(kind, root, "val")
        raise ValueError(
            f"torchvision's {kind.__name__} cannot be opened by its name alone ({error}); save it as a folder of "
            "images per class"
        ) from error


def _find_hub(name: str) -> Found:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ValueError(
            f"'datasets:{name}' needs the package datasets ({error}); pip install \"nas-toolkit[hub]\""
        ) from error
    folder = Path(name).expanduser()
    try:
        parts = load_dataset(str(folder) if folder.is_dir() else name)
    except (OSError, ValueError, RuntimeError) as error:
        raise FileNotFoundError(
            f"datasets cannot load {name!r} ({error}); check the name and the connection, or give a folder with a copy"
        ) from error
    if "train" not in parts:
        raise ValueError(f"{name!r} must have a split called train, got {', '.join(parts)}; save it with one")
    train, class_names = _hub_part(parts["train"], f"datasets:{name} train row")
    validation, test = (
        None if part is None else _hub_part(parts[part], f"datasets:{name} {part} row")[0]
        for part in held_out_parts(list(parts))
    )
    title = folder.resolve().name if folder.is_dir() else f"datasets:{name}"
    return Found(title, train, test, class_names, validation)


def _hub_part(data: Any, where: str) -> tuple[Images, tuple[str, ...]]:
    image_column = pick_column(data.column_names, IMAGE_COLUMNS, "image", where)
    label_column = pick_column(data.column_names, LABEL_COLUMNS, "label", where)
    labels = as_labels(data[label_column], where)
    class_names = getattr(data.features[label_column], "names", None)
    images = Images(labels, lambda position: data[position][image_column], lambda position: f"{where} {position}")
    return images, tuple(class_names) if class_names else default_class_names(labels)


LIBRARIES: dict[str, Callable[[str], Found]] = {"torchvision": _find_torchvision, "datasets": _find_hub}
