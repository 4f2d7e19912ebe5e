"""ResNets of CIFAR-10, and its images."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor, nn

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WEIGHTS = {"resnet20": "resnet20-12fca82f.th", "resnet56": "resnet56-4bfd9763.th"}


def data_folder() -> Path:
    return Path(os.environ.get("NAS_DATA", "../shared/data"))


def resnet(name: str) -> nn.Module:
    from examples.cifar_resnet import pretrained

    return pretrained(data_folder().parent / "weights" / WEIGHTS[name])


@cache
def cifar() -> Any:
    """CIFAR-10 as `nas` reads it, with the weights' normalisation."""
    from nas.data import load_data, with_normalisation

    return with_normalisation(
        load_data(str(data_folder() / "cifar10"), seed=0, validation_fraction=0.1), MEAN, DEVIATION
    )


def images(n: int, seed: int) -> list[Tensor]:
    return [x for x, _ in labelled(n, seed)]


def labelled(n: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """n training images with their labels, in batches of at most 100."""
    from nas.data import batches
    from nas.runtime import stream

    data, found = cifar(), []
    for x, y in batches(data.training, data, min(n, 100), rng=stream(seed, "calibration")):
        found.append((x, y))
        if sum(len(y) for _, y in found) >= n:
            return found
    return found


def test_accuracy(model: nn.Module) -> dict[str, float]:
    from benchmarks.on_images import accuracy

    return {"accuracy": 100 * accuracy(model, cifar(), cifar().test)}
