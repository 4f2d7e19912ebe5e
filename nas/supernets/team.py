"""Supernets in training by one sampler and one update rule, and the learner of one of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from nas.runtime import precision, ranks, stream
from nas.samplers import Draw, Sampler
from nas.supernets.member import Member, without_dropout
from nas.supernets.rules import Rule, Step, without_gradient
from nas.tasks import Batch
from nas.tasks import Step as TaskStep
from nas.training import NotFinite, Row, TrainingConfig, below, check_weights, common_statistics, under
from search_spaces import Architecture, SearchSpace
from search_spaces.layers import sort_supernet_


class Watched(NamedTuple):
    """What the history follows: a batch, and architectures by name."""

    batch: Batch
    archs: Mapping[str, Architecture]


class Waiting(NamedTuple):
    """A step whose losses have not been read from the device."""

    numbers: list[int]
    draws: list[Draw]
    losses: Tensor
    place: str


class Team:
    """Supernets that train by one sampler and one rule.

    The losses of a step are read from the device while the next step is on its way, so that the device never waits for the host.

    Processes that are joined train the same architectures, each on its share of the batch: gradients, losses and the statistics of
    batch normalisations are those of the whole batch, for losses that are means over examples.

    Args:
        space: the search space.
        config: the optimisers' settings.
        sampler: says which architectures a step trains.
        rule: says what they learn from.
        own_step: of the task, in place of the rule.
        seed: initialises the weights.
        device: where they train.
        supernets: how many.
        split: give each of a step's architectures its part of the batch, in one backward pass, instead of all of it.
        accumulate: batches whose mean gradient makes one step of the optimiser.
        ema: decay of the moving average of the weights; 0 keeps none.
        watched: architectures whose losses on the same images go into the history after each epoch, beside a random one's.

    Reference: for `split`, Liao, Karaman, Sze, "Searching for Efficient Multi-Stage Vision Transformers", 2021, arXiv:2109.00642.
    Differs: architectures of one batch run one after the other as slices of the weights, not at once under masks, so they cost what
    they are and not what the largest is.

    Reference: for several processes, Li et al., "PyTorch Distributed: Experiences on Accelerating Data Parallel Training", VLDB 2020,
    arXiv:2006.15704.
    Differs: torch's DistributedDataParallel averages gradients while a backward pass is under way; here they are averaged once before a
    step, because a step has several such passes, each through other weights.
    """

    def __init__(
        self,
        space: SearchSpace,
        config: TrainingConfig,
        sampler: Sampler,
        rule: Rule,
        own_step: TaskStep | None = None,
        *,
        seed: int,
        device: torch.device,
        supernets: int = 1,
        split: bool = False,
        accumulate: int = 1,
        ema: float = 0.0,
        watched: Watched | None = None,
    ) -> None:
        self.space, self.config, self.sampler, self.rule, self.own_step = space, config, sampler, rule, own_step
        self.device = device
        self.seed, self.split, self.accumulate, self.watched = seed, split, accumulate, watched
        self.member = partial(Member, space, config, device, seed, ema=ema)  # of a number
        self.members = [self.member(number) for number in range(supernets)]
        self.waiting: Waiting | None = None

    def begin(self, epoch: int) -> None:
        self.epoch, self.steps = epoch, 0
        for member in self.members:
            member.supernet.train()
        if self.sampler.sorts(epoch):
            for member in self.members:
                sort_supernet_(member.supernet)
                member.optimizer.state.clear()
                member.average_anew()
        supernets = [member.supernet for member in self.members]
        self.sampler.begin(epoch, supernets, self.watched.batch.inputs if self.watched else None)
        if ranks.share().of > 1:  # what a sampler concludes from pixels may differ in the last bit
            self.sampler.restore(ranks.told(self.sampler.tensors()))
        self.rule.begin(epoch, supernets)

    def step(self, numbers: Sequence[int], draws: Sequence[Draw], batch: Batch, rate: float) -> None:
        """Train each architecture on the supernet of its number, by one step of each of these supernets."""
        self.batch, self.rate = batch, rate
        self.steps += 1
        parts = batch.split(len(draws)) if self.split else [batch] * len(draws)
        sizes = [part.size for part in parts]
        if self.split:
            losses = self._together(numbers, draws, parts, sizes)
        else:
            losses = self._in_turn(numbers, self._shared(numbers, draws), sizes)
        for number, draw in zip(numbers, draws, strict=True):
            self.members[number].trained.append(self.space.locals(draw.arch))
        self.settle()
        place = f"step {self.steps} of epoch {self.epoch + 1}"
        self.waiting = Waiting(list(numbers), list(draws), ranks.mean(torch.stack(losses), sizes), place)
        for number in sorted(set(numbers)):
            member = self.members[number]
            member.batches += 1
            if member.batches == self.accumulate:
                member.update(rate, self.epoch / self.config.epochs)

    def settle(self) -> None:
        """Read the losses of the last step, if that was not done.

        Raises:
            NotFinite: one of them is NaN or infinite.
        """
        if self.waiting is None:
            return
        numbers, draws, values, place = self.waiting
        self.waiting = None
        losses = values.tolist()
        for number, draw, loss in zip(numbers, draws, losses, strict=True):
            if not math.isfinite(loss):
                raise self._broken(loss, f"in {place}", draw.arch)
            self.members[number].losses.setdefault(draw.role, []).append(loss)
        self.sampler.tell(draws, losses)

    def end(self) -> list[Row]:
        """Finish the epoch: rows for the history.

        Raises:
            NotFinite: a loss, also of what is watched, is NaN or infinite, or the last step left such weights.
        """
        self.settle()
        rows = []
        for number, member in enumerate(self.members):
            if member.batches:
                member.update(self.rate, self.epoch / self.config.epochs)
            check_weights(member.optimizer)
            followed = self._follow(member, self.watched) if member.steps and self.watched else {}
            rows.append({**member.row(number), **followed})
        return rows

    def use_averages_(self) -> None:
        """Put the moving average of the weights in their place, where one is kept: for use after training."""
        for member in self.members:
            member.use_average_()

    def tensors(self) -> dict[str, Tensor]:
        tensors = {**under("sampler", self.sampler.tensors()), **under("rule", self.rule.tensors())}
        for number, member in enumerate(self.members):
            tensors |= under(f"supernet{number}", member.tensors())
        return tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        for number, member in enumerate(self.members):
            member.restore(below(f"supernet{number}", tensors))
        self.sampler.restore(below("sampler", tensors))
        self.rule.restore(below("rule", tensors), [member.supernet for member in self.members])

    def _shared(self, numbers: Sequence[int], draws: Sequence[Draw]) -> Sequence[Draw]:
        """The draws with weights by which each supernet averages those of its own, where the sampler averages."""
        own = Counter(numbers)
        if len(own) == 1 or not self.sampler.averages:
            return draws
        return [d._replace(weight=d.weight * len(draws) / own[n]) for n, d in zip(numbers, draws, strict=True)]

    def _in_turn(self, numbers: Sequence[int], draws: Sequence[Draw], sizes: Sequence[int]) -> list[Tensor]:
        """Every architecture on the whole batch; gradients add up, and the activations of one are there at a time."""
        step = Step(self.batch)
        losses = []
        whole = ranks.totals(sizes)
        for number, draw, size, total in zip(numbers, draws, sizes, whole, strict=True):
            loss = self._loss(number, draw, step)
            part = size * ranks.share().of / total  # of the mean over processes
            (loss * (draw.weight * part / self.accumulate)).backward()
            losses.append(loss.detach())
        return losses

    def _together(
        self, numbers: Sequence[int], draws: Sequence[Draw], parts: Sequence[Batch], sizes: Sequence[int]
    ) -> list[Tensor]:
        """Every architecture on its part of the batch; each example counts the same among those of its supernet."""
        losses = [self._loss(n, d, Step(part)) for n, d, part in zip(numbers, draws, parts, strict=True)]
        own: Counter[int] = Counter()
        for number, size in zip(numbers, ranks.totals(sizes), strict=True):
            own[number] += size
        count = ranks.share().of
        weights = [d.weight * size * count / own[n] for n, d, size in zip(numbers, draws, sizes, strict=True)]
        total = torch.stack([loss * (w / self.accumulate) for loss, w in zip(losses, weights, strict=True)]).sum()
        total.backward()
        return [loss.detach() for loss in losses]

    def _loss(self, number: int, draw: Draw, step: Step) -> Tensor:
        supernet = self.members[number].supernet
        spared = self.rule.spares_small and draw.role != "max"
        local = self.space.locals(draw.arch)
        with precision(self.device), common_statistics(), without_dropout(supernet, spared):
            if self.own_step is not None:
                return self.own_step(lambda *inputs: supernet(*inputs, local), step.batch)
            outputs = step.batch.call(supernet, local)
            loss = self.rule.loss(draw, outputs, step)
        step.done.append((draw, without_gradient(outputs)))
        return loss

    def _follow(self, member: Member, watched: Watched) -> Row:
        batch, archs = watched
        rng = stream(self.seed, "watched", self.epoch)
        row: Row = {}
        buffers = [buffer.clone() for buffer in member.supernet.buffers()]
        with torch.no_grad(), precision(self.device), without_dropout(member.supernet):
            for name, arch in {**archs, "random": self.space.sample(rng)}.items():
                row[f"loss_{name}"] = loss = self._watched_loss(member, arch, batch).item()
                if not math.isfinite(loss):
                    raise self._broken(loss, f"after epoch {self.epoch + 1}", arch)
            for buffer, kept in zip(member.supernet.buffers(), buffers, strict=True):
                buffer.copy_(kept)
        return row

    def _watched_loss(self, member: Member, arch: Architecture, batch: Batch) -> Tensor:
        local = self.space.locals(arch)
        if self.own_step is not None:
            return self.own_step(lambda *inputs: member.supernet(*inputs, local), batch)
        return self.rule.goal.loss(batch.call(member.supernet, local), batch.target)

    def _broken(self, loss: float, place: str, arch: Architecture) -> NotFinite:
        return NotFinite(
            f"the loss must be finite, got {loss} {place} for architecture {self.space.label(arch)}; lower `learning_rate` (now "
            f"{self.rate:g})"
        )


class OneSupernet:
    """The learner of one supernet: every step trains the architectures that the sampler draws."""

    def __init__(self, team: Team) -> None:
        self.team, self.members = team, team.members

    def begin(self, epoch: int) -> None:
        self.rng = stream(self.team.seed, "paths", epoch)
        self.team.begin(epoch)

    def step(self, batch: Batch, learning_rate: float) -> None:
        draws = self.team.sampler.draw(self.team.epoch, self.rng)
        self.team.step([0] * len(draws), draws, batch, learning_rate)

    def end(self) -> list[Row]:
        return self.team.end()

    def tensors(self) -> dict[str, Tensor]:
        return self.team.tensors()

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self.team.restore(tensors)
