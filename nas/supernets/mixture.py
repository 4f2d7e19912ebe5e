"""A balanced mixture of supernets: architectures that disturb each other's weights drift into different supernets.

Reference: Roshtkhari, Toews, Pedersoli, "Balanced Mixture of SuperNets for Learning the CNN Pooling Architecture", AutoML-Conf 2023,
arXiv:2306.11982.
Differs: spaces too large to list keep averages of the values of choices, and balance a sample; a step may draw several architectures,
each of which goes to a supernet of its own; an accuracy reaches the averages one step late, so that the device never waits for the
host; balancing stops after 1,000 rounds even if the threshold was not reached; the learning rate follows its cosine step by step
rather than epoch by epoch; the accuracy that feeds the moving averages is taken under batch statistics also where the
normalisation has running ones, because those belong to no single subnet during training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from nas.runtime import precision, ranks, stream
from nas.supernets.member import without_dropout
from nas.supernets.team import Team
from nas.tasks import Batch, Task
from nas.training import Row, common_statistics
from search_spaces import Architecture
from search_spaces.core import Part, setting, together

MOST_ARCHITECTURES = 100_000
MOST_ROUNDS = 1_000
BALANCED = 2_000


class MixtureConfig(Part):
    """Settings of the mixture: final temperature of the assignment, decay of the moving averages, and the balance to reach."""

    temperature: float = setting(100.0, ge=1, help="Final temperature of a mixture.")
    decay: float = Field(default=0.9, ge=0, lt=1)
    kl_threshold: float = Field(default=1e-4, gt=0)


def softmax(scores: np.ndarray) -> np.ndarray:
    """Softmax along the last axis."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def kl_from_uniform(marginal: np.ndarray) -> float:
    """KL(marginal || uniform) in nats, for probabilities of shape (supernets,)."""
    positive = marginal[marginal > 0]
    return float((positive * np.log(positive * len(marginal))).sum())


def balance(assignment: np.ndarray, threshold: float) -> tuple[np.ndarray, list[np.ndarray]]:
    """Scale p(supernet | architecture) until the supernets are used about equally.

    Args:
        assignment: rows that sum to 1, shape (architectures, supernets).
        threshold: largest KL divergence of the mean row from uniform.

    Returns:
        The balanced rows, and the marginals that they were divided by, in order.
    """
    divisors: list[np.ndarray] = []
    marginal = assignment.mean(axis=0)
    while abs(kl_from_uniform(marginal)) > threshold and len(divisors) < MOST_ROUNDS:
        divisors.append(marginal)
        assignment = replay(assignment, [marginal])
        marginal = assignment.mean(axis=0)
    return assignment, divisors


def replay(assignment: np.ndarray, divisors: list[np.ndarray]) -> np.ndarray:
    """Repeat the divisions of `balance` on rows of shape (..., supernets), normalising after each."""
    for divisor in divisors:
        assignment = assignment / divisor
        assignment = assignment / assignment.sum(axis=-1, keepdims=True)
    return assignment


