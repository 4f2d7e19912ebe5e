"""A balanced mixture of supernets: architectures that disturb each other's weights drift into different supernets.

Reference: Roshtkhari, Toews, Pedersoli, "Balanced Mixture of SuperNets for Learning the CNN Pooling Architecture", AutoML-Conf 2023,
arXiv:2306.11982.
Differs: balancing stops after 1,000 rounds even if the threshold was not reached; the learning rate follows its cosine step by step
rather than epoch by epoch; the accuracy that feeds the moving averages is taken under batch statistics also where the
normalisation has running ones, because those belong to no single subnet during training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from nas.batches import batches
from nas.data import ImageData
from nas.device import memory_format, precision
from nas.seeding import stream
from nas.supernet import Member
from nas.training import Batch, Row, TrainingConfig, below, under
from search_spaces import SearchSpace

MOST_ARCHITECTURES = 100_000
MOST_ROUNDS = 1_000


class MixtureConfig(BaseModel):
    """Settings of the mixture: final temperature of the assignment, decay of the moving averages, and the balance to reach."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    temperature: float = Field(default=100.0, ge=1)
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
    """The learner of M supernets; one step trains one of them on one architecture.

    `averages` holds the moving averages of validation accuracy, shape (architectures, supernets). They start at 1, above any
    accuracy, so that pairs not yet tried look best and get tried.

    Args:
        space: its architectures are enumerated, at most 100,000.
        data: its validation part, without augmentation, feeds the averages.
        supernets: how many, M.
        config: the optimisers' settings; `epochs` also sets the pace of the temperature.
        mixture: the mixture's own settings.
        seed: initialises the supernets and draws architectures, supernets and validation batches.
        device: where they train.
    """

    def __init__(
        self,
        space: SearchSpace,
        data: ImageData,
        supernets: int,
        config: TrainingConfig,
        mixture: MixtureConfig,
        *,
        seed: int,
        device: torch.device,
    ) -> None:
        if space.raw_size > MOST_ARCHITECTURES:
            raise ValueError(
                f"a mixture keeps an average for every architecture, at most {MOST_ARCHITECTURES}, but {space.name!r} has "
                f"{space.raw_size}; use strategy one-shot, or a smaller space"
            )
        if supernets < 1:
            raise ValueError(f"`supernets` must be at least 1, got {supernets}")
        self.archs = list(space.enumerate())
        self.locals = [space.locals(arch) for arch in self.archs]
        self.members = [Member(space, config, device, seed, number) for number in range(supernets)]
        self.averages = np.ones((len(self.archs), supernets))
        self.data, self.config, self.mixture, self.seed, self.device = data, config, mixture, seed, device

    def assignment(self, epoch: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """Balanced p(supernet | architecture) for an epoch, and the divisions that led to it."""
        return balance(softmax(self._temperature(epoch) * self.averages), self.mixture.kl_threshold)

    def begin(self, epoch: int) -> None:
        self.temperature = self._temperature(epoch)
        _, self.divisors = self.assignment(epoch)
        self.rng = stream(self.seed, "mixture", epoch)
        self.validation = self._validation(stream(self.seed, "validation", epoch))

    def step(self, images: Tensor, labels: Tensor, learning_rate: float) -> None:
        row = int(self.rng.integers(len(self.archs)))
        chances = replay(softmax(self.temperature * self.averages[row]), self.divisors)
        number = int(self.rng.choice(len(self.members), p=chances))
        member, locals = self.members[number], self.locals[row]
        member.step(images, labels, locals, learning_rate)

        images, labels = next(self.validation)
        with torch.no_grad(), precision(self.device):
            accuracy = (member.supernet(images, locals).argmax(1) == labels).float().mean().item()
        decay = self.mixture.decay
        self.averages[row, number] = decay * self.averages[row, number] + (1 - decay) * accuracy
        member.accuracies.append(accuracy)

    def end(self) -> list[Row]:
        return [member.row(number) for number, member in enumerate(self.members)]

    def tensors(self) -> dict[str, Tensor]:
        tensors = {"averages": torch.from_numpy(self.averages)}
        for number, member in enumerate(self.members):
            tensors |= under(f"supernet{number}", member.tensors())
        return tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self.averages = tensors["averages"].numpy().copy()
        for number, member in enumerate(self.members):
            member.restore(below(f"supernet{number}", tensors))

    def _temperature(self, epoch: int) -> float:
        return 1 + (self.mixture.temperature - 1) * epoch / self.config.epochs

    def _validation(self, rng: np.random.Generator) -> Iterator[Batch]:
        split = self.data.validation
        size = min(self.config.batch_size, len(split))
        channels_last = memory_format(self.device) == torch.channels_last
        while True:
            yield from batches(
                split, self.data, size, rng=rng, drop_last=True, device=self.device, channels_last=channels_last
            )
