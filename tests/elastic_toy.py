"""A small elastic space for tests of training: residual blocks with a depth, widths and kernels, on 8 x 8 images."""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces import Block, Integer, Network, SearchSpace
from search_spaces.core.choices import Choice
from search_spaces.core.network import Local, Shape

CHANNELS = 6
WIDTHS = (2, 4, 8)
KERNELS = (1, 3)


class Stem(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, CHANNELS, 3, stride=2, padding=1)

    def forward(self, x: Tensor, local: Local = None) -> Tensor:
        return self.conv(x)

    def extract(self, local: Local, in_shape: Shape) -> nn.Module:
        return _copied(Stem(), {"conv.weight": self.conv.weight, "conv.bias": self.conv.bias})


class Inner(nn.Module):
    """x + project(relu(norm(expand(x)))) with `width` inner channels and a kernel; the largest form holds all weights."""

    def __init__(self, width: int = WIDTHS[-1], kernel: int = KERNELS[-1], dropout: float = 0.0) -> None:
        super().__init__()
        self.width, self.kernel = width, kernel
        self.expand = nn.Parameter(nn.init.kaiming_normal_(nn.Conv2d(CHANNELS, width, kernel).weight.detach()))
        self.scale = nn.Parameter(nn.init.ones_(nn.Conv2d(1, width, 1).bias.detach()))
        self.project = nn.Parameter(nn.init.kaiming_normal_(nn.Conv2d(width, CHANNELS, 1).weight.detach()))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, local: Local = ()) -> Tensor:
        if local is None:
            return x
        width, kernel = cast(tuple[int, int], local) or (self.width, self.kernel)
        edge = (self.kernel - kernel) // 2
        expand = self.expand[:width, :, edge : edge + kernel, edge : edge + kernel]
        inner = F.batch_norm(F.conv2d(x, expand, padding=kernel // 2), None, None, self.scale[:width], training=True)
        return x + F.conv2d(self.dropout(F.relu(inner)), self.project[:, :width])

    def extract(self, local: Local, in_shape: Shape) -> nn.Module:
        if local is None:
            return nn.Identity()
        width, kernel = cast(tuple[int, int], local)
        edge = (self.kernel - kernel) // 2
        expand = self.expand[:width, :, edge : edge + kernel, edge : edge + kernel]
        slices = {"expand": expand, "scale": self.scale[:width], "project": self.project[:, :width]}
        return _copied(Inner(width, kernel), slices)

    def sort_channels_(self) -> None:
        order = self.project.detach().abs().sum((0, 2, 3)).argsort(descending=True)
        for value, permuted in (
            (self.expand, self.expand[order]),
            (self.scale, self.scale[order]),
            (self.project, self.project[:, order]),
        ):
            value.data.copy_(permuted.detach())

    def zero_residuals_(self) -> None:
        nn.init.zeros_(self.scale)


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(CHANNELS * 16, 10)

    def forward(self, x: Tensor, local: Local = None) -> Tensor:
        return self.linear(x.flatten(1))

    def extract(self, local: Local, in_shape: Shape) -> nn.Module:
        return _copied(Head(), {"linear.weight": self.linear.weight, "linear.bias": self.linear.bias})


def elastic_space(blocks: int = 2, *, dropout: float = 0.0, name: str = "toy") -> SearchSpace:
    """A depth of 1 to `blocks`, and a width and a kernel for each block that exists."""
    choices: list[Choice] = [Integer("depth", tuple(range(1, blocks + 1)), kind="depth")]
    chain = [Block("stem", (), lambda: None, lambda local, shape: Stem(), Stem)]
    for number in range(1, blocks + 1):
        when = {"depth": tuple(range(number, blocks + 1))} if number > 1 else {}
        choices += [
            Integer(f"width{number}", WIDTHS, when, "width"),
            Integer(f"kernel{number}", KERNELS, when, "kernel"),
        ]

        def read(width: int | None, kernel: int | None) -> Local:
            return None if width is None else (width, kernel)

        chain.append(
            Block(
                f"block{number}",
                (f"width{number}", f"kernel{number}"),
                read,
                lambda local, shape: nn.Identity() if local is None else Inner(*local, dropout),
                lambda: Inner(dropout=dropout),
            )
        )
    chain.append(Block("head", (), lambda: None, lambda local, shape: Head(), Head))
    return SearchSpace(name, tuple(choices), network=Network(tuple(chain), (1, 8, 8), 10))


def _copied(module: nn.Module, slices: dict[str, Tensor]) -> nn.Module:
    module.load_state_dict({name: value.detach().clone() for name, value in slices.items()})
    return module
