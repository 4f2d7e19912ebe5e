"""The most that a beginning of stages can still score: a bound by prices on what the limits of `estimators.design.deepmad` limit.

With a price for macs, params, missing effectiveness and the depth of each stage in place of limits and penalty, only neighbouring
stages depend on each other, and the best end for a beginning follows from its last width and its entropy alone. The score of that end
is convex in the entropy, so straight lines between the points of a grid are never too low. Any prices give a bound, by Lagrangian
duality; `next_prices` leads to those that give a low one. The penalty p = 10 exp(deviation) is at least (prices x depths) - p*(prices)
with p* its convex conjugate, and layers x log(layers / effectiveness), which the entropy must reach, at least its tangent.

Reference: Polyak, "Minimization of unsmooth functionals", 1969, for the length of a step.

Shapes: p widths of the stage before, w widths, d depths, g points of the grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
GRID = 16
NEVER = -1e15
LAYER_UNIT, DEPTH_UNIT = 5.0, 20.0
DEPTH_PENALTY = 10.0


@dataclass(frozen=True)
class Prices:
    """`layers` is the price of missing effectiveness, linear by the tangent at `around` layers; `depths` (stages,) are the prices of
    layers, the first 0 and their sum 0, and stand for the penalty. None but these is negative."""

    macs: float
    params: float
    layers: float
    around: float
    depths: Floats


class Best(NamedTuple):
    """A network, and what it takes of the limits."""

    widths: list[int]
    depths: list[int]
    macs: float
    params: float
    log_widths: float


class Step:
    """What a stage adds, (p, w, d): `log_widths`, `params` and `macs`; and `gain` (w,) of each unit of entropy."""

    def __init__(self, problem: Problem, stage: int) -> None:
        window, side = problem.kernel**2, problem.sides[stage]
        self.before = np.array(problem.widths[stage - 1] if stage else [problem.channels])
        self.widths, self.depths = np.array(problem.widths[stage]), np.array(problem.depths[stage])
        before, width, depth = np.ix_(self.before, self.widths, self.depths)
        self.log_widths = np.log(before * window) + (depth - 1) * np.log(width * window)
        self.params = (window * width * (before + (depth - 1) * width)).astype(float)
        self.macs = self.params * side**2
        self.gain = problem.weights[stage] * np.log(self.widths * side**2) / 2
        self.allowed = np.broadcast_to((width >= before) | (stage == 0), self.params.shape)


class Bound:
    """Tables of the best ends under some prices."""

    def __init__(self, problem: Problem, steps: Sequence[Step], prices: Prices) -> None:
        self.problem, self.steps, self.prices = problem, steps, prices
        self.limits = [
            min(limit, sum(float(most.max()) for most in each))
            for limit, each in (
                (problem.max_macs, [step.macs for step in steps]),
                (problem.max_params, [step.params for step in steps]),
            )
        ]
        self.slope = math.log(prices.around / problem.effectiveness) + 1
        self.spacing = sum(float(step.log_widths.max()) for step in steps) / GRID
        grid: Floats = self.spacing * np.arange(GRID + len(steps) + 3.0)
        self.tables = [np.zeros((len(steps[-1].widths), len(grid)))] * (len(steps) + 1)
        for stage in reversed(range(len(steps))):
            ends = self._ends(stage, grid, np.arange(len(steps[stage].before)))
            self.tables[stage] = ends.max(axis=(1, 2))

    def at(self, stage: int, last: NDArray[np.intp], log_widths: Floats) -> Floats:
        """The best end from `stage` on, by index of the last width and sum of log widths so far, which broadcast."""
        table, at = self.tables[stage], log_widths / self.spacing
        low = np.minimum(at.astype(np.intp), table.shape[1] - 2)
        return table[last, low] + (at - low) * (table[last, low + 1] - table[last, low])

    def charge(self, stage: int) -> Floats:
        """What a stage costs at these prices, (p, w, d)."""
        step, prices = self.steps[stage], self.prices
        missing = self.slope * step.depths - step.log_widths
        return (
            prices.macs * step.macs
            + prices.params * step.params
            + prices.layers * missing
            + prices.depths[stage] * step.depths
        )

    @property
    def constant(self) -> float:
        """What the limits allow, at these prices."""
        prices, (macs, params) = self.prices, self.limits
        stages = len(self.steps) - 1
        steep = float(np.linalg.norm(prices.depths)) * math.sqrt(stages)
        spread = math.log(max(steep / DEPTH_PENALTY, 1.0))
        penalty = DEPTH_PENALTY * math.exp(spread) - steep * spread
        allowed = prices.macs * macs + prices.params * params + prices.layers * prices.around
        return allowed - penalty

    @property
    def value(self) -> float:
        """The most that any network can score."""
        return float(self.tables[0][0, 0]) + self.constant

    def best(self) -> Best:
        """The best network at these prices."""
        widths, depths, last, macs, params, log_widths = [], [], 0, 0.0, 0.0, 0.0
        for stage, step in enumerate(self.steps):
            ends = self._ends(stage, np.array([log_widths]), np.array([last]))[0, :, :, 0]
            width, depth = np.unravel_index(ends.argmax(), ends.shape)
            macs += step.macs[last, width, depth]
            params += step.params[last, width, depth]
            log_widths += step.log_widths[last, width, depth]
            widths.append(int(step.widths[width]))
            depths.append(int(step.depths[depth]))
            last = int(width)
        return Best(widths, depths, macs, params, log_widths)

    def next_prices(self, best: Best, by: float) -> Prices:
        """Prices that would lower the value by `by` if the best network stayed the best: a subgradient step, in units that make the
        four kinds of prices alike."""
        prices, (macs, params), scale = self.prices, self.limits, max(abs(self.value), 1.0)
        depths = np.array([0.0, *best.depths[1:]])
        falls = depths * DEPTH_UNIT
        if steep := float(np.linalg.norm(prices.depths)):
            stages = len(depths) - 1
            spread = math.log(max(steep * math.sqrt(stages) / DEPTH_PENALTY, 1.0))
            falls -= DEPTH_UNIT * math.sqrt(stages) * spread / steep * prices.depths
        falls[1:] -= falls[1:].mean() if len(falls) > 1 else 0.0
        units = np.array([scale / macs, scale / params, LAYER_UNIT])
        left = np.array([macs - best.macs, params - best.params, 0.0])
        left[2] = best.log_widths - self.slope * sum(best.depths) + prices.around
        rises = left * units
        length = by / max(float((rises**2).sum() + (falls**2).sum()), 1e-12)
        found = np.maximum(np.array([prices.macs, prices.params, prices.layers]) - length * rises * units, 0.0)
        around = 0.7 * prices.around + 0.3 * sum(best.depths)
        macs, params, layers = found.tolist()
        return Prices(macs, params, layers, around, prices.depths + length * falls * DEPTH_UNIT)

    def _ends(self, stage: int, log_widths: Floats, last: NDArray[np.intp]) -> Floats:
        """(p, w, d, g): the best ends by the next width and depth."""
        step = self.steps[stage]
        reached = log_widths + step.log_widths[last][..., None]
        found = step.gain[:, None, None] * reached - self.charge(stage)[last][..., None]
        found += self.at(stage + 1, np.arange(len(step.widths))[:, None, None], reached)
        return np.where(step.allowed[last][..., None], found, NEVER)


def first_prices(problem: Problem) -> Prices:
    """Nothing costs anything."""
    return Prices(0.0, 0.0, 0.0, float(sum(max(depths) for depths in problem.depths)), np.zeros(len(problem.depths)))


WEIGHTS = (1.0, 1.0, 1.0, 1.0, 8.0)


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
        for name in ("max_macs", "max_params", "effectiveness"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be positive, got {getattr(self, name)}; it is what a network may have")

    @property
    def sides(self) -> list[int]:
        """Of the map of each stage."""
        found, side = [], self.side
        for _ in self.widths:
            side = -(-side // 2)
            found.append(side)
        return found
