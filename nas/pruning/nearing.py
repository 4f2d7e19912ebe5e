"""The training of a model, or of several that share weights, towards an unpruned one: steps, range test, checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nas.pruning.aims import Aims
from nas.pruning.served import cut_examples
from nas.pruning.states import Watched
from nas.pruning.terms import Terms
from nas.runtime import checkpoint, fitting, random_state, restore_random_, stream
from nas.stopping import Stopped, held
from nas.training import (
    NotFinite,
    RangeTest,
    below,
    check_weights,
    restore_state_,
    safe_rate,
    set_rate_,
    state_tensors,
    trial_rate,
    under,
)
from pruners.progress import Progress

RATES = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3)
"""Learning rates of AdamW that `auto` tries."""
TRIALS = 0.1
"""Share of the training that the range test takes, at most, but for the fewest steps."""
TRIAL_STEPS = (8, 20)
"""Fewest and most steps at a rate in the range test. In fewer, AdamW moves all weights alike, and every higher rate looks worse."""
HELD_OUT = 128
"""Samples that are held out at most; a tenth of what there is at most."""
MEASURED = 32
"""Samples on which outputs and states are measured once, at most."""
WARM_UP = 0.05
"""Share of the training in which the rate rises."""
REACHED = {"steps": int, "seconds": float, "tried": list}
"""What the checkpoint of a training that has no epochs says, among others."""


@dataclass(frozen=True)
class Matching:
    """What a training towards the unpruned model did.

    Attributes:
        rate: the learning rate at its highest.
        tried: the gap after the steps at each rate that the range test tried; empty for a given rate.
        steps: how many were taken, without those of the range test; 0 where the loss was no longer a number.
        seconds: how long all took.
        before: the gap on held-out samples before: the relative squared error of the outputs (0 the same, 1 no better than their mean),
            of logits the divergence, averaged over outputs.
        after: the same at the end of the training; NaN where the loss was no longer a number.
        restored: whether the model got its weights from before back, as the training had not brought it nearer.
        states: the modules whose outputs were matched as well.
    """

    rate: float
    tried: Mapping[float, float]
    steps: int
    seconds: float
    before: float
    after: float
    restored: bool
    states: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


@dataclass
class Reached:
    """Where a training is.

    Attributes:
        rate: the learning rate at its highest.
        tried: the gaps that a range test found, by rate.
        before: the gap before the first step.
        trials: batches of the range test.
        steps: taken.
        seconds: spent before the process that goes on.
        random: torch's random numbers after the last step.
    """

    rate: float
    tried: Mapping[float, float]
    before: float
    trials: int = 0
    steps: int = 0
    seconds: float = 0.0
    random: dict[str, Tensor] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, without `random`."""
        plain = {name: value for name, value in vars(self).items() if name != "random"}
        return {**plain, "tried": list(self.tried.items())}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any], random: dict[str, Tensor]) -> Reached:
        """What `to_dict` gave, of a checkpoint."""
        known = {each.name: state[each.name] for each in fields(cls) if each.name != "random"}
        return cls(**{**known, "tried": dict(known["tried"])}, random=random)


