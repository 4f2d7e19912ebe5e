"""Depths and widths of a convolutional network by maximum entropy under budgets: DeepMAD's mathematical program, solved exactly.

A stage is d layers of k x k convolutions with C channels, the first of which halves the resolution. The entropy of a layer with c input
channels is log(c k^2) / 2. The score of a stage is log(C r^2) times the entropy of all layers up to its end.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

WEIGHTS = (1.0, 1.0, 1.0, 1.0, 8.0)
DEPTH_PENALTY = 10.0


@dataclass(frozen=True)
class Problem:
    """What may be built and what it may cost.

    Attributes:
        widths: channels to choose from, for each stage.
        depths: layers to choose from, for each stage.
        side: of the image; each stage halves it, rounded up.
        max_macs, max_params: of the convolutions.
        effectiveness: the most that layers / (geometric mean of c k^2) may be, over the layers up to the end of any stage: deeper is
            allowed only if wider. 0.3 for networks of ResNet-18's size, 0.5 for 29 million parameters.
        channels: of the image.
        kernel: side of all kernels.
        weights: of the stages' scores.
    """

    widths: tuple[tuple[int, ...], ...]
    depths: tuple[tuple[int, ...], ...]
    side: int
    max_macs: float
    max_params: float
    effectiveness: float = 0.3
    channels: int = 3
    kernel: int = 3
    weights: tuple[float, ...] = WEIGHTS

    def __post_init__(self) -> None:
        if not len(self.widths) == len(self.depths) == len(self.weights) > 0:
            raise ValueError(
                "a problem must have widths, depths and a weight for each stage, "
                f"got {len(self.widths)}, {len(self.depths)} and {len(self.weights)}"
            )
        for name, stages in (("widths", self.widths), ("depths", self.depths)):
            if any(not choices or min(choices) < 1 for choices in stages):
                raise ValueError(f"`{name}` must offer positive numbers for each stage, got {stages}")
        if min(self.weights) < 0:
            raise ValueError(f"`weights` must not be negative, got {self.weights}")

    @property
    def sides(self) -> list[int]:
        """Of the map of each stage."""
        found, side = [], self.side
        for _ in self.widths:
            side = -(-side // 2)
            found.append(side)
        return found


@dataclass(frozen=True)
class Solution:
    """Channels and layers of each stage, the score, and what the constraints limit."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    score: float
    macs: int
    params: int
    effectiveness: float


@dataclass(frozen=True)
class _Partial:
    """Stages chosen so far; `log_widths` is the sum of log(c k^2) over layers, twice the entropy."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    score: float
    macs: int
    params: int
    log_widths: float
    effectiveness: float


def solve(problem: Problem) -> Solution:
    """The network with the highest score.

    Stage by stage, of all beginnings with the same last width, number of layers, and sum and sum of squares of the depths that the
    penalty sees, those are dropped that another one beats in score, entropy, macs and params at once: whatever follows, that one
    stays ahead. So the optimum is exact.

    Raises:
        ValueError: nothing meets the limits.

    Reference: Shen et al., "DeepMAD: Mathematical Architecture Design for Deep Convolutional Neural Network", CVPR 2023,
    arXiv:2303.02165.
    Differs: the release searches by evolution and over more kinds of blocks; here stages of plain convolutions are solved exactly. The
    penalty is 10 exp(standard deviation of the depths of all stages but the first), as in the release.
    """
    beginnings = [_Partial((), (), 0.0, 0, 0, 0.0, 0.0)]
    for stage in range(len(problem.widths)):
        classes: dict[tuple[int, ...], list[_Partial]] = {}
        for partial in beginnings:
            for longer in _extended(problem, stage, partial):
                seen = longer.depths[1:]
                key = (longer.widths[-1], sum(longer.depths), sum(seen), sum(depth * depth for depth in seen))
                classes.setdefault(key, []).append(longer)
        beginnings = [kept for each in classes.values() for kept in _undominated(each)]
    if not beginnings:
        raise ValueError(
            f"no network meets at most {problem.max_macs:g} macs, {problem.max_params:g} params and effectiveness "
            f"{problem.effectiveness:g}; allow more, or offer smaller widths and depths"
        )
    solutions = [_finished(partial) for partial in beginnings]
    return max(solutions, key=lambda found: found.score)


def evaluate(problem: Problem, widths: Sequence[int], depths: Sequence[int]) -> Solution | None:
    """Score and costs of one network; None if it breaks a limit or its widths shrink."""
    partial: _Partial | None = _Partial((), (), 0.0, 0, 0, 0.0, 0.0)
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        if partial is not None:
            partial = _longer(problem, stage, partial, width, depth)
    return None if partial is None else _finished(partial)


def _extended(problem: Problem, stage: int, partial: _Partial) -> Iterator[_Partial]:
    for width, depth in product(problem.widths[stage], problem.depths[stage]):
        longer = _longer(problem, stage, partial, width, depth)
        if longer is not None:
            yield longer


def _longer(problem: Problem, stage: int, partial: _Partial, width: int, depth: int) -> _Partial | None:
    before = partial.widths[-1] if partial.widths else problem.channels
    if partial.widths and width < before:
        return None
    window, side = problem.kernel**2, problem.sides[stage]
    params = partial.params + window * width * (before + (depth - 1) * width)
    macs = partial.macs + (params - partial.params) * side**2
    log_widths = partial.log_widths + math.log(before * window) + (depth - 1) * math.log(width * window)
    depths = (*partial.depths, depth)
    layers = sum(depths)
    effectiveness = max(partial.effectiveness, layers * math.exp(-log_widths / layers))
    if macs > problem.max_macs or params > problem.max_params or effectiveness > problem.effectiveness:
        return None
    score = partial.score + problem.weights[stage] * math.log(width * side**2) * log_widths / 2
    return _Partial((*partial.widths, width), depths, score, macs, params, log_widths, effectiveness)


def _finished(partial: _Partial) -> Solution:
    deviation = float(np.std(partial.depths[1:])) if len(partial.depths) > 1 else 0.0
    score = partial.score - DEPTH_PENALTY * math.exp(deviation)
    return Solution(partial.widths, partial.depths, score, partial.macs, partial.params, partial.effectiveness)


def _undominated(partials: list[_Partial]) -> list[_Partial]:
    kept: list[_Partial] = []
    figures = np.empty((len(partials), 4))
    for partial in sorted(partials, key=lambda each: (-each.score, -each.log_widths, each.macs, each.params)):
        own = np.array([-partial.score, -partial.log_widths, partial.macs, partial.params])
        if not (figures[: len(kept)] <= own).all(axis=1).any():
            figures[len(kept)] = own
            kept.append(partial)
    return kept
