"""Operators that halve the resolution, and how a convolution block hosts one.

`max` and `avg` pool the block's input with a 2x2 window. `conv` gives the block's own convolution a stride of 2. None of them has
weights, so every placement uses the same ones.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

OPERATORS = ("max", "avg", "conv")


def pool(x: Tensor, operator: str | None) -> Tensor:
    """Halve height and width (rounded down) of `x` (N, C, H, W) if the operator pools the input; else return `x` itself."""
    if operator == "max":
        return F.max_pool2d(x, 2)
    if operator == "avg":
        return F.avg_pool2d(x, 2)
    return x


def stride(operator: str | None) -> int:
    """Stride of the convolution that hosts the operator."""
    return 2 if operator == "conv" else 1


def check_operators(operators: tuple[str, ...]) -> None:
    """Raise ValueError unless `operators` are known and all different."""
    for operator in operators:
        if operator not in OPERATORS:
            raise ValueError(f"`operators` must be among {', '.join(OPERATORS)}; got {operator!r}")
    if not operators or len(set(operators)) != len(operators):
        raise ValueError(f"`operators` needs at least one operator and none twice; got {operators}")


def check_image_size(image_size: int, poolings: int, stem_stride: int = 1) -> None:
    """Raise ValueError unless `poolings` halvings leave at least one pixel of an image of `image_size` pixels a side."""
    smallest = stem_stride * 2**poolings
    if image_size < smallest:
        raise ValueError(
            f"`image_size` must be at least {smallest} for {poolings} poolings, got {image_size}; use larger images or resize them"
        )
