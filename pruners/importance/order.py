"""The order in which the indices of a group go, each time those that cost least."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

ROUNDS = 64  # in which the indices of a group are ordered; one index each in groups up to this size


class Losing(Protocol):
    """What reads a group, and makes up for one index after another."""

    def costs(self, left: Tensor) -> Tensor:
        """The error that each of some indices adds if it goes next."""

    def remove(self, gone: Tensor) -> None:
        """Indices go."""


def rising_costs(layers: Sequence[Losing], number: int, rounds: int = ROUNDS) -> Tensor:
    """What losing an index adds, when indices go in the order in which they add least; strictly rising in it, shape (number,), float64.

    Args:
        layers: what reads the group; their costs add up. They have lost all indices in the end.
        number: of indices.
        rounds: after which all have gone; costs are computed anew in each.
    """
    scores = torch.zeros(number, dtype=torch.float64)
    left = torch.arange(number)
    at_once = -(-number // rounds)
    score = 0.0
    while len(left):
        costs = torch.stack([layer.costs(left) for layer in layers]).sum(0).cpu()
        order = costs.sort(stable=True).indices[:at_once]
        for place in order.tolist():  # strictly rising, so that the order can be told from the scores
            score = max(float(costs[place]), score * (1 + 1e-5))
            scores[left[place]] = score
        for layer in layers:
            layer.remove(left[order])
        left = left[torch.isin(torch.arange(len(left)), order, invert=True)]
    return scores
