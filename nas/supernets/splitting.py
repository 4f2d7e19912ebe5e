"""A supernet that splits while it trains: all architectures start with shared weights, and end in several supernets or in one each.

What architectures have in common is learned once, by all of them; where they pull shared weights in different directions, they part.

Reference: Zhao et al., "Few-Shot Neural Architecture Search", ICML 2021, arXiv:2006.06863 (sub-supernets that start from the weights
of one); Hu et al., "Generalizing Few-Shot NAS with Gradient Matching", ICLR 2022, arXiv:2203.15207 (parting by gradients).
Differs: whole architectures are grouped, by the average cosine of their gradients, and not the values of one choice; the largest group
is halved until there are enough; the learning rate goes on falling through the splits instead of starting again; every round
trains each architecture once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nas.runtime import precision, ranks, stream
from nas.samplers import Draw
from nas.supernets.team import Team
from nas.tasks import Batch, Goal, Task
from nas.training import Row
from search_spaces import Architecture, SearchSpace, Supernet
from search_spaces.core import Local

GRADIENT_BATCHES = 4
MOST_ARCHITECTURES = 1_000
MOST_SUPERNETS = 64


class Splitting:
    """The learner of supernets that grow in number; one step trains the one supernet that an architecture belongs to.

    Attributes:
        archs: every architecture of the space.
        home: the supernet of each architecture, shape (architectures,).
        members: the supernets of now.

    Args:
        team: of one supernet; its sampler is not asked. The space is enumerated, at most 1,000 architectures.
        task: gradients are compared on its training part.
        splits: epoch -> number of supernets from then on; rising, at most as many as architectures.
        device: where they train.

    Raises:
        ValueError: too many architectures, or splits that do not rise.
    """

    def __init__(self, team: Team, task: Task, splits: Mapping[int, int], device: torch.device) -> None:
        self.archs = listed(team.space)
        counts = [1, *(splits[epoch] for epoch in sorted(splits)), len(self.archs) + 1]
        rising = all(earlier < later for earlier, later in zip(counts, counts[1:], strict=False))
        if not rising or min(splits, default=1) < 1:
            raise ValueError(
                f"`splits` must name epochs of 1 or more with rising numbers of supernets, 2 to {len(self.archs)}; got {dict(splits)}"
            )
        self.team, self.members = team, team.members
        self.task, self.splits, self.device = task, dict(splits), device
        self.rows = {arch.key: row for row, arch in enumerate(self.archs)}
        self.home = np.zeros(len(self.archs), dtype=int)

    def begin(self, epoch: int) -> None:
        if epoch in self.splits and len(self.members) < self.splits[epoch]:
            self._split(self.splits[epoch], stream(self.team.seed, "gradients", epoch))
        self.order = rounds(len(self.archs), stream(self.team.seed, "paths", epoch))
        self.team.begin(epoch)

    def step(self, batch: Batch, learning_rate: float) -> None:
        row = next(self.order)
        self.team.step([int(self.home[row])], [Draw(self.archs[row])], batch, learning_rate)

    def end(self) -> list[Row]:
        return self.team.end()

    def assign(self, archs: Sequence[Architecture]) -> list[int]:
        """The supernet of each architecture."""
        return [int(self.home[self.rows[arch.key]]) for arch in archs]

    def tensors(self) -> dict[str, Tensor]:
        return {"home": torch.from_numpy(self.home), **self.team.tensors()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self.home = tensors["home"].numpy().copy()
        while len(self.members) <= self.home.max():
            self.members.append(self.team.member(len(self.members)))
        self.team.restore(tensors)

    def _split(self, count: int, rng: np.random.Generator) -> None:
        """Part architectures until there are `count` supernets, each with the weights and momenta of the one it comes from."""
        part = self.task.train
        sample = part.batches(min(self.team.config.batch_size, len(part)), rng=rng, device=self.device)
        seen = list(islice(sample, GRADIENT_BATCHES))
        alike = np.zeros((len(self.archs), len(self.archs)))
        for number, member in enumerate(self.members):
            rows = np.flatnonzero(self.home == number)
            if len(rows) > 1:
                paths = [self.team.space.locals(self.archs[row]) for row in rows]
                alike[np.ix_(rows, rows)] = similarity(member.supernet, self.task.goal, paths, seen)
        alike = ranks.told(alike)  # computed by each process, the last bits of which may differ
        while len(self.members) < count:
            largest = int(np.bincount(self.home).argmax())
            rows = np.flatnonzero(self.home == largest)
            self.home[rows[halves(alike[np.ix_(rows, rows)])]] = len(self.members)
            child = self.team.member(len(self.members))
            child.restore({name: tensor.clone() for name, tensor in self.members[largest].tensors().items()})
            self.members.append(child)


def usual_splits(architectures: int, epochs: int) -> dict[int, int]:
    """When a supernet splits, and into how many: epoch to number of supernets.

    At half of the epochs into about the square root of the number of architectures; at three quarters into one each, at
    most 64.
    """
    last = min(architectures, MOST_SUPERNETS)
    first = min(round(math.sqrt(architectures)), last - 1)
    return {epoch: count for epoch, count in ((epochs // 2, first), (epochs * 3 // 4, last)) if epoch > 0 and count > 1}


def listed(space: SearchSpace) -> list[Architecture]:
    """Every architecture; ValueError where there are too many to list."""
    if space.raw_size > MOST_ARCHITECTURES:
        raise ValueError(
            f"sampler split needs a list of all architectures, at most {MOST_ARCHITECTURES}, but {space.name!r} has "
            f"{space.raw_size}; use another sampler, or a smaller space"
        )
    return list(space.enumerate())


def rounds(count: int, rng: np.random.Generator) -> Iterator[int]:
    """Endless numbers below `count`, every one once before any comes again."""
    while True:
        yield from rng.permutation(count).tolist()


def similarity(
    supernet: Supernet, goal: Goal, locals: Sequence[Sequence[Local]], sample: Sequence[Batch]
) -> np.ndarray:
    """Cosine of the gradients that each two of N architectures give the shared weights, averaged over batches, shape (N, N)."""
    weights = [parameter for parameter in supernet.parameters() if parameter.requires_grad]
    supernet.train()
    total = np.zeros((len(locals), len(locals)))
    for batch in sample:
        gradients = []
        for path in locals:
            with precision(weights[0].device):
                loss = goal.loss(batch.call(supernet, path), batch.target)
            parts = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
            gradients.append(torch.cat([part.flatten().float() for part in parts]).cpu())
        unit = F.normalize(torch.stack(gradients), dim=1)
        total += (unit @ unit.T).double().numpy()
    return total / len(sample)


def halves(alike: np.ndarray) -> np.ndarray:
    """A split of N items into two halves of items that are most alike: shape (N,) of bool, true for those that leave.

    Average linkage of the distance 1 - cosine, cut into two clusters.
    """
    distance = np.clip(1 - (alike + alike.T) / 2, 0, None)
    np.fill_diagonal(distance, 0)
    from scipy.cluster.hierarchy import fcluster, linkage  # with scipy.spatial, a tenth of what `import nas` takes
    from scipy.spatial.distance import squareform

    clusters = fcluster(linkage(squareform(distance, checks=False), "average"), 2, "maxclust")
    if clusters.max() == 1:  # no two are closer than others
        clusters[len(clusters) // 2 :] = 2
    return clusters == 2
