"""Models by the names of libraries: of folders of transformers for real, of timm and torchvision as they are called."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, BertModel, ViTConfig, ViTForImageClassification

from nas import prune
from nas.cli.profile import profile
from nas.data.dataset import ImageData, with_classes
from nas.pruning import load_model, own_classes, own_image_size, own_normalisation
from nas.runtime import names_function
from pruners import load
from tests.commands import run

SIZES = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 64, "vocab_size": 50}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    BertForSequenceClassification(BertConfig(**SIZES)).save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def tokens() -> dict[str, Tensor]:
    return {"input_ids": torch.arange(12).view(2, 6), "attention_mask": torch.ones(2, 6, dtype=torch.int64)}


def test_a_folder_of_transformers_is_a_model_of_the_class_that_it_names(folder: Path) -> None:
    model = load_model(f"hf:{folder}", {})
    assert isinstance(model, BertForSequenceClassification) and not model.training
    again = BertForSequenceClassification.from_pretrained(folder).eval()
    assert torch.equal(model(**tokens()).logits, again(**tokens()).logits)
    bare = load_model(f"hf:{folder}", {"model_class": "BertModel"})
    assert type(bare) is BertModel
    assert type(load_model(f"hf:{folder}", {"model_class": "AutoModel"})) is BertModel


def test_weights_of_a_file_take_the_place_of_the_folders(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="must be a model of hf that can be made here: .*model.safetensors"):
        load_model(f"hf:{folder}", {})
    own = BertForSequenceClassification(BertConfig(**SIZES))
    save_file({name: value.contiguous() for name, value in own.state_dict().items()}, tmp_path / "own.safetensors")
    found = load_model(f"hf:{folder}", {}, tmp_path / "own.safetensors").state_dict()
    assert all(torch.equal(value, found[name]) for name, value in own.state_dict().items())


@pytest.mark.parametrize("named", ["NoSuchModel", "pipeline", "BertConfig"])
def test_a_class_that_is_no_model_of_transformers_is_refused(named: str, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"architectures": [named], "auto_map": {"AutoModel": "own.NoSuchModel"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(ValueError, match=f"a class that transformers has, got {named}, whose own code is not run"):
        load_model(f"hf:{folder}", {})


def test_a_folder_that_is_none_and_an_option_that_is_none(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'hf:.*nothing' must be a model of hf that can be made here"):
        load_model(f"hf:{tmp_path / 'nothing'}", {})


def test_images_are_normalised_as_the_configuration_says(folder: Path) -> None:
    assert own_normalisation(f"hf:{folder}") is None and own_normalisation("torch.nn:Linear") is None
    told = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.1, 0.2, 0.3], "image_processor_type": "ViTImageProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(told))
    assert own_normalisation(f"hf:{folder}") == ((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))
    (folder / "preprocessor_config.json").write_text(json.dumps({**told, "do_normalize": False}))
    assert own_normalisation(f"hf:{folder}") is None


@pytest.mark.parametrize(
    ("told", "size"),
    [
        ({"size": 96}, 96),
        ({"size": {"height": 64, "width": 64}}, 64),
        ({"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}}, 224),
        ({"size": {"longest_edge": 1000}}, None),
        ({}, None),
    ],
)
def test_the_size_of_images_is_what_the_configuration_says(
    told: dict[str, Any], size: int | None, folder: Path
) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps(told))
    assert own_image_size(f"hf:{folder}") == size and own_image_size("torch.nn:Linear") is None


def test_an_image_model_is_pruned_on_images_of_its_own_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 64}
    config = ViTConfig(**sizes, image_size=16, patch_size=4, num_channels=1, num_labels=10)
    ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    told = {"size": {"height": 16, "width": 16}, "image_mean": [0.5], "image_std": [0.25]}
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(told))
    assert own_classes(f"hf:{tmp_path / 'vit'}") is None
    _, summary = prune(f"hf:{tmp_path / 'vit'}", None, {"macs": 0.7}, data="digits", limit=100, test_limit=40)
    data = summary["settings"]["data"]
    assert data["image_size"] == 16 and data["mean"] == [0.5] and data["std"] == [0.25]
    assert set(summary["test"]["before"]) == {"accuracy", "top5", "balanced_accuracy", "macro_f1"}


def test_classes_are_in_the_order_of_the_models_outputs(digits: ImageData) -> None:
    names = [f"digit {n}" for n in (3, 1, 4, 0, 5, 9, 2, 6, 8, 7)]
    given = replace(digits, class_names=tuple(f"Digit_{n}" for n in range(10)))
    ours = with_classes(given, [*names, "letter a, A"])
    assert ours.num_classes == 11 and ours.class_names[3] == "digit 0"
    for split, before in ((ours.train, given.train), (ours.test, given.test)):
        found = [names[label] for label in split.labels.tolist()]
        assert found == [f"digit {label}" for label in before.labels.tolist()]
    assert with_classes(given, names[1:]) is given and with_classes(digits, [str(n) for n in range(10)]) is digits
    synonyms = replace(digits, class_names=("tench", *map(str, range(1, 10))))
    assert with_classes(synonyms, [*map(str, range(1, 10)), "Tench, Tinca tinca"]).train.labels.max() == 9


def test_a_folder_says_its_classes(folder: Path) -> None:
    assert own_classes(f"hf:{folder}") is None and own_classes("torch.nn:Linear") is None
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "id2label": {"1": "bad", "0": "good"}}))
    assert own_classes(f"hf:{folder}") == ("good", "bad")


def test_profiled_and_pruned_by_command(folder: Path, tmp_path: Path) -> None:
    inputs = f"{__name__}:tokens"
    found = profile(f"hf:{folder}", inputs=[inputs])
    assert found.totals["params"] == sum(p.numel() for p in load_model(f"hf:{folder}", {}).parameters())
    done = run("prune", f"hf:{folder}", "--input", inputs, "--target", "macs=0.6", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    smaller = load(tmp_path / "out", load_model(f"hf:{folder}", {}))
    assert smaller(**tokens()).logits.shape == (2, 2)
    again = run("prune", "--config", tmp_path / "out" / "prune.yaml", "--out", tmp_path / "again")
    assert again.returncode == 2 and f"names the function '{inputs}'" in again.stderr


def test_names_of_libraries_name_no_function() -> None:
    assert not any(map(names_function, ("hf:folder", "timm:resnet18", "torchvision:resnet18", "pruned:timm:resnet18")))
    assert all(map(names_function, ("mine:model", "pruned:mine:model", "torchvision.models:resnet18")))


class Made(nn.Linear):
    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(2, 3)
        self.name, self.options = name, options


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm and torchvision as they are called."""
    timm, torchvision = ModuleType("timm"), ModuleType("torchvision")
    timm.list_models = lambda: ["resnet18", "vit_tiny"]  # type: ignore[attr-defined]
    timm.create_model = Made  # type: ignore[attr-defined]
    known = SimpleNamespace(mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0), input_size=(3, 160, 160))
    timm.models = SimpleNamespace(get_pretrained_cfg=lambda name: known if name == "vit_tiny" else None)  # type: ignore[attr-defined]
    transform = SimpleNamespace(mean=[0.5], std=[0.25], crop_size=[128])
    weights = SimpleNamespace(DEFAULT=SimpleNamespace(transforms=lambda: transform, meta={"categories": ["a", "b"]}))
    torchvision.models = SimpleNamespace(  # type: ignore[attr-defined]
        list_models=lambda: ["alexnet"], get_model=Made, get_model_weights=lambda name: weights
    )
    monkeypatch.setitem(sys.modules, "timm", timm)
    monkeypatch.setitem(sys.modules, "torchvision", torchvision)


