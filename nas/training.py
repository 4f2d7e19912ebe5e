"""The one training loop: a learner takes batches, epoch by epoch, and a checkpoint is written after each."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from nas import checkpoint
from nas.batches import batches
from nas.data import ImageData, Split
from nas.decay import decaying
from nas.device import memory_format, precision
from nas.progress import Progress, silent
from nas.seeding import stream

Batch = tuple[Tensor, Tensor]
Row = dict[str, float]
FLOOR = 0.05
WARM_UP = 0.3


class TrainingConfig(BaseModel):
    """How long and how to train with SGD.

    The learning rate follows its `schedule` from `learning_rate` to `final_learning_rate`, step by step, see `learning_rate`. A batch
    size above the number of images means one batch of all of them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(gt=0)
    batch_size: int = Field(default=128, gt=1)
    learning_rate: float = Field(default=0.1, gt=0)
    final_learning_rate: float = Field(default=1e-3, ge=0)
    schedule: Literal["cosine", "one-cycle", "exponential"] = "cosine"
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    augment: bool = True


class Learner(Protocol):
    """What the loop trains."""

    def begin(self, epoch: int) -> None:
        """Called before the first batch of an epoch."""
        ...

    def step(self, images: Tensor, labels: Tensor, learning_rate: float) -> None:
        """Learn from one batch: float images (batch, channels, height, width) and labels (batch,)."""
        ...

    def end(self) -> list[Row]:
        """Called after the last batch of an epoch: rows for the history."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint has to keep, by name."""
        ...

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go back to a checkpoint."""
        ...


class NotFinite(ValueError):
    """The loss is no longer a number, or the weights have run away."""


def fit(
    learner: Learner,
    data: ImageData,
    split: Split,
    config: TrainingConfig,
    *,
    seed: int,
    device: torch.device,
    path: Path | None = None,
    name: str = "training",
    progress: Progress = silent,
    on_epoch: Callable[[list[Row]], None] | None = None,
) -> list[Row]:
    """Train on `split` and return the history: the learner's rows with `epoch`, `learning_rate` and `seconds` of the epoch.

    `on_epoch` is given the history so far after each epoch, once that is in the checkpoint.

    With a checkpoint `path`, a second call goes on after the last finished epoch and ends with the same weights as a call that was
    never stopped, because each epoch draws from a random stream of its own.

    Raises:
        NotFinite: the loss is NaN or infinite, or an epoch's last step left such weights; the checkpoint of the last good epoch stays.
    """
    history: list[Row] = []
    done = 0
    if path is not None and (found := checkpoint.load(path)) is not None:
        learner.restore(found.tensors)
        done, history = found.state["epochs"], found.state["history"]
    size = min(config.batch_size, len(split))
    steps = len(split) // size
    progress(name, done, config.epochs)
    for epoch in range(done, config.epochs):
        started = time.perf_counter()
        rate = config.learning_rate
        try:
            learner.begin(epoch)
            for step, (images, labels) in enumerate(_epoch(data, split, size, config, seed, epoch, device)):
                rate = learning_rate(config, epoch + step / steps)
                learner.step(images, labels, rate)
                progress(name, epoch + (step + 1) / steps, config.epochs)
            rows = learner.end()
        except NotFinite as error:
            kept = "" if path is None or not epoch else f"; {path} keeps the state after {epoch} epochs to go on from"
            raise NotFinite(f"{error}{kept}") from None
        extra = {"epoch": epoch, "learning_rate": rate, "seconds": round(time.perf_counter() - started, 3)}
        history += [{**extra, **row} for row in rows]
        if path is not None:
            checkpoint.save(path, learner.tensors(), {"epochs": epoch + 1, "history": history})
        if on_epoch:
            on_epoch(history)
    return history


def _epoch(
    data: ImageData, split: Split, size: int, config: TrainingConfig, seed: int, epoch: int, device: torch.device
) -> Iterator[Batch]:
    rng = stream(seed, "batches", epoch)
    return batches(
        split,
        data,
        size,
        rng=rng,
        augment=config.augment,
        drop_last=True,
        device=device,
        channels_last=memory_format(device) == torch.channels_last,
    )


def learning_rate(config: TrainingConfig, epoch: float) -> float:
    """Learning rate at a (fractional) epoch.

    `cosine` falls along half a cosine. `one-cycle` rises from a 25th of `learning_rate` for 30 % of the epochs, and then falls, both
    along half a cosine. `exponential` falls to a floor of 5 % in two thirds of the epochs and stays there, whatever
    `final_learning_rate` is, so that small subnets keep learning.

    Reference: for `one-cycle`, Smith, Topin, "Super-Convergence", 2018, arXiv:1708.07120; for the floor, Yu et al., "BigNAS",
    ECCV 2020, arXiv:2003.11142.
    Differs: the momentum has no cycle; the exponential's pace follows the number of epochs.
    """
    low, high, done = config.final_learning_rate, config.learning_rate, epoch / config.epochs
    if config.schedule == "exponential":
        return high * max(FLOOR, FLOOR ** (1.5 * done))
    if config.schedule == "one-cycle":
        if done < WARM_UP:
            return _between(high / 25, high, done / WARM_UP)
        return _between(high, low, (done - WARM_UP) / (1 - WARM_UP))
    return _between(high, low, done)


def _between(start: float, end: float, done: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2


def sgd(module: nn.Module, config: TrainingConfig) -> torch.optim.SGD:
    """SGD over all parameters; those without a part in a step are left alone by it. What weight decay spares is in `nas.decay`."""
    decayed, spared = decaying(module) if config.weight_decay else (list(module.parameters()), [])
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": spared}]
    filled = [group for group in groups if group["params"]]
    return torch.optim.SGD(filled, lr=config.learning_rate, momentum=config.momentum)


def set_rate_(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Let the next step have this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def cross_entropy(logits: Tensor, labels: Tensor, config: TrainingConfig) -> Tensor:
    """Mean cross-entropy of logits (batch, classes) in float32; of several heads (batch, heads, classes), the sum of theirs."""
    if logits.ndim == 3:
        return torch.stack([cross_entropy(head, labels, config) for head in logits.unbind(1)]).sum()
    return F.cross_entropy(logits.float(), labels, label_smoothing=config.label_smoothing)


def descend(
    optimizer: torch.optim.Optimizer, compute: Callable[[], Tensor], device: torch.device, learning_rate: float
) -> float:
    """One step down the loss that `compute` gives; returns the loss before the step."""
    set_rate_(optimizer, learning_rate)
    optimizer.zero_grad(set_to_none=True)
    with precision(device):
        loss = compute()
    value = loss.item()
    if not math.isfinite(value):
        raise NotFinite(f"the training loss must be finite, got {value}; lower `learning_rate` (now {learning_rate:g})")
    loss.backward()
    optimizer.step()
    return value


def check_weights(optimizer: torch.optim.Optimizer) -> None:
    """Raise NotFinite unless all weights and momenta have finite squares: larger ones make the next loss NaN or infinite.

    Losses are taken before a step, so that no loss of its epoch shows what an epoch's last step did.
    """
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    tensors = [*weights, *momenta(optimizer).values()]
    with torch.no_grad():
        sums = torch.stack([tensor.float().square().sum() for tensor in tensors])
    if not sums.isfinite().all():
        raise NotFinite(
            f"weights must have finite squares after an epoch, got a sum of {sums.max().item()}; lower `learning_rate` (now "
            f"{optimizer.param_groups[0]['lr']:g})"
        )


def momenta(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's momentum buffers, by the number of the parameter."""
    buffers = optimizer.state_dict()["state"]
    return {
        f"{index}": entry["momentum_buffer"]
        for index, entry in buffers.items()
        if entry.get("momentum_buffer") is not None
    }


