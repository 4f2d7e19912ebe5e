"""The one training loop: a learner takes batches, epoch by epoch, and a checkpoint is written after each."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from nas.runtime import checkpoint, fitting, ranks, stream
from nas.tasks import Batch, Examples
from nas.training.config import NotFinite, TrainingConfig, learning_rate
from pruners.progress import Progress, silent

Row = dict[str, float]


class Learner(Protocol):
    """What the loop trains."""

    def begin(self, epoch: int) -> None:
        """Called before the first batch of an epoch."""
        ...

    def step(self, batch: Batch, learning_rate: float) -> None:
        """Learn from one batch."""
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


def fit(
    learner: Learner,
    examples: Examples,
    config: TrainingConfig,
    *,
    seed: int,
    device: torch.device,
    path: Path | None = None,
    name: str = "training",
    progress: Progress = silent,
    on_epoch: Callable[[list[Row]], None] | None = None,
) -> list[Row]:
    """Train on examples and return the history: the learner's rows with `epoch`, `learning_rate` and `seconds` of the epoch.

    `on_epoch` is given the history so far after each epoch, once that is in the checkpoint.

    With a checkpoint `path`, a second call goes on after the last finished epoch and ends with the same weights as a call that was
    never stopped, because each epoch draws from a random stream of its own.

    Processes that are joined (`nas.runtime.ranks`) start from what the first has; each draws its share of every batch.

    Raises:
        NotFinite: the loss is NaN or infinite, or an epoch's last step left such weights; the checkpoint of the last good epoch stays.
    """
    history: list[Row] = []
    done = 0
    if path is not None and (found := checkpoint.load(path)) is not None:
        with fitting(path, f"remove {path.parent} to train this part again"):
            learner.restore(found.tensors)
        done, history = found.state["epochs"], found.state["history"]
    share = ranks.share()
    if share.of > 1:
        tensors, done, history = ranks.told((learner.tensors(), done, history))
        learner.restore(tensors)
    size = min(config.batch_size, len(examples))
    steps = examples.steps(size)
    progress(name, done, config.epochs)
    for epoch in range(done, config.epochs):
        started = time.perf_counter()
        rate = config.learning_rate
        try:
            learner.begin(epoch)
            rng = stream(seed, "batches", epoch)
            drawn = examples.batches(size, device=device, rng=rng, augment=config.augment, drop_last=True, share=share)
            for step, batch in enumerate(drawn):
                rate = learning_rate(config, epoch + step / steps)
                learner.step(batch, rate)
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


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names moved below a prefix, as in `weights/stem.0.weight`."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `under` put below a prefix."""
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(prefix + "/")}
