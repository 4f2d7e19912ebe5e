"""Widths of elastic layers: their bounds, the weights that inputs meet, and copies of slices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn


class Sources:
    """Which weights the inputs of a layer meet, where they are several sources side by side.

    Source s, of up to `largest[s]` channels, meets the weights from `sum(largest[:s])` on, however narrow the sources before it are.

    Args:
        inputs: of the layer's largest form.
        largest: the largest width of each source. Default: one source.

    Raises:
        ValueError: sources that do not add up to the inputs.
    """

    def __init__(self, inputs: int, largest: Sequence[int] | None = None) -> None:
        self.largest = (inputs,) if largest is None else tuple(largest)
        if sum(self.largest) != inputs or min(self.largest) < 1:
            raise ValueError(
                f"`sources` must be widths of at least 1 that add up to the {inputs} inputs of the layer, got {list(self.largest)}"
            )
        self.choose_()

    @property
    def several(self) -> bool:
        return len(self.largest) > 1

    def choose_(self, widths: Sequence[int] | None = None) -> None:
        """Set the width of each source; what is left out is whatever comes in from one source, and the largest of several.

        Raises:
            ValueError: another number of widths than sources, or a width that a source does not have.
        """
        if widths is not None and len(widths) != len(self.largest):
            raise ValueError(f"`sources` must have a width for each of {len(self.largest)} sources, got {list(widths)}")
        self.widths = tuple(widths) if widths is not None else self.largest if self.several else None
        for width, most in zip(self.widths or (), self.largest, strict=False):
            checked(width, most, "inputs")

    def read(self, weight: Tensor, width: int) -> Tensor:
        """Of weights (outputs, inputs, ...) those that `width` inputs meet.

        Raises:
            ValueError: more inputs than there are weights for, or others than the chosen widths add up to.
        """
        checked(width, sum(self.largest), "inputs")
        if self.widths is None:
            return weight[:, :width]
        if sum(self.widths) != width:
            raise ValueError(
                f"sources of {' + '.join(map(str, self.widths))} channels must be as many inputs, got {width}; choose the widths "
                "that come in as `sources`"
            )
        each = zip(weight.split(self.largest, dim=1), self.widths, strict=True)
        return torch.cat([own[:, :chosen] for own, chosen in each], dim=1)


def checked(width: int, most: int, what: Literal["inputs", "outputs", "channels", "features"]) -> int:
    """`width`; ValueError unless a layer of up to `most` can have it."""
    if not 1 <= width <= most:
        raise ValueError(f"an elastic layer of {most} {what} must be used with 1 to {most}, got {width}")
    return width


def copied(weight: Tensor) -> nn.Parameter:
    """A parameter with the values of a slice."""
    return nn.Parameter(weight.detach().clone(memory_format=torch.contiguous_format))
