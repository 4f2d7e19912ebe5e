"""What a space of pooling placements asks of its operators and its images."""

from __future__ import annotations

from collections.abc import Sequence

from search_spaces.pooling.operators import POOLINGS


def stride(operator: str | None) -> int:
    """Stride of the convolution that hosts the operator."""
    return 2 if operator == "conv" else 1


def check_operators(operators: Sequence[str]) -> None:
    """Raise ValueError unless `operators` are known and all different."""
    for operator in operators:
        if operator not in POOLINGS:
            raise ValueError(f"`operators` must be among {', '.join(POOLINGS)}; got {operator!r}")
    if not operators or len(set(operators)) != len(operators):
        raise ValueError(f"`operators` needs at least one operator and none twice; got {operators}")


def check_image_size(image_size: int, poolings: int, stem_stride: int = 1) -> None:
    """Raise ValueError unless `poolings` halvings leave at least one pixel of a side of `image_size` pixels, the shorter one."""
    smallest = stem_stride * 2**poolings
    if image_size < smallest:
        raise ValueError(
            f"`image_size` must be at least {smallest} for {poolings} poolings, got {image_size}; use larger images or resize them"
        )
