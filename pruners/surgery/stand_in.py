"""What stands in a module for a part that is left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

Place = int | str  # of an argument: its position or its name


@dataclass(frozen=True)
class Given:
    """What a module was given: the argument at a place."""

    place: Place


@dataclass(frozen=True)
class Zeros:
    """Zeros like an argument, where `size` is given with that many along one dimension."""

    place: Place
    dim: int = 0
    size: int | None = None


class LeftOut(nn.Module):
    """Stands in for a module that is left out: returns what it is given, or zeros, without computing anything.

    Args:
        returns: what the module returned, with `Given` and `Zeros` for tensors.
        attributes: its plain attributes, which code around it may read.
    """

    def __init__(self, returns: Any, attributes: Mapping[str, Any]) -> None:
        super().__init__()
        for name, value in attributes.items():
            setattr(self, name, value)
        self.returns = returns

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What stands for the module's result."""
        return _filled(self.returns, args, kwargs)

    def extra_repr(self) -> str:
        """What is returned."""
        return repr(self.returns)


def _filled(returns: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    if isinstance(returns, (tuple, list)):
        return type(returns)(_filled(item, args, kwargs) for item in returns)
    if not isinstance(returns, (Given, Zeros)):
        return returns
    x = args[returns.place] if isinstance(returns.place, int) else kwargs[returns.place]
    if isinstance(returns, Given):
        return x
    if returns.size is None:
        return torch.zeros_like(x)
    return x.new_zeros([returns.size if dim == returns.dim else n for dim, n in enumerate(x.shape)])
