"""Data sets by their name in torchvision and Hugging Face datasets, of which there are stand-ins here."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from nas.data.dataset import load_data
from tests.small_data import colours, plain_image


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
        return plain_image(position, "L"), int(self.targets[position])


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
        return plain_image(position, "L"), self._labels[position]


class _FakeWhole:
    def __init__(self, size: int = 20) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, position: int) -> tuple[Image.Image, int]:
        return plain_image(position), position % 2


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
        "LSUN": _FakeData,
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
    assert sorted(colours(data.training)) == list(range(20))
    assert colours(data.test) == list(range(6))
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
    with pytest.raises(ValueError, match=r"reads LSUN's index from a pickle, which can run code; save it as a folder"):
        load_data(f"torchvision:LSUN@{torchvision}")
    with pytest.raises(ValueError, match=r"Captions cannot be opened by its name alone.*folder of images per class"):
        load_data("torchvision:Captions")
    monkeypatch.setattr(_FakeWhole, "__getitem__", lambda self, position: (plain_image(0), {"boxes": []}))
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
        return dict(zip(self.column_names, (plain_image(key), self._labels[key]), strict=True))


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
    assert sorted(colours(data.training)) == list(range(20))
    assert (colours(data.test), data.test.labels.tolist()) == ([0, 1], [1, 0])


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