def restore_momenta_(optimizer: torch.optim.Optimizer, buffers: Mapping[str, Tensor]) -> None:
    """Put back what `momenta` gave."""
    state = optimizer.state_dict()
    state["state"] = {int(index): {"momentum_buffer": buffer} for index, buffer in buffers.items()}
    optimizer.load_state_dict(state)


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names moved below a prefix, as in `weights/stem.0.weight`."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `under` put below a prefix."""
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(prefix + "/")}


class Alone:
    """A learner of one network on its own.

    Args:
        module: moved to `device` and trained in place.
        config: the optimiser's settings.
        device: where it trains.
    """

    def __init__(self, module: nn.Module, config: TrainingConfig, device: torch.device) -> None:
        self.module = module.to(device, memory_format=memory_format(device))  # type: ignore[call-overload]
        self.config = config
        self.optimizer = sgd(self.module, config)
        self.losses: list[float] = []

    def begin(self, epoch: int) -> None:
        self.module.train()
        self.losses = []

    def step(self, images: Tensor, labels: Tensor, learning_rate: float) -> None:
        loss = descend(self.optimizer, lambda: self.loss(images, labels), labels.device, learning_rate)
        self.losses.append(loss)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """What is minimised on one batch."""
        return cross_entropy(self.module(images), labels, self.config)

    def end(self) -> list[Row]:
        check_weights(self.optimizer)
        self.module.eval()
        return [{"loss": sum(self.losses) / len(self.losses)}]

    def tensors(self) -> dict[str, Tensor]:
        return {**under("weights", self.module.state_dict()), **under("momenta", momenta(self.optimizer))}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self.module.load_state_dict(below("weights", tensors))
        restore_momenta_(self.optimizer, below("momenta", tensors))
