"""What benchmarks on images share: the accuracy of a network, and the classes that subnets of a supernet predict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nas.data import ImageData, Split
from nas.supernets import predict
from nas.tasks import Batch, Images, image_task
from nas.training import measure
from search_spaces import Supernet
from search_spaces.core import Local


def accuracy(module: nn.Module, data: ImageData, split: Split) -> float:
    """Fraction of right predictions on a split, in [0, 1]."""
    return measure(module, image_task(data), Images(data, split))["accuracy"]


def predicted(supernet: Supernet, paths: Sequence[Sequence[Local]], examples: Images, **settings: Any) -> np.ndarray:
    """The class that each subnet predicts for each image, (subnets, images); `settings` as for `nas.supernets.predict`."""
    found: list[list[Tensor]] = [[] for _ in paths]

    def see(row: int, outputs: Tensor, batch: Batch) -> None:
        found[row].append(outputs.argmax(1).cpu())

    predict(supernet, paths, examples, see, **settings)
    return np.stack([torch.cat(own).numpy() for own in found])