class Nearing:
    """A training towards the unpruned model.

    Args:
        student: has the weights.
        weights: those that are trained.
        followers: compute with them: the student itself, or smaller models that share them.
        leader: the unpruned model.
        batches: of inputs.
        layers, temperature: see `Terms`.
        batch_size: samples per step.
        device: where all are.
        seed: decides what is held out and the order of samples.
        drawn: the followers that a step trains, by its number; every one if None.

    Raises:
        ValueError: batches that do not fit, or a model without an output of real numbers.
    """

    def __init__(
        self,
        student: nn.Module,
        weights: list[nn.Parameter],
        followers: Sequence[Watched],
        leader: Watched,
        batches: Iterable[Any],
        layers: float,
        temperature: float,
        batch_size: int,
        device: torch.device,
        seed: int,
        drawn: Callable[[int], Sequence[int]] | None = None,
    ) -> None:
        self.student, self.device, self.batch_size, self.seed = student, device, batch_size, seed
        self.examples = cut_examples(list(batches), followers[0], leader, device)
        order = [int(n) for n in stream(seed, "held out").permutation(len(self.examples))]
        held = min(HELD_OUT, len(order) // 10)
        self.held, self.samples = order[:held] or order, order[held:]
        self.aims = Aims(leader, self.examples, device)
        self.optimizer = torch.optim.AdamW(weights, lr=RATES[0], betas=(0.9, 0.99), weight_decay=0.0)
        some = self.examples.one_pass([*self.held, *self.samples][: 2 * MEASURED], MEASURED)
        batch = self.examples.batch(max(some, key=len), device)
        self.terms = [
            Terms(follower, leader, self.examples, self.aims, batch, layers, temperature) for follower in followers
        ]
        self.aims.names = list(dict.fromkeys(name for terms in self.terms for name in terms.names))
        every = range(len(followers))
        self.drawn = drawn or (lambda number: every)
        self.judged = sorted({0, len(followers) // 2, len(followers) - 1})

    def run(
        self,
        lengths: Mapping[str, float | None],
        rate: float | Literal["auto"],
        began: float,
        path: Path | None,
        progress: Progress,
    ) -> Matching:
        """Find the rate, train, and keep what is nearer."""
        start = {name: x.detach().clone() for name, x in self.student.state_dict().items()}
        at = self._kept(path)
        if at is None:
            at = self._begun(lengths, rate, began, progress)
        began -= at.seconds
        try:
            self._train(at, lengths, began, path, progress)
            check_weights(self.optimizer)
            taken, after = at.steps, self.gap()
        except NotFinite:
            taken, after = 0, math.nan
        restored = not after < at.before
        if restored:
            self.student.load_state_dict(start)
        progress("matching", 1, 1)
        took = time.perf_counter() - began
        return Matching(
            at.rate, at.tried, taken, round(took, 3), at.before, after, restored, tuple(self.terms[0].states)
        )

    def _begun(
        self, lengths: Mapping[str, float | None], rate: float | Literal["auto"], began: float, progress: Progress
    ) -> Reached:
        """Where a training starts, after the range test if there is one."""
        if rate != "auto":
            return Reached(rate, {}, self.gap(), random=random_state(self.device))
        test, trials = self._tested(lengths, progress)
        return Reached(test.rate, test.losses, test.start, trials, random=random_state(self.device))

    def _train(
        self, at: Reached, lengths: Mapping[str, float | None], began: float, path: Path | None, progress: Progress
    ) -> None:
        """Take steps until the time, or their number, is up."""
        drawn = islice(self._passes("batches"), at.steps, None)
        wanted, seconds = self._steps(lengths), lengths["seconds"] or math.inf
        pace = checkpoint.Pace()
        try:
            while (done := (time.perf_counter() - began) / seconds if wanted is None else at.steps / wanted) < 1:
                rises = min(1.0, (done + 1e-3) / WARM_UP)
                indices = next(drawn)
                with held():
                    self.step(indices, at.rate * rises * (1 + math.cos(math.pi * done)) / 2, at.steps)
                    at.steps, at.random = at.steps + 1, random_state(self.device)
                progress("matching", done, 1)
                if path is not None and pace.due():
                    with pace.writing():
                        self._keep(at, path, began)
        except Stopped:
            if path is not None:
                self._keep(at, path, began)
            raise

    def _look_again(self, at: Reached) -> None:
        """Remember what the unpruned model computes as the training did until here.

        In the last bits that depends on the batch in which a sample was first met.
        """
        met = self.examples.one_pass(self.held, self.batch_size)
        met += islice(self._passes("range test"), at.trials)
        once = len(self.examples.one_pass(self.samples, self.batch_size))
        met += islice(
            self._passes("batches"), min(at.steps, once)
        )  # later ones are known, or there is no memory for them
        for indices in met:
            self.aims(indices, self.examples.batch(indices, self.device))

    def _passes(self, purpose: str) -> Iterator[list[int]]:
        """Batches of samples to train on, without end."""
        return self.examples.passes(self.samples, self.batch_size, stream(self.seed, purpose))

    def _keep(self, at: Reached, path: Path, began: float) -> None:
        """Write a checkpoint."""
        at.seconds = time.perf_counter() - began
        tensors = {
            **under("weights", self.student.state_dict()),
            **under("momenta", state_tensors(self.optimizer)),
            **under("random", at.random),
        }
        checkpoint.save(path, tensors, at.to_dict())

    def _kept(self, path: Path | None) -> Reached | None:
        """Go back to a checkpoint; None where there is none."""
        found = None if path is None else checkpoint.load(path, REACHED)
        if found is None or path is None:
            return None
        with fitting(path, f"remove {path.parent} to train this part again"):
            self.student.load_state_dict(below("weights", found.tensors))
            restore_state_(self.optimizer, below("momenta", found.tensors))
        at = Reached.from_dict(found.state, below("random", found.tensors))
        self._look_again(at)
        restore_random_(at.random)
        return at

    def step(self, indices: Sequence[int], rate: float, number: int = 0) -> None:
        """One step of the optimiser on some samples.

        Raises:
            NotFinite: the loss is no number.
        """
        batch = self.examples.batch(indices, self.device)
        set_rate_(self.optimizer, rate)
        self.optimizer.zero_grad(set_to_none=True)
        places = self.drawn(number)
        for place in places:
            with torch.enable_grad():
                loss = self.terms[place].loss(indices, batch) / len(places)
            if not loss.isfinite():
                raise NotFinite(
                    f"the gap to the unpruned model must be finite, got {loss.item()}; lower `rate` (now {rate:g})"
                )
            loss.backward()
        self.optimizer.step()

    def gap(self) -> float:
        """How far the outputs are from the unpruned model's on held-out samples."""
        total = 0.0
        with torch.no_grad():
            for indices in self.examples.one_pass(self.held, self.batch_size):
                batch = self.examples.batch(indices, self.device)
                total += sum(self.terms[place].gap(indices, batch).item() for place in self.judged) * len(indices)
        return total / len(self.held) / len(self.judged)

    def _steps(self, lengths: Mapping[str, float | None]) -> int | None:
        """How many steps are asked for; None where it is seconds."""
        if lengths["epochs"] is not None:
            return int(lengths["epochs"]) * len(self.examples.one_pass(self.samples, self.batch_size))
        return None if lengths["steps"] is None else int(lengths["steps"])

    def _tested(self, lengths: Mapping[str, float | None], progress: Progress) -> tuple[RangeTest, int]:
        """A range test over a few batches, and how many they are."""
        least, most = TRIAL_STEPS
        drawn = self._passes("range test")
        wanted = self._steps(lengths)
        some = list(islice(drawn, most if wanted is None else max(least, min(most, int(TRIALS * wanted / len(RATES))))))
        budget = math.inf if lengths["seconds"] is None else TRIALS * lengths["seconds"]
        if wanted is None:
            judging = len(self.held) / self.batch_size / 3  # in steps: forward is a third of one
            affordable = int(budget / len(RATES) / self._seconds_of_a_step(some) - judging)
            some = some[: max(least, min(most, affordable))]

        def trial(rate: float) -> None:
            for at, indices in enumerate(some):
                self.step(indices, trial_rate(rate, at, len(some)), at)

        test = safe_rate(self.student, self.optimizer, trial, self.gap, RATES, seconds=budget, progress=progress)
        return test, len(some)

    def _seconds_of_a_step(self, some: Sequence[Sequence[int]]) -> float:
        """Measured on two steps that change nothing, of which the second counts: the first meets a cold machine."""
        for indices in some[:2]:
            began = time.perf_counter()
            self.step(indices, 0.0)
        self.optimizer.state.clear()
        return time.perf_counter() - began
