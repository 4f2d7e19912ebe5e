"""The one training loop: a learner takes batches, epoch by epoch, and a checkpoint is written after each."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from nas.runtime import checkpoint, drawing, fitting, random_state, ranks, restore_random_, stream
from nas.stopping import Stopped, held
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


@runtime_checkable
class Halting(Learner, Protocol):
    """A learner that can be stopped between two steps of an epoch: `tensors` and `so_far` are all of its state there."""

    def so_far(self) -> dict[str, Any]:
        """What it knows of the epoch, as plain data."""
        ...

    def go_on(self, state: Mapping[str, Any]) -> None:
        """Called after `begin` with what `so_far` gave."""
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
    never stopped, because each epoch draws from random streams of its own. A command that Ctrl-C or SIGTERM ends goes on after
    the last step of a learner that is `Halting`.

    Processes that are joined (`nas.runtime.ranks`) start from what the first has; each draws its share of every batch.

    Raises:
        NotFinite: the loss is NaN or infinite, or an epoch's last step left such weights; the checkpoint of the last good epoch stays.
    """
    history: list[Row] = []
    done, halted, random = 0, dict[str, Any](), dict[str, Tensor]()
    if path is not None and (found := checkpoint.load(path)) is not None:
        with fitting(path, f"remove {path.parent} to train this part again"):
            learner.restore(found.tensors)
        done, history, halted = found.state["epochs"], found.state["history"], found.state.get("halted", {})
        random = below("random", found.tensors)
    share = ranks.share()
    if share.of > 1:
        tensors, done, history = ranks.told((learner.tensors(), done, history))
        learner.restore(tensors)
    others = [share.rank] if share.rank else []  # what is drawn in networks differs between processes
    size = min(config.batch_size, len(examples))
    steps = examples.steps(size)
    progress(name, done, config.epochs)
    for epoch in range(done, config.epochs):
        started = time.perf_counter() - halted.get("seconds", 0.0)
        rate, taken = halted.get("rate", config.learning_rate), 0
        try:
            with drawing(seed, "draws", epoch, *others, device=device):
                learner.begin(epoch)
                rng = stream(seed, "batches", epoch)
                drawn = iter(
                    examples.batches(size, device=device, rng=rng, augment=config.augment, drop_last=True, share=share)
                )
                if halted:
                    assert isinstance(learner, Halting)
                    for _ in islice(drawn, halted["steps"]):
                        pass
                    learner.go_on(halted["learner"])
                    restore_random_(random)
                    taken, halted = halted["steps"], {}
                for step, batch in enumerate(drawn, taken):
                    rate = learning_rate(config, epoch + step / steps)
                    with held():
                        learner.step(batch, rate)
                        taken, random = step + 1, random_state(device)
                    progress(name, epoch + (step + 1) / steps, config.epochs)
            rows = learner.end()
            extra = {"epoch": epoch, "learning_rate": rate, "seconds": round(time.perf_counter() - started, 3)}
            so_far = [*history, *({**extra, **row} for row in rows)]
            if path is not None:
                with held():
                    checkpoint.save(path, learner.tensors(), {"epochs": epoch + 1, "history": so_far})
                    taken = 0
        except NotFinite as error:
            kept = "" if path is None or not epoch else f"; {path} keeps the state after {epoch} epochs to go on from"
            raise NotFinite(f"{error}{kept}") from None
        except Stopped:
            if path is not None and taken and isinstance(learner, Halting):
                took = time.perf_counter() - started
                halted = {"steps": taken, "rate": rate, "seconds": took, "learner": learner.so_far()}
                state = {"epochs": epoch, "history": history, "halted": halted}
                checkpoint.save(path, {**learner.tensors(), **under("random", random)}, state)
            raise
        history = so_far
        if on_epoch:
            on_epoch(history)
    return history


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names moved below a prefix, as in `weights/stem.0.weight`."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `under` put below a prefix."""
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(prefix + "/")}
