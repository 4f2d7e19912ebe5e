"""A space that narrows as its supernet trains: values that do badly and make no difference are dropped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from nas.runtime import precision, stream
from nas.samplers.basic import Draw, Sampler, restricted, values_of
from search_spaces import Architecture, Constraint, SearchSpace, Subset, Supernet
from search_spaces.core import Choice, Condition, Local, OnPath, Value, advance, conditions, described
from search_spaces.families import origin
from search_spaces.pooling import tokens

SITUATIONS = 4
FEWEST = 2


class Narrowing(Sampler):
    """One architecture per step, each choice uniform among the values that are left; three times the lowest scored are dropped.

    After a quarter, a half and three quarters of the epochs each choice with more than 2 values left loses the one of the lowest
    score: rank of its promise + `weight` x rank of its dissimilarity, among the choice's values. A value's promise is the
    mean training loss of architectures with it since the last time, lower is better; for its dissimilarity see `dissimilarity`.
    `Subset` choices keep their values, and so does an ensemble's split. An ensemble's paths have what is left in common.

    Args:
        space: the search space.
        epochs: of the whole training.
        seed: decides in which situations values are compared.
        weight: of dissimilarity.

    Raises:
        ValueError: no choice has more than 2 values, or there are fewer than 4 epochs.

    Reference: Chen et al., "One-Shot Neural Ensemble Architecture Search by Diversity-Guided Search Space Shrinking", CVPR 2021,
    arXiv:2104.00597.
    Differs: both scores and the schedule are ours; the paper scores by potentiality and diversity.
    """

    def __init__(self, space: SearchSpace, epochs: int, seed: int, weight: float = 1.0) -> None:
        self.space, self.seed, self.weight = space, seed, weight
        self.groups: dict[str, list[Choice]] = {}
        for choice in space.choices[1 if space.even_first else 0 :]:
            if not isinstance(choice, Subset) and choice.size > FEWEST:
                self.groups.setdefault(origin(space, choice.name), []).append(choice)
        if not self.groups or epochs < 4:
            raise ValueError(
                f"sampler narrowing needs choices of more than {FEWEST} values and at least 4 epochs, got {epochs} epochs and "
                f"{len(self.groups)} such choices of {space.name!r}; use uniform"
            )
        self.drops = [epochs * quarter // 4 for quarter in (1, 2, 3)]
        self.left = {name: np.ones(group[0].size, dtype=bool) for name, group in self.groups.items()}
        self._forget()

    def draw(self, epoch: int, rng: np.random.Generator) -> list[Draw]:
        return [Draw(restricted(self.space, rng, self.open))]

    def open(self, choice: Choice) -> list[Value]:
        """The values of a choice that are left."""
        left = self.left.get(origin(self.space, choice.name))
        every = values_of(choice)
        return every if left is None else [value for value, kept in zip(every, left, strict=True) if kept]

    def tell(self, draws: Sequence[Draw], losses: Sequence[float]) -> None:
        for draw, loss in zip(draws, losses, strict=True):
            for name, group in self.groups.items():
                for choice in group:
                    if choice.name in draw.arch:
                        at = values_of(choice).index(draw.arch[choice.name])
                        self.losses[name][at] += loss
                        self.counts[name][at] += 1

    def begin(self, epoch: int, supernets: Sequence[Supernet], images: Tensor | None) -> None:
        if epoch not in self.drops:
            return
        if images is None:
            raise ValueError("sampler narrowing compares values on images; give the team some to watch")
        from scipy.stats import rankdata  # half a second to import

        rng = stream(self.seed, "narrowing", epoch)
        for name, group in self.groups.items():
            left = np.flatnonzero(self.left[name])
            if len(left) > FEWEST and self.counts[name][left].all():
                apart = np.mean([self._apart(supernet, group, images, rng) for supernet in supernets], axis=0)
                promise = rankdata(-self.losses[name][left] / self.counts[name][left])
                self.left[name][left[np.argmin(promise + self.weight * rankdata(apart))]] = False
        self._forget()

    def narrowed(self, space: SearchSpace) -> SearchSpace:
        opened = {choice.name: tuple(self.open(choice)) for choice in space.choices}

        def possible(condition: Condition) -> Condition:
            return {parent: tuple(v for v in values if v in opened[parent]) for parent, values in condition.items()}

        def fewer(choice: Choice) -> Choice:
            changes: dict[str, Any] = {"when": tuple(map(possible, conditions(choice)))}
            if not isinstance(choice, Subset):
                changes["values"] = opened[choice.name]
            return replace(cast(Any, choice), **changes)

        def holds(values: Mapping[str, Value]) -> bool:
            return all(value in opened[name] for name, value in space.architecture(values).items())

        rule = Constraint("no value that was dropped in training, also in canonical form", holds)
        return replace(
            space,
            choices=tuple(map(fewer, space.choices)),
            constraints=(*space.constraints, *([rule] if space.canonical else [])),
        )

    def tensors(self) -> dict[str, Tensor]:
        kept = {"left": self.left, "losses": self.losses, "counts": self.counts}
        return {part: torch.from_numpy(np.concatenate(list(arrays.values()))) for part, arrays in kept.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        edges = np.cumsum([group[0].size for group in self.groups.values()])[:-1]
        parts = {name: np.split(tensor.numpy().copy(), edges) for name, tensor in tensors.items()}
        self.left, self.losses, self.counts = (
            dict(zip(self.groups, parts[part], strict=True)) for part in ("left", "losses", "counts")
        )

    def _forget(self) -> None:
        self.losses = {name: np.zeros(group[0].size) for name, group in self.groups.items()}
        self.counts = {name: np.zeros(group[0].size, dtype=np.int64) for name, group in self.groups.items()}

    def _apart(
        self, supernet: Supernet, group: Sequence[Choice], images: Tensor, rng: np.random.Generator
    ) -> np.ndarray:
        """The dissimilarity of each value that is left, averaged over a few situations; zeros where none is found."""
        found = []
        for _ in range(10 * SITUATIONS):
            choice = group[int(rng.integers(len(group)))]
            wanted = {c.name: (values := self.open(c))[rng.integers(len(values))] for c in self.space.choices}
            variants = [described(self.space, _named({**wanted, choice.name: value})) for value in self.open(choice)]
            if all(choice.name in values and self.space.keeps(values) for values in variants):
                archs = [Architecture(self.space.name, tuple(values.items())) for values in variants]
                found.append(dissimilarity(supernet, [self.space.locals(arch) for arch in archs], images))
            if len(found) == SITUATIONS:
                break
        return np.mean(found, axis=0) if found else np.zeros(len(self.open(group[0])))


def dissimilarity(supernet: Supernet, locals: Sequence[Sequence[Local]], images: Tensor) -> np.ndarray:
    """How far what each of N subnets computes is from what the others do: mean KL divergence to them.

    Compared are the outputs of the last block in which the subnets differ: averaged over the image, as a softmax over
    their common channels.

    Args:
        supernet: in training, so that batches have their own statistics; its buffers are left as they were.
        locals: the local choices of each subnet.
        images: (batch, channels, height, width).

    Returns:
        Shape (N,), 0 for subnets that are all the same.
    """
    differing = [at for at, of_all in enumerate(zip(*locals, strict=True)) if len(set(of_all)) > 1]
    if not differing:
        return np.zeros(len(locals))
    buffers = [buffer.clone() for buffer in supernet.buffers()]
    with torch.no_grad(), precision(images.device):
        features = [_features(supernet, path[: differing[-1] + 1], images) for path in locals]
        for buffer, kept in zip(supernet.buffers(), buffers, strict=True):
            buffer.copy_(kept)
    common = min(part.shape[1] for part in features)
    logs = torch.stack([part[:, :common].log_softmax(dim=1) for part in features])  # (N, batch, channels)
    apart = (logs.exp()[:, None] * (logs[:, None] - logs[None])).sum(3).mean(2)
    return (apart.sum(1) / max(1, len(locals) - 1)).double().cpu().numpy()


def _named(wanted: Mapping[str, Value]) -> Callable[[Choice], Value]:
    return lambda choice: wanted[choice.name]


def _features(supernet: Supernet, locals: Sequence[Local], images: Tensor) -> Tensor:
    """What leaves the last of some blocks, averaged over the image or its tokens: (batch, channels)."""
    flow: Any = images
    for block, local in zip(supernet.blocks.values(), locals, strict=False):
        flow = advance(block, flow, local)
    if isinstance(flow, tuple):  # of the paths so far
        flow = flow[-1]
    elif isinstance(locals[-1], OnPath):  # logits of every head
        flow = flow[:, -1]
    return tokens(flow.float()).mean(1) if flow.ndim > 2 else flow.float()
