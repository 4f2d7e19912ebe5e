"""How far what a smaller model computes is from what the unpruned one does: outputs, and states that both have."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nas.pruning.aims import Aims
from nas.pruning.examples import Samples
from nas.pruning.states import OUTPUT, Pairs, States, Watched, mean_square, shared_states, variance
from nas.tasks import Classes
from pruners.tracing import Batch

LOGITS = "logits"


class Terms:
    """The terms of a training towards the unpruned model.

    Args:
        follower: the smaller model.
        leader: the unpruned one.
        examples: samples of both.
        aims: what the unpruned one computes on them; the training adds the names that it needs.
        batch: some samples, on which it is measured how much each term varies.
        layers: weight of the inner states beside the outputs; 0 leaves them out.
        temperature: what logits are divided by.

    Attributes:
        outputs: those that vary.
        states: name of a state in the smaller model to its name in the unpruned one.

    Raises:
        ValueError: no output is a real number that varies.
    """

    def __init__(
        self,
        follower: Watched,
        leader: Watched,
        examples: Samples,
        aims: Aims,
        batch: Batch,
        layers: float,
        temperature: float,
    ) -> None:
        self.follower, self.examples, self.aims = follower, examples, aims
        self.layers, self.temperature = layers, temperature
        self.spread: dict[str, float] = {}
        with torch.no_grad():
            found, full = follower(batch), leader(batch)
        pairs = {name: name for name in full if name.startswith(OUTPUT)}
        pairs |= shared_states(found, full) if layers else {}
        for name, other in pairs.items():
            counts = examples.counts(batch) if other in aims.positional else None
            spread = variance(full[other], counts)
            if spread > 0 and (name.startswith(OUTPUT) or mean_square(found[name] - full[other], counts) < spread):
                self.spread[name] = float(spread)
        self.outputs = [name for name in self.spread if name.startswith(OUTPUT)]
        if not self.outputs:
            raise ValueError(
                "`model` must return real numbers that differ from sample to sample, got none; give more `batches`, or leave "
                "the matching out"
            )
        self.states: Pairs = {
            name: other for name, other in pairs.items() if name in self.spread and name not in self.outputs
        }

    @property
    def names(self) -> list[str]:
        """What must be known of the unpruned model."""
        return [*self.outputs, *self.states.values()]

    def loss(self, indices: Sequence[int], batch: Batch) -> Tensor:
        """The gap of the outputs and, weighted, of the inner states; a scalar."""
        found, aims = self.follower(batch), self.aims(indices, batch)
        counts = self.examples.counts(batch)
        loss = self._far(self.outputs, found, aims, counts)
        return loss + self.layers * self._far(list(self.states), found, aims, counts) if self.states else loss

    def gap(self, indices: Sequence[int], batch: Batch) -> Tensor:
        """The gap of the outputs; a scalar."""
        return self._far(self.outputs, self.follower(batch), self.aims(indices, batch), self.examples.counts(batch))

    def _far(self, names: Sequence[str], found: States, aims: States, counts: Tensor | None) -> Tensor:
        """The mean gap of some outputs or states; a scalar."""
        pairs = [(name, self.states.get(name, name)) for name in names]
        return torch.stack(
            [
                self._term(name, found[name], aims[other], counts if other in self.aims.positional else None)
                for name, other in pairs
            ]
        ).mean()

    def _term(self, name: str, x: Tensor, aim: Tensor, counts: Tensor | None) -> Tensor:
        if name == OUTPUT + LOGITS:
            rows = slice(None) if counts is None else counts.bool()
            ours, theirs = (y[rows].reshape(-1, y.shape[-1]) for y in (x, aim))
            return self.temperature**2 * Classes().divergence(theirs, ours, self.temperature)
        return mean_square(x.float() - aim, counts) / self.spread[name]
