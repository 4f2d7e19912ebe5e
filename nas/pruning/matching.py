"""Training of a pruned model towards the unpruned one, on inputs without labels."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from estimators.counting import device_of, standing_in
from nas.pruning.aims import Aims
from nas.pruning.served import cut_examples
from nas.pruning.states import OUTPUT, Pairs, States, Watched, mean_square, shared_states, variance
from nas.runtime import checkpoint, fitting, random_state, restore_random_, stream
from nas.stopping import Stopped, held
from nas.tasks import Classes
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
from pruners import PruneResult
from pruners.errors import whole_number
from pruners.progress import Progress, silent
from pruners.untouched import untouched

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
LOGITS = "logits"
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


def match_(
    smaller: PruneResult | nn.Module,
    model: nn.Module,
    batches: Iterable[Any],
    *,
    seconds: float | None = None,
    steps: int | None = None,
    epochs: int | None = None,
    rate: float | Literal["auto"] = "auto",
    layers: float = 1.0,
    temperature: float = 1.0,
    batch_size: int = 16,
    device: torch.device | None = None,
    seed: int = 0,
    path: Path | None = None,
    progress: Progress = silent,
) -> Matching:
    """Train a pruned model to compute what the unpruned one computes, on inputs without labels.

    The loss is the relative squared error of every output (of `logits` the divergence), and of what those modules return that both
    models have under one name and in one shape: layers, blocks and attention, wherever pruning left the residual stream alone.
    Dropout and batch statistics stay off, tables of embeddings stay as they are. AdamW warms up, and its rate falls to 0 along half
    a cosine. Texts that are padded behind their ends (an input with `mask` in its name says so) are cut to their lengths and meet
    others that are about as long. What the unpruned model computes is remembered, up to 1 GiB. A tenth of the samples, at most 128,
    is held out: where the outputs are no nearer there in the end, the weights from before come back.

    Args:
        smaller: trained in place, and left in eval mode.
        model: the unpruned model, left untouched.
        batches: of inputs, or of (inputs, targets), as `pruners.prune` takes them; kept in memory.
        seconds: how long all may take; what a run gets done then depends on the machine.
        steps: in place of `seconds`, how many steps.
        epochs: in place of `seconds`, how many passes over the samples.
        rate: the learning rate at its highest; "auto" finds it by a short range test, see `nas.training.safe_rate`.
        layers: weight of the inner states beside the outputs; 0 leaves them out.
        temperature: what logits are divided by.
        batch_size: samples per step.
        device: where both run; by default where `smaller` is.
        seed: decides what is held out and the order of samples.
        path: of a checkpoint, from which a second call on the same model goes on; what was spent counts. It is written now and then.
        progress: called as ("matching", share done, 1).

    Raises:
        ValueError: not exactly one of `seconds`, `steps` and `epochs`, a number that is not above 0, batches that do not fit, or a
            model without an output of real numbers.

    Reference: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, arXiv:1503.02531; for states of layers,
        Jiao et al., "TinyBERT", Findings of EMNLP 2020, arXiv:1909.10351.
    Differs: states keep their shapes, so that nothing is learned between them; errors are relative to the variance of each state.
    """
    began = time.perf_counter()
    lengths = {"seconds": seconds, "steps": steps, "epochs": epochs}
    _check(lengths, rate, batch_size)
    student = smaller.model if isinstance(smaller, PruneResult) else smaller
    home = device_of(student)
    place = home if device is None else device
    student.to(place)
    teacher = model if device_of(model) == place else standing_in(model, place)
    try:
        with (
            untouched(teacher),
            _learning(student, model) as weights,
            Watched(student) as follower,
            Watched(teacher) as leader,
        ):
            args = (layers, temperature, batch_size, place, seed)
            training = _Training(student, weights, follower, leader, batches, *args)
            return training.run(lengths, rate, began, path, progress)
    finally:
        student.to(home)


@dataclass
class _Reached:
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
    def from_dict(cls, state: Mapping[str, Any], random: dict[str, Tensor]) -> _Reached:
        """What `to_dict` gave, of a checkpoint."""
        known = {each.name: state[each.name] for each in fields(cls) if each.name != "random"}
        return cls(**{**known, "tried": dict(known["tried"])}, random=random)


class _Training:
    """A training towards the unpruned model."""

    def __init__(
        self,
        student: nn.Module,
        weights: list[nn.Parameter],
        follower: Watched,
        leader: Watched,
        batches: Iterable[Any],
        layers: float,
        temperature: float,
        batch_size: int,
        device: torch.device,
        seed: int,
    ) -> None:
        self.student, self.follower, self.device = student, follower, device
        self.layers, self.temperature, self.batch_size, self.seed = layers, temperature, batch_size, seed
        self.examples = cut_examples(list(batches), follower, leader, device)
        order = [int(n) for n in stream(seed, "held out").permutation(len(self.examples))]
        held = min(HELD_OUT, len(order) // 10)
        self.held, self.samples = order[:held] or order, order[held:]
        self.aims = Aims(leader, self.examples, device)
        self.optimizer = torch.optim.AdamW(weights, lr=RATES[0], betas=(0.9, 0.99), weight_decay=0.0)
        self.spread: dict[str, float] = {}
        self.outputs: list[str] = []
        self.states: Pairs = {}
        self._find_terms(leader)

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
        return Matching(at.rate, at.tried, taken, round(took, 3), at.before, after, restored, tuple(self.states))

    def _begun(
        self, lengths: Mapping[str, float | None], rate: float | Literal["auto"], began: float, progress: Progress
    ) -> _Reached:
        """Where a training starts, after the range test if there is one."""
        if rate != "auto":
            return _Reached(rate, {}, self.gap(), random=random_state(self.device))
        test, trials = self._tested(lengths, progress)
        return _Reached(test.rate, test.losses, test.start, trials, random=random_state(self.device))

    def _train(
        self, at: _Reached, lengths: Mapping[str, float | None], began: float, path: Path | None, progress: Progress
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
                    self.step(indices, at.rate * rises * (1 + math.cos(math.pi * done)) / 2)
                    at.steps, at.random = at.steps + 1, random_state(self.device)
                progress("matching", done, 1)
                if path is not None and pace.due():
                    with pace.writing():
                        self._keep(at, path, began)
        except Stopped:
            if path is not None:
                self._keep(at, path, began)
            raise

    def _look_again(self, at: _Reached) -> None:
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

    def _keep(self, at: _Reached, path: Path, began: float) -> None:
        """Write a checkpoint."""
        at.seconds = time.perf_counter() - began
        tensors = {
            **under("weights", self.student.state_dict()),
            **under("momenta", state_tensors(self.optimizer)),
            **under("random", at.random),
        }
        checkpoint.save(path, tensors, at.to_dict())

    def _kept(self, path: Path | None) -> _Reached | None:
        """Go back to a checkpoint; None where there is none."""
        found = None if path is None else checkpoint.load(path, REACHED)
        if found is None or path is None:
            return None
        with fitting(path, f"remove {path.parent} to train this part again"):
            self.student.load_state_dict(below("weights", found.tensors))
            restore_state_(self.optimizer, below("momenta", found.tensors))
        at = _Reached.from_dict(found.state, below("random", found.tensors))
        self._look_again(at)
        restore_random_(at.random)
        return at

    def step(self, indices: Sequence[int], rate: float) -> None:
        """One step of the optimiser on some samples.

        Raises:
            NotFinite: the loss is no number.
        """
        batch = self.examples.batch(indices, self.device)
        set_rate_(self.optimizer, rate)
        self.optimizer.zero_grad(set_to_none=True)
        with torch.enable_grad():
            found, aims = self.follower(batch), self.aims(indices, batch)
            counts = self.examples.counts(batch)
            loss = self._far(self.outputs, found, aims, counts)
            if self.states:
                loss = loss + self.layers * self._far(list(self.states), found, aims, counts)
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
                far = self._far(
                    self.outputs, self.follower(batch), self.aims(indices, batch), self.examples.counts(batch)
                )
                total += far.item() * len(indices)
        return total / len(self.held)

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

    def _find_terms(self, leader: Watched) -> None:
        """Choose outputs and states, and measure how much each varies over some samples."""
        some = self.examples.one_pass([*self.held, *self.samples][: 2 * MEASURED], MEASURED)
        batch = self.examples.batch(max(some, key=len), self.device)
        with torch.no_grad():
            found, aims = self.follower(batch), leader(batch)
        pairs = {name: name for name in aims if name.startswith(OUTPUT)}
        pairs |= shared_states(found, aims) if self.layers else {}
        for name, other in pairs.items():
            counts = self.examples.counts(batch) if other in self.aims.positional else None
            spread = variance(aims[other], counts)
            if spread > 0 and (name.startswith(OUTPUT) or mean_square(found[name] - aims[other], counts) < spread):
                self.spread[name] = float(spread)
        self.outputs = [name for name in self.spread if name.startswith(OUTPUT)]
        if not self.outputs:
            raise ValueError(
                "`model` must return real numbers that differ from sample to sample, got none; give more `batches`, or leave "
                "the matching out"
            )
        self.states = {name: other for name, other in pairs.items() if name in self.spread and name not in self.outputs}
        self.aims.names = [*self.outputs, *self.states.values()]

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
                self.step(indices, trial_rate(rate, at, len(some)))

        test = safe_rate(self.student, self.optimizer, trial, self.gap, RATES, seconds=budget, progress=progress)
        return test, len(some)

    def _seconds_of_a_step(self, some: Sequence[Sequence[int]]) -> float:
        """Measured on two steps that change nothing, of which the second counts: the first meets a cold machine."""
        for indices in some[:2]:
            began = time.perf_counter()
            self.step(indices, 0.0)
        self.optimizer.state.clear()
        return time.perf_counter() - began


@contextmanager
def _learning(student: nn.Module, model: nn.Module) -> Iterator[list[nn.Parameter]]:
    """Put a model in eval mode with gradients for what it trains: all weights but tables of embeddings; in the end without any."""
    tables = {f"{name}.weight" for name, part in model.named_modules() if isinstance(part, nn.Embedding)}
    named = {name: p for name, p in student.named_parameters() if p.is_floating_point()}
    flags = {p: p.requires_grad for p in named.values()}
    free = [p for name, p in named.items() if p.requires_grad and name not in tables]
    chosen = free or [p for name, p in named.items() if name not in tables]
    student.eval()
    for part in student.modules():
        if isinstance(part, nn.RNNBase) and not part.dropout:
            part.train()  # without which cuDNN computes no gradients
    try:
        for p in flags:
            p.requires_grad_(False)
        for p in chosen:
            p.requires_grad_(True)
        yield chosen
    finally:
        student.eval()
        for p, flag in flags.items():
            p.requires_grad_(flag).grad = None


def _check(lengths: Mapping[str, float | None], rate: float | str, batch_size: int) -> None:
    given = {name: value for name, value in lengths.items() if value is not None}
    if len(given) != 1:
        raise ValueError(
            f"exactly one of {', '.join(f'`{name}`' for name in lengths)} must be given, got {given or 'none'}"
        )
    for name, value in given.items():
        if not value > 0 or (name != "seconds" and value != int(value)):
            raise ValueError(f"`{name}` must be above 0{'' if name == 'seconds' else ' and whole'}, got {value}")
    if rate != "auto" and not (isinstance(rate, (int, float)) and rate > 0):
        raise ValueError(f"`rate` must be a learning rate above 0 or 'auto', got {rate!r}")
    whole_number("batch_size", batch_size)