class Mixture:
    """The learner of M supernets; each architecture that a step draws is trained on one of them.

    `averages` holds moving averages of validation accuracy, or of other tasks of e to minus the loss of a batch, shape (rows,
    supernets). A space of at most 100,000 architectures has a row
    for each of them; a larger one has a row for each value of each of its columns, and an architecture's average is the mean of
    its rows. Averages start at 1, above any accuracy, so that pairs not yet tried look best and get tried.

    Args:
        team: the supernets, their sampler and their rule.
        task: its validation part, without augmentation, feeds the averages.
        mixture: the mixture's own settings.
        device: where they train.

    Attributes:
        archs: the architectures whose use of the supernets is balanced: all of them, or 2,000 drawn at random.
    """

    def __init__(self, team: Team, task: Task, mixture: MixtureConfig, device: torch.device) -> None:
        self.team, self.members = team, team.members
        self.task, self.mixture, self.device = task, mixture, device
        self.worth = worth(task)
        space = team.space
        self.listed: dict[Architecture, int] = {}
        if space.raw_size <= MOST_ARCHITECTURES:
            self.listed = {arch: row for row, arch in enumerate(space.enumerate())}
            self.archs = list(self.listed)
        else:
            rng = stream(team.seed, "balance")
            self.archs = [space.sample(rng) for _ in range(BALANCED)]
        sizes = [len(column.values) for column in space.columns]
        self.offsets = np.cumsum([0, *sizes])
        self.averages = np.ones((len(self.listed) or sum(sizes), len(self.members)))
        self.rows_of_archs = [self.rows(arch) for arch in self.archs]
        self.untold: list[list[tuple[np.ndarray, int, Tensor]]] = []

    def rows(self, arch: Architecture) -> np.ndarray:
        """The rows of `averages` that an architecture has a part in."""
        if self.listed:
            return np.array([self.listed[arch]])
        codes = self.team.space.encode([arch])[0]
        return (codes + self.offsets[:-1])[codes >= 0]

    def assignment(self, epoch: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """Balanced p(supernet | architecture) of `archs` for an epoch, and the divisions that led to it."""
        scores = np.stack([self.averages[rows].mean(axis=0) for rows in self.rows_of_archs])
        return balance(softmax(self._temperature(epoch) * scores), self.mixture.kl_threshold)

    def assign(self, archs: Sequence[Architecture]) -> list[int]:
        """The supernet that each architecture has come to belong to, once training is over."""
        temperature = self._temperature(self.team.config.epochs)
        _, divisors = self.assignment(self.team.config.epochs)
        return [int(self._chances(self.rows(arch), temperature, divisors).argmax()) for arch in archs]

    def begin(self, epoch: int) -> None:
        self.temperature = self._temperature(epoch)
        _, self.divisors = self.assignment(epoch)
        self.rng = stream(self.team.seed, "mixture", epoch)
        self.validation = self._validation(stream(self.team.seed, "validation", epoch))
        self.team.begin(epoch)

    def step(self, batch: Batch, learning_rate: float) -> None:
        draws = self.team.sampler.draw(self.team.epoch, self.rng)
        self._settle(keep=1)
        numbers = [self._choose(self.rows(draw.arch)) for draw in draws]
        self.team.step(numbers, draws, batch, learning_rate)
        self.untold.append([])
        for number, draw in zip(numbers, draws, strict=True):
            seen = next(self.validation)
            supernet = self.members[number].supernet
            with torch.no_grad(), precision(self.device), common_statistics(), without_dropout(supernet):
                outputs = seen.call(supernet, self.team.space.locals(draw.arch))
                if self.team.space.net.heads > 1:
                    outputs = together(outputs.unbind(1), training=False)
                found = self.worth(outputs, seen)
            self.untold[-1].append((self.rows(draw.arch), number, found))

    def end(self) -> list[Row]:
        self._settle(keep=0)
        return self.team.end()

    def tensors(self) -> dict[str, Tensor]:
        return {"averages": torch.from_numpy(self.averages), **self.team.tensors()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self.averages = tensors["averages"].numpy().copy()
        self.team.restore(tensors)

    def _choose(self, rows: np.ndarray) -> int:
        chances = self._chances(rows, self.temperature, self.divisors)
        return int(self.rng.choice(len(self.members), p=chances))

    def _chances(self, rows: np.ndarray, temperature: float, divisors: list[np.ndarray]) -> np.ndarray:
        return replay(softmax(temperature * self.averages[rows].mean(axis=0)), divisors)

    def _settle(self, keep: int) -> None:
        """Let the accuracies of all but the last `keep` steps into the averages."""
        decay = self.mixture.decay
        while len(self.untold) > keep:
            for rows, number, value in self.untold.pop(0):
                accuracy = value.item()
                self.averages[rows, number] = decay * self.averages[rows, number] + (1 - decay) * accuracy
                if self.task.main.name == "accuracy":
                    self.members[number].accuracies.append(accuracy)

    def _temperature(self, epoch: int) -> float:
        return 1 + (self.mixture.temperature - 1) * epoch / self.team.config.epochs

    def _validation(self, rng: np.random.Generator) -> Iterator[Batch]:
        part = self.task.validation
        size = min(self.team.config.batch_size, len(part))
        while True:
            yield from part.batches(size, rng=rng, drop_last=True, device=self.device, share=ranks.share())


def worth(task: Task) -> Callable[[Any, Batch], Tensor]:
    """What the averages follow on a batch, (outputs, batch) -> about 0 to 1: accuracy, or of other tasks e to minus the loss.

    It is that of the batches of all processes that train together.
    """
    if task.main.name == "accuracy":
        return lambda outputs, seen: ranks.mean((outputs.argmax(1) == seen.target).float().mean(), [seen.size])
    return lambda outputs, seen: (-ranks.mean(task.goal.loss(outputs, seen.target), [seen.size]).float()).exp()
