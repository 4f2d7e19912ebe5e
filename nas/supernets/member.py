"""One supernet in training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.optim.swa_utils import get_ema_multi_avg_fn

from nas.runtime import memory_format, ranks, torch_seed
from nas.supernets.partial_step import step_
from nas.supernets.slices import Slices
from nas.training import (
    Row,
    TrainingConfig,
    below,
    clip_,
    make_optimizer,
    restore_state_,
    set_rate_,
    state_tensors,
    under,
)
from search_spaces import SearchSpace, Supernet
from search_spaces.core import Local


@runtime_checkable
class Parting(Protocol):
    """A module with sets of weights that learn from each other's gradients until they have parted."""

    def spread_gradients_(self, done: float) -> None:
        """Spread the gradients before a step, when a fraction of the training is done."""


class Member:
    """A supernet with its optimiser.

    A step moves only the part of the parameters that its subnets use: the rest keeps its bits, weight decay and what the optimiser
    remembers included; but for weights that are parting, which move together.

    Args:
        space: the search space.
        config: the optimiser's settings.
        device: where it trains.
        seed: initialises the weights.
        number: its place among the supernets trained together; part of the seed.
        ema: decay of the moving average of the weights; 0 keeps none.
    """

    def __init__(
        self,
        space: SearchSpace,
        config: TrainingConfig,
        device: torch.device,
        seed: int,
        number: int = 0,
        ema: float = 0.0,
    ) -> None:
        supernet = Supernet(space.net, torch_seed(seed, "supernet", number))
        self.supernet = supernet.to(device, memory_format=memory_format(device))  # type: ignore[call-overload]
        self.optimizer = make_optimizer(self.supernet, config)
        self.slices = Slices(self.supernet)
        self.parting = [module for module in self.supernet.modules() if isinstance(module, Parting)]
        self.clip = config.clip
        self.moves_unused = config.optimizer != "sgd" or bool(config.momentum or config.weight_decay)
        self.trained: list[Sequence[Local]] = []
        self.batches = 0
        self.steps = 0
        self.losses: dict[str, list[float]] = {}
        self.accuracies: list[float] = []
        self.ema = ema
        self.averaged: dict[str, Tensor] = {}
        self.average_anew()

    def update(self, learning_rate: float, done: float) -> None:
        """One step of the optimiser down the gradients that have added up, clipped, when a fraction of the training is done.

        Processes that train together take the step down the mean of their gradients.
        """
        ranks.average_(weight.grad for weight in self.supernet.parameters() if weight.grad is not None)
        for module in self.parting:
            module.spread_gradients_(done)
        clip_(self.supernet.parameters(), self.clip)
        set_rate_(self.optimizer, learning_rate)
        step_(self.optimizer, self.slices.partial(self.trained) if self.moves_unused else {})
        self.optimizer.zero_grad(set_to_none=True)
        self.trained, self.batches = [], 0
        self.steps += 1
        if self.ema:
            now = [parameter.detach() for parameter in self.supernet.parameters()]
            get_ema_multi_avg_fn(self.ema)(list(self.averaged.values()), now, self.steps)

    def average_anew(self) -> None:
        """Let the moving average of the weights start at what they are now."""
        if self.ema:
            self.averaged = {name: value.detach().clone() for name, value in self.supernet.named_parameters()}

    def use_average_(self) -> None:
        """Put the moving average of the weights in their place, where one is kept."""
        self.supernet.load_state_dict(self.averaged, strict=False)

    def row(self, number: int) -> Row:
        """Means over the epoch that ends, for the history; a supernet that was not drawn has no loss."""
        every = [loss for losses in self.losses.values() for loss in losses]
        row: Row = {"supernet": number, "steps": self.steps}
        if every:
            row["loss"] = float(np.mean(every))
        if self.accuracies:
            row["accuracy"] = float(np.mean(self.accuracies))
        self.losses, self.accuracies, self.steps = {}, [], 0
        return row

    def tensors(self) -> dict[str, Tensor]:
        return {
            **under("weights", self.supernet.state_dict()),
            **under("momenta", state_tensors(self.optimizer)),
            **under("averaged", self.averaged),
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self.supernet.load_state_dict(below("weights", tensors))
        restore_state_(self.optimizer, below("momenta", tensors))
        for name, value in below("averaged", tensors).items():
            self.averaged[name].copy_(value)


@contextmanager
def without_dropout(module: nn.Module, off: bool = True) -> Iterator[None]:
    """Switch dropout off for a while."""
    layers = [layer for layer in module.modules() if isinstance(layer, _DropoutNd) and layer.training] if off else []
    for layer in layers:
        layer.eval()
    try:
        yield
    finally:
        for layer in layers:
            layer.train()
