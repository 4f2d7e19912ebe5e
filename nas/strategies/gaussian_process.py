"""A Gaussian process over features in groups: its kernel, learned from trials, and what it expects of candidates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.objectives import Floats

Ints = NDArray[np.int64]
LEVEL = 1.0
"""Variance of the mean of all targets, which are normal scores: of trials that are better than most of the space, it is not 0."""
JITTER = 1e-8
STEPS = 30


@dataclass(frozen=True, eq=False)
class Kernel:
    """Covariance of targets: a level, a linear part, and a part that falls with the distance of the features.

    Args:
        weights: standard deviation of the targets by each feature alone, shape (f,): main effects.
        lengths: inverse lengths of each feature, shape (f,): interactions.
        amplitude: standard deviation of interactions.
        noise: standard deviation of a target around what the features tell.
    """

    weights: Floats
    lengths: Floats
    amplitude: float
    noise: float

    def __call__(self, a: Floats, b: Floats) -> Floats:
        """Covariances of shape (n, m), without noise, of features (n, f) and (m, f)."""
        return LEVEL + self.linear(a, b) + self.smooth(a, b)

    def linear(self, a: Floats, b: Floats) -> Floats:
        """The covariances of main effects."""
        product: Floats = (a * self.weights**2) @ b.T
        return product

    def smooth(self, a: Floats, b: Floats) -> Floats:
        """The covariances of interactions."""
        a, b = a * self.lengths, b * self.lengths
        exponent = a @ b.T
        exponent -= (a**2).sum(axis=1)[:, None] / 2
        exponent -= (b**2).sum(axis=1) / 2
        np.exp(np.minimum(exponent, 0.0, out=exponent), out=exponent)
        exponent *= self.amplitude**2
        return exponent

    def diagonal(self, a: Floats) -> Floats:
        """The variance of each row, without noise."""
        variance: Floats = LEVEL + ((a * self.weights) ** 2).sum(axis=1) + self.amplitude**2
        return variance


class Prior:
    """Which kernels are likely before a trial: log-normal parameters, one weight and one length to a group of features.

    Main effects together explain half of the variance at the outset and interactions the other half, spread evenly over the groups
    whatever their number; the deviations let single groups go to nothing or explain it all.

    Args:
        groups: the group of each feature, shape (f,).
    """

    def __init__(self, groups: Ints) -> None:
        self.groups = groups
        self.size = int(groups.max(initial=-1)) + 1
        weight, length = np.log([0.7, 1.4]) - np.log(max(self.size, 1)) / 2
        each = np.ones(self.size)
        self.mean = np.concatenate([np.log([0.2, 0.7]), weight * each, length * each])
        self.deviation = np.concatenate([[1.0, 0.5], each, 0.7 * each])

    def kernel(self, parameters: Floats) -> Kernel:
        """The kernel of logarithms of noise, amplitude, weights and lengths."""
        noise, amplitude, *_ = np.exp(parameters).tolist()
        weights, lengths = np.exp(parameters[2:]).reshape(2, -1)[:, self.groups]
        return Kernel(weights, lengths, amplitude, noise)

    def learned(self, features: Floats, targets: Floats, start: Floats) -> Floats:
        """The most likely parameters after targets, sought from `start`; to four decimals, so that last bits change nothing."""
        from scipy.optimize import minimize  # as all of scipy, a tenth of what `import nas` takes

        found = minimize(
            self.energy, start, (features, targets), jac=True, method="L-BFGS-B", options={"maxiter": STEPS}
        )
        parameters: Floats = np.round(found.x, 4)
        return parameters

    def energy(self, parameters: Floats, features: Floats, targets: Floats) -> tuple[float, Floats]:
        """Minus the logarithm of prior times evidence, but for a constant, with its gradient."""
        from scipy.linalg import cho_solve, cholesky

        kernel, n = self.kernel(parameters), len(targets)
        smooth = kernel.smooth(features, features)
        covariance = smooth + kernel.linear(features, features) + LEVEL
        covariance[np.diag_indices(n)] += kernel.noise**2 + JITTER
        factor = cholesky(covariance, lower=True, check_finite=False)
        inverse = cho_solve((factor, True), np.eye(n), check_finite=False)
        solved = inverse @ targets
        off = (parameters - self.mean) / self.deviation
        value = float(targets @ solved / 2 + np.log(np.diag(factor)).sum() + off @ off / 2)

        slope = (inverse - np.outer(solved, solved)) / 2  # of the energy by each covariance
        gradient = off / self.deviation
        gradient[0] += 2 * kernel.noise**2 * np.trace(slope)
        by_weight = self._summed((features * (slope @ features)).sum(axis=0))
        slope *= smooth
        gradient[1] += 2 * slope.sum()
        apart = slope.sum(axis=1) @ features**2 - (features * (slope @ features)).sum(axis=0)
        by_length = -self._summed(apart)
        gradient[2:] += 2 * np.exp(2 * parameters[2:]) * np.concatenate([by_weight, by_length])
        return value, gradient

    def _summed(self, by_feature: Floats) -> Floats:
        summed: Floats = np.bincount(self.groups, by_feature, self.size).astype(np.float64)
        return summed


class Posterior:
    """What is expected of candidates after trials; trials are added and candidates replaced without doing the rest anew.

    A trial takes time in proportion to trials times candidates, a candidate to the square of trials.

    Args:
        kernel: the covariance.
        features: of the trials, shape (n, f).
        room: trials that are added later at most.
    """

    def __init__(self, kernel: Kernel, features: Floats, room: int) -> None:
        from scipy.linalg import cholesky

        self.kernel, self.n = kernel, len(features)
        most = self.n + room
        self._features = np.empty((most, features.shape[1]))
        self._features[: self.n] = features
        covariance = kernel(features, features)
        covariance[np.diag_indices(self.n)] += kernel.noise**2 + JITTER
        self._factor = np.zeros((most, most))
        if self.n:
            self._factor[: self.n, : self.n] = cholesky(covariance, lower=True, check_finite=False)
        self.watch(features[:0])

    @property
    def room(self) -> int:
        """How many trials can be added."""
        return len(self._features) - self.n

    def watch(self, candidates: Floats) -> None:
        """Take these candidates, shape (m, f), in place of all that were."""
        self._candidates = candidates.copy()
        self._solved = np.empty((len(self._features), len(candidates)))
        self._variance = np.empty(len(candidates))
        self.replace(slice(None), candidates)

    def replace(self, places: Ints | slice, candidates: Floats) -> None:
        """Put other candidates, shape (p, f), in these places."""
        solved = self._solve(self.kernel(self._features[: self.n], candidates))
        self._candidates[places] = candidates
        self._solved[: self.n, places] = solved
        self._variance[places] = self.kernel.diagonal(candidates) - (solved**2).sum(axis=0)

    def add(self, features: Floats) -> None:
        """One more trial, of features of shape (f,)."""
        n, row = self.n, features[None]
        solved = self._solve(self.kernel(self._features[:n], row))[:, 0]
        rest = self.kernel.diagonal(row)[0] + self.kernel.noise**2 + JITTER - solved @ solved
        diagonal = np.sqrt(max(rest, JITTER))
        self._features[n], self._factor[n, :n], self._factor[n, n] = features, solved, diagonal
        covariance = self.kernel(row, self._candidates)[0]
        self._solved[n] = (covariance - solved @ self._solved[:n]) / diagonal
        self._variance -= self._solved[n] ** 2
        self.n += 1

    def mean(self, targets: Floats) -> Floats:
        """Of the candidates, shape (m,), after the trials' targets, shape (n,)."""
        mean: Floats = self._solve(targets) @ self._solved[: self.n]
        return mean

    @property
    def deviation(self) -> Floats:
        """One standard deviation of the candidates without noise, shape (m,)."""
        return np.sqrt(np.maximum(self._variance, JITTER))

    def expected(self, features: Floats, targets: Floats) -> tuple[Floats, Floats]:
        """Mean and deviation of any others, with features of shape (m, f)."""
        solved = self._solve(self.kernel(self._features[: self.n], features))
        variance = self.kernel.diagonal(features) - (solved**2).sum(axis=0)
        return self._solve(targets) @ solved, np.sqrt(np.maximum(variance, JITTER))

    def _solve(self, right: Floats) -> Floats:
        from scipy.linalg import solve_triangular

        if not self.n:
            return right
        solved: Floats = solve_triangular(self._factor[: self.n, : self.n], right, lower=True, check_finite=False)
        return solved
