"""What trials are worth beside each other, from 0 to 1, for strategies that learn from one number."""

from __future__ import annotations

import numpy as np

from nas.objectives import Floats

COMPARED = 256
GROWTH = 1.25


class Rewards:
    """The share of the trials so far that do not dominate a trial: 1 on the front, and with one objective the rank.

    So a reward has no unit, whatever the objectives are, and a failed trial, told as worse than any, is the lowest and no more. A new
    trial is compared with up to 256 of those before. When trials are a quarter more, all rewards are made anew.
    """

    def __init__(self) -> None:
        self._losses: list[Floats] = []
        self._compared = np.empty((0, 1))
        self._due = 2

    def __len__(self) -> int:
        return len(self._losses)

    def add(self, losses: Floats) -> float:
        """The reward of a new trial, for losses of shape (k,)."""
        self._losses.append(losses)
        return float(self._rewards(losses[None, :])[0]) if len(self._compared) else 1.0

    @property
    def stale(self) -> bool:
        """Whether all rewards are to be made anew, by `renewed`."""
        return len(self._losses) >= self._due

    def renewed(self) -> Floats:
        """The rewards of all trials in the order in which they were added, shape (n,)."""
        losses = np.array(self._losses)
        at = np.linspace(0, len(losses) - 1, min(COMPARED, len(losses))).round().astype(int)
        self._compared, self._due = losses[at], int(np.ceil(GROWTH * len(losses)))
        return np.concatenate([self._rewards(part) for part in np.array_split(losses, -(-len(losses) // 500))])

    def _rewards(self, losses: Floats) -> Floats:
        """Shape (n,), for losses of shape (n, k)."""
        a, b = self._compared[None, :, :], losses[:, None, :]
        dominated: Floats = ((a <= b).all(axis=2) & (a < b).any(axis=2)).mean(axis=1)
        return 1.0 - dominated
