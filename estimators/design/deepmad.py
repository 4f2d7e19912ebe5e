"""Depths and widths of a convolutional network by maximum entropy under budgets: DeepMAD's mathematical program, solved exactly.

A stage is d layers of k x k convolutions with C channels, the first of which halves the resolution. The entropy of a layer with c input
channels is log(c k^2) / 2. The score of a stage is log(C r^2) times the entropy of all layers up to its end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from estimators.design.deepmad_bound import DEPTH_PENALTY, Bound, Problem, Step, first_prices

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
ROUNDS = 40
BEAM = 1000
CHUNK = 512
SLACK = 1e-9


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
class _Partial(Solution):
    """Stages chosen so far; `log_widths` is the sum of log(c k^2) over layers, twice the entropy."""

    log_widths: float


def solve(problem: Problem) -> Solution:
    """The network with the highest score.

    Stage by stage, beginnings are dropped that break a limit whatever follows, or whose bound (see `deepmad_bound`) is below the score
    of a network that is known: the best that the search for low prices met, then that of a search which keeps the most promising
    beginnings only. So the optimum is exact. Where nothing meets the limits, all beginnings that do are looked at.

    Raises:
        ValueError: nothing meets the limits.

    Reference: Shen et al., "DeepMAD: Mathematical Architecture Design for Deep Convolutional Neural Network", CVPR 2023,
    arXiv:2303.02165.
    Differs: the release searches by evolution and over more kinds of blocks; here stages of plain convolutions are solved exactly. The
    penalty is 10 exp(standard deviation of the depths of all stages but the first), as in the release.
    """
    bound, found = _lowered(problem)
    for keep in (BEAM, None):
        found = _searched(problem, bound, found, keep)
    if found is None:
        raise ValueError(
            f"no network meets at most {problem.max_macs:g} macs, {problem.max_params:g} params and effectiveness "
            f"{problem.effectiveness:g}; allow more, or offer smaller widths and depths"
        )
    return found


def evaluate(problem: Problem, widths: Sequence[int], depths: Sequence[int]) -> Solution | None:
    """Score and costs of one network; None if it breaks a limit or its widths shrink."""
    partial: _Partial | None = _Partial((), (), 0.0, 0, 0, 0.0, 0.0)
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        if partial is not None:
            partial = _longer(problem, stage, partial, width, depth)
    return None if partial is None else _finished(partial)


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
    return _Partial((*partial.widths, width), depths, score, macs, params, effectiveness, log_widths)


def _finished(partial: _Partial) -> Solution:
    deviation = float(np.std(partial.depths[1:])) if len(partial.depths) > 1 else 0.0
    score = partial.score - DEPTH_PENALTY * math.exp(deviation)
    return Solution(partial.widths, partial.depths, score, partial.macs, partial.params, partial.effectiveness)


def _lowered(problem: Problem) -> tuple[Bound, Solution | None]:
    """A low bound, and the best network met on the way, if any keeps the limits."""
    prices, best, known, hold = first_prices(problem), None, None, 1.0
    steps = [Step(problem, stage) for stage in range(len(problem.widths))]
    for _ in range(ROUNDS):
        bound = Bound(problem, steps, prices)
        end = bound.best()
        known = _better(evaluate(problem, end.widths, end.depths), known)
        if best is None or bound.value < best.value:
            best = bound
        else:
            hold *= 0.85
        target = known.score if known else 0.9 * best.value
        prices = bound.next_prices(end, hold * (bound.value - target))
    assert best is not None
    return best, known


def _better(one: Solution | None, other: Solution | None) -> Solution | None:
    return max((each for each in (other, one) if each is not None), key=lambda each: each.score, default=None)


def _searched(problem: Problem, bound: Bound, known: Solution | None, keep: int | None) -> Solution | None:
    """The best network: of all, or following only the `keep` most promising beginnings of each stage; `known` if none is better."""
    codes, figures = np.zeros((1, 0), dtype=np.int64), np.zeros((1, 5))
    for _ in problem.widths:
        parts = [
            _lengthened(problem, bound, known, codes[start : start + CHUNK], figures[start : start + CHUNK])
            for start in range(0, len(codes), CHUNK)
        ]
        codes, figures, most = (np.concatenate(part) for part in zip(*parts, strict=True))
        if keep is not None and len(codes) > keep:
            promising = np.argpartition(-most, keep)[:keep]
            codes, figures = codes[promising], figures[promising]
        if not len(codes):
            return known
    depths = np.stack([np.array(offered)[codes[:, 2 * at + 1]] for at, offered in enumerate(problem.depths)], axis=1)
    widths = np.stack([np.array(offered)[codes[:, 2 * at]] for at, offered in enumerate(problem.widths)], axis=1)
    deviations = depths[:, 1:].std(axis=1) if len(problem.depths) > 1 else 0.0
    scores = figures[:, 0] - DEPTH_PENALTY * np.exp(deviations)
    for at in np.argsort(-scores, kind="stable"):
        if known is not None and scores[at] < known.score - SLACK * abs(known.score):
            break
        known = _better(evaluate(problem, widths[at].tolist(), depths[at].tolist()), known)
    return known


def _lengthened(
    problem: Problem, bound: Bound, known: Solution | None, codes: Indices, figures: Floats
) -> tuple[Indices, Floats, Floats]:
    """n beginnings with one stage more, and the most that each can score.

    Args:
        codes: (n, 2 x stages), indices of widths and depths by turns.
        figures: (n, 5): score, what the bound charges, macs, params, log widths.
    """
    stage = codes.shape[1] // 2
    step = bound.steps[stage]
    last = codes[:, -2] if stage else np.zeros(len(codes), dtype=np.int64)
    score, charged, macs, params, log_widths = (figure[:, None, None] for figure in figures.T)
    log_widths = log_widths + step.log_widths[last]
    score = score + step.gain[:, None] * log_widths
    charged = charged + bound.charge(stage)[last]
    macs, params = macs + step.macs[last], params + step.params[last]
    before = sum(np.array(offered)[codes[:, 2 * at + 1]] for at, offered in enumerate(problem.depths[:stage]))
    layers = np.reshape(before, (-1, 1, 1)) + step.depths
    most = bound.constant + score - charged
    most += bound.at(stage + 1, np.arange(len(step.widths))[:, None], log_widths)
    kept = step.allowed[last] & (macs <= problem.max_macs) & (params <= problem.max_params)
    kept &= layers * np.exp(-log_widths / layers) <= problem.effectiveness * (1 + SLACK)
    if known is not None:
        kept &= most >= known.score - SLACK * abs(known.score)
    row, width, depth = np.nonzero(kept)
    found = np.stack([each[kept] for each in (score, charged, macs, params, log_widths)], axis=1)
    return np.column_stack([codes[row], width, depth]), found, most[kept]
