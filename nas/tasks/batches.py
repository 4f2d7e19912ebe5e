"""What one batch of one's own data is: inputs and a target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from nas.tasks.examples import Batch

TARGETS = ("labels", "label", "targets", "target")
"""Keys of a batch that is a dict, of which one holds the target; the others are keyword inputs."""
Unpack = Callable[[Any], tuple[Any, Any]]


def unpacked(raw: Any, unpack: Unpack | None = None) -> Batch:
    """A batch as inputs and target, floats in float32, images in bytes from 0 to 1.

    By the usual rule a pair is (inputs, target), a dict holds keyword inputs and a target by one of the names labels, label, targets
    and target, and all else is inputs without a target. Integers of a target become int64.

    Raises:
        ValueError: more than two things in a row, of which nobody knows which is the target.
    """
    if unpack is not None:
        inputs, target = unpack(raw)
    elif isinstance(raw, (tuple, list)):
        if len(raw) > 2:
            raise ValueError(
                f"a batch must be inputs, a pair (inputs, target), or a dict, got a row of {len(raw)}; several inputs are a tuple in "
                "the pair, or say by `unpack` which is which"
            )
        inputs, target = (raw[0], raw[1]) if len(raw) == 2 else (raw[0], None)
    elif isinstance(raw, Mapping):
        key = next((name for name in TARGETS if name in raw), None)
        inputs = {name: value for name, value in raw.items() if name != key}
        target = None if key is None else raw[key]
    else:
        inputs, target = raw, None
    if isinstance(inputs, list):
        inputs = tuple(inputs)
    return Batch(tree_map(_as_input, inputs), tree_map(_as_target, target))


def _as_input(x: Any) -> Any:
    if not isinstance(x, Tensor):
        return x
    if x.dtype == torch.uint8:
        return x.float() / 255
    return x.float() if x.dtype == torch.float64 else x


def _as_target(x: Any) -> Any:
    if not isinstance(x, Tensor):
        return x
    if x.dtype == torch.float64:
        return x.float()
    return x.long() if not x.is_floating_point() and not x.is_complex() and x.dtype != torch.bool else x