@pytest.mark.usefixtures("libraries")
def test_timm_and_torchvision() -> None:
    model = load_model("timm:vit_tiny", {"num_classes": 7})
    assert isinstance(model, Made) and model.options == {"pretrained": False, "num_classes": 7}
    assert own_normalisation("timm:vit_tiny") == ((0.1, 0.2, 0.3), (1.0, 1.0, 1.0))
    assert own_normalisation("timm:resnet18") is None and own_image_size("timm:resnet18") is None
    assert own_classes("timm:vit_tiny") is None and own_classes("torchvision:alexnet") == ("a", "b")
    assert own_image_size("timm:vit_tiny") == 160 and own_image_size("torchvision:alexnet") == 128
    other = load_model("torchvision:alexnet", {"num_classes": 3})
    assert isinstance(other, Made) and other.options == {"weights": None, "num_classes": 3}
    assert own_normalisation("torchvision:alexnet") == ((0.5,), (0.25,))
    with pytest.raises(ValueError, match="no model of timm is named 'resnet19'; did you mean resnet18"):
        load_model("timm:resnet19", {})
    with pytest.raises(ValueError, match="no model of torchvision is named 'alex'; did you mean alexnet"):
        load_model("torchvision:alex", {})


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match="'timm:resnet18' needs a package that is missing .*; pip install timm"):
        load_model("timm:resnet18", {})
