"""Training one supernet, a path at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from nas.device import memory_format
from nas.seeding import stream, torch_seed
from nas.training import Row, TrainingConfig, below, cross_entropy, descend, momenta, restore_momenta_, sgd, under
from search_spaces import SearchSpace, Supernet
from search_spaces.network import Local


class Member:
    """A supernet with its optimiser.

    Args:
        space: the search space.
        config: the optimiser's settings.
        device: where it trains.
        seed: initialises the weights.
        number: its place among the supernets trained together; part of the seed.
    """

    def __init__(
        self, space: SearchSpace, config: TrainingConfig, device: torch.device, seed: int, number: int = 0
    ) -> None:
        supernet = Supernet(space.net, torch_seed(seed, "supernet", number))
        self.supernet = supernet.to(device, memory_format=memory_format(device))  # type: ignore[call-overload]
        self.config = config
        self.optimizer = sgd(self.supernet, config)
        self.losses: list[float] = []
        self.accuracies: list[float] = []

    def step(self, images: Tensor, labels: Tensor, locals: Sequence[Local], learning_rate: float) -> None:
        """One step on the subnet of `locals`."""
        self.supernet.train()

        def loss() -> Tensor:
            return cross_entropy(self.supernet(images, locals), labels, self.config)

        self.losses.append(descend(self.optimizer, loss, labels.device, learning_rate))

    def row(self, number: int) -> Row:
        """Means over the epoch that ends, for the history; a supernet that was not drawn has no loss."""
        row: Row = {"supernet": number, "steps": len(self.losses)}
        if self.losses:
            row["loss"] = float(np.mean(self.losses))
        if self.accuracies:
            row["accuracy"] = float(np.mean(self.accuracies))
        self.losses, self.accuracies = [], []
        return row

    def tensors(self) -> dict[str, Tensor]:
        return {**under("weights", self.supernet.state_dict()), **under("momenta", momenta(self.optimizer))}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self.supernet.load_state_dict(below("weights", tensors))
        restore_momenta_(self.optimizer, below("momenta", tensors))


class SinglePath:
    """Single path one-shot: every step trains one uniformly drawn subnet of one supernet.

    Reference: Guo et al., "Single Path One-Shot Neural Architecture Search with Uniform Sampling", ECCV 2020, arXiv:1904.00420.
    """

    def __init__(self, space: SearchSpace, config: TrainingConfig, *, seed: int, device: torch.device) -> None:
        self.space = space
        self.seed = seed
        self.members = [Member(space, config, device, seed)]

    def begin(self, epoch: int) -> None:
        self.rng = stream(self.seed, "paths", epoch)

    def step(self, images: Tensor, labels: Tensor, learning_rate: float) -> None:
        arch = self.space.sample(self.rng)
        self.members[0].step(images, labels, self.space.locals(arch), learning_rate)

    def end(self) -> list[Row]:
        return [self.members[0].row(0)]

    def tensors(self) -> dict[str, Tensor]:
        return under("supernet0", self.members[0].tensors())

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self.members[0].restore(below("supernet0", tensors))
