"""Accuracy of one network, and its batch statistics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from nas.data import ImageData, Split, normalize
from nas.runtime import memory_format, precision
from pruners import recalibrate_
from pruners.untouched import untouched
from search_spaces.core import first_line

BatchNorm = nn.modules.batchnorm._BatchNorm


def accuracy(predictions: np.ndarray, split: Split) -> np.ndarray:
    """Fraction of right predictions, in [0, 1]: (..., N) -> (...)."""
    return (predictions == split.labels.numpy()).mean(axis=-1)


def module_accuracy(module: nn.Module, data: ImageData, split: Split, *, batch_size: int = 250) -> float:
    """Accuracy in [0, 1] of one network in evaluation mode, where its weights are; its mode is left as it was."""
    device = next(module.parameters()).device
    was_training = module.training
    module.eval()
    right = 0
    with torch.inference_mode(), precision(device):
        for images, at in even_batches(data, split, batch_size, device):
            right += int((module(images).argmax(1).cpu() == split.labels[at : at + len(images)]).sum())
    module.train(was_training)
    return right / len(split)


def check_classifies(module: nn.Module, data: ImageData, example: Any) -> None:
    """Refuse data whose images a network does not take, or does not put into their classes.

    Args:
        module: on the CPU; its mode is left as it was.
        data: images, of which two test images are tried.
        example: inputs that the network takes.

    Raises:
        ValueError: the images do not fit, or the network returns something else than logits (N, classes) of enough classes.
    """
    try:
        with untouched(module), torch.no_grad():
            logits = module(normalize(data.test.images[:2], data.mean, data.std))
    except Exception as error:
        takes = ", ".join(_sizes(x) for x in tree_leaves(example) if isinstance(x, Tensor))
        raise ValueError(
            f"`data` must be images that the model takes, got {data.name!r} with images "
            f"{_sizes(data.test.images[:1])} for a model of inputs {takes}: {first_line(error)}; give images of that shape "
            "(`image_size` resizes them), or leave the data out"
        ) from error
    found = _sizes(logits) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
    if not isinstance(logits, Tensor) or logits.dim() != 2 or logits.shape[1] < data.num_classes:
        raise ValueError(
            f"`data` needs a model that returns one tensor (N, classes), here of {data.num_classes} classes or "
            f"more, got {found} for 2 images of {data.name!r}; wrap the model so that it returns its logits, or leave the data out"
        )


def _sizes(x: Tensor) -> str:
    return "x".join(map(str, x.shape))


def calibrate_(module: nn.Module, data: ImageData, split: Split, *, batch_size: int = 250) -> nn.Module:
    """Give every batch normalisation of `module` the mean statistics of `split`, and leave the module in evaluation mode.

    Normalisations by batch statistics become ones with running statistics, so the module no longer depends on how images are
    batched.
    """
    device = next(module.parameters()).device
    for norm in batch_norms(module):
        norm.track_running_stats = True
        norm.running_mean = torch.zeros(norm.num_features, device=device)
        norm.running_var = torch.ones(norm.num_features, device=device)
        norm.num_batches_tracked = torch.tensor(0, device=device)
    with precision(device):
        recalibrate_(module, (images for images, _ in even_batches(data, split, batch_size, device)))
    return module.eval()


def batch_norms(block: nn.Module) -> list[BatchNorm]:
    return [module for module in block.modules() if isinstance(module, BatchNorm)]


def even_batches(data: ImageData, split: Split, batch_size: int, device: torch.device) -> Iterator[tuple[Tensor, int]]:
    """Images in order, in batches of nearly equal size, with the position of the first: no batch is left too small."""
    count = -(-len(split) // batch_size)
    edges = np.linspace(0, len(split), count + 1).astype(int)
    for start, stop in zip(edges, edges[1:], strict=False):
        images = normalize(split.images[start:stop].to(device), data.mean, data.std)
        yield images.to(memory_format=memory_format(device)), int(start)
