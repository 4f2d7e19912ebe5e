"""Latency on a device from a few measured architectures, helped by the tables of other devices.

Operators cost different amounts on different devices, but not arbitrary ones. So latency is taken to be linear in features (how often
each operator occurs), and the weights of the known devices are the prior of the new device's weights: where they agree, few
measurements are needed; where they differ, the measurements decide. A smooth residual takes up what is not linear. Which architectures
to measure is the other half: `choose_samples` picks those that determine the weights best, and needs no latency for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import ArrayLike

from search_spaces import Architecture, SearchSpace
from search_spaces.core import Value

FEWEST = 5
NOISES = tuple(np.geomspace(0.003, 0.3, 10))
DEVIATIONS = (0.01, 0.03, 0.1)
ALONE_DEVIATIONS = (0.05, 0.1, 0.2, 0.4)
RESIDUALS = (0.0, 0.03, 0.1)
RIDGE = 1e-6


@dataclass(frozen=True, eq=False)
class KnownDevice:
    """Architectures measured on a device.

    Attributes:
        features: (n, features).
        latencies: (n,), in any unit.
    """

    features: np.ndarray
    latencies: np.ndarray


def operation_counts(space: SearchSpace, archs: Sequence[Architecture]) -> np.ndarray:
    """How often each value is chosen: few features of an architecture, whatever its size, from which latency is learned.

    Columns of the encoding that offer the same values are taken as places for the same operations. The first value of places that
    always exist is left out, since the others tell how often it is chosen. Of NAS-Bench-201 these are the numbers of skips, of 1x1
    and 3x3 convolutions and of poolings. Where an operation is says nothing; where only that differs, as for the placement of
    pooling, use the columns of `estimators.accuracy.one_hot`.

    Returns:
        (n, features), as `fit_latency` and `choose_samples` take them.
    """
    codes, places = space.encode(archs), dict[tuple[Value, ...], list[int]]()
    for at, column in enumerate(space.columns):
        places.setdefault(column.values, []).append(at)
    optional = [bool(choice.when) for choice in space.choices for _ in choice.columns]
    counts = [
        (codes[:, columns] == code).sum(axis=1)
        for values, columns in places.items()
        for code in range(0 if any(optional[at] for at in columns) else 1, len(values))
    ]
    return np.array(counts, dtype=float).reshape(len(counts), len(archs)).T


def known_device(space: SearchSpace, archs: Sequence[Architecture], latencies: ArrayLike) -> KnownDevice:
    """A device on which architectures of a space were measured: latencies (n,), in any unit, beside their `operation_counts`."""
    return KnownDevice(*_checked(operation_counts(space, archs), np.asarray(latencies), "latencies"))


@dataclass(frozen=True, eq=False)
class LatencyPredictor:
    """What `fit_latency` has learned of one device; made by it alone."""

    unit: float
    centre: np.ndarray
    spread: np.ndarray
    weights: np.ndarray
    anchors: np.ndarray
    coefficients: np.ndarray
    covariance: np.ndarray
    residual: float
    precision: np.ndarray
    noise: float

    def predict(self, features: np.ndarray) -> np.ndarray:
        """(n, features) -> latencies (n,), in the unit of the measured ones."""
        x = self._scaled(features)
        return self.unit * (_linear(x) @ self.weights + _smooth(x, self.anchors) @ self.coefficients)

    def uncertainty(self, features: np.ndarray) -> np.ndarray:
        """(n, features) -> standard deviations (n,) of single measurements, in the same unit, under the likeliest settings."""
        x = self._scaled(features)
        prior = _covariance(x, self.anchors, self.covariance, self.residual)
        own = np.einsum("ij,jk,ik->i", _linear(x), self.covariance, _linear(x)) + self.residual**2
        left = own - np.einsum("ij,jk,ik->i", prior, self.precision, prior)
        return self.unit * np.sqrt(np.maximum(left, 0) + self.noise**2)

    def _scaled(self, features: np.ndarray) -> np.ndarray:
        features = np.asarray(features, dtype=float)
        if features.ndim != 2 or features.shape[1] != len(self.centre):
            raise ValueError(
                f"`features` must be of shape (n, {len(self.centre)}) as those that were measured, got {features.shape}"
            )
        return (features - self.centre) / self.spread


def fit_latency(features: np.ndarray, latencies: np.ndarray, known: Sequence[KnownDevice] = ()) -> LatencyPredictor:
    """Fit one device from measured architectures.

    A Gaussian process: linear weights with the known devices' mean and covariance as prior, plus a deviation of its own, plus a smooth
    residual, plus noise. The sizes of the last three are averaged over by their likelihood, so nothing is tuned to a device. Without
    known devices the weights' prior is zero, and more samples are needed.

    Args:
        features: (n, features) of the measured architectures, such as their `operation_counts`. Fewer features that say enough are
            better than many.
        latencies: (n,), positive.
        known: other devices, measured on any architectures with the same features.

    Raises:
        ValueError: fewer than 5 samples (without known devices: than features + 2), latencies that are all the same or not
            positive, or shapes that do not go together.
    """
    features, latencies = _checked(features, latencies, "latencies")
    width = features.shape[1]
    tables = [_checked(device.features, device.latencies, "known latencies") for device in known]
    for device_features, _ in tables:
        if device_features.shape[1] != width:
            raise ValueError(f"known devices must have the same {width} features, got {device_features.shape[1]}")
    fewest = FEWEST if tables else width + 2
    if len(features) < fewest:
        way_out = "measure more" if tables else "measure more, use fewer features, or give known devices"
        raise ValueError(f"the latency predictor needs at least {fewest} samples, got {len(features)}; {way_out}")
    if np.ptp(latencies) == 0:
        raise ValueError(
            f"latencies must differ, got {len(latencies)} times {latencies[0]:g}; "
            "measure with a finer clock or a larger batch, or other architectures"
        )
    everything = np.concatenate([features, *(each for each, _ in tables)])
    centre, spread = everything.mean(axis=0), everything.std(axis=0)
    spread[spread == 0] = 1
    mean, covariance = _prior([((each - centre) / spread, found) for each, found in tables], width)
    x, unit = (features - centre) / spread, float(latencies.mean())
    rest = latencies / unit - _linear(x) @ mean
    found = []
    for deviation, residual in product(DEVIATIONS if tables else ALONE_DEVIATIONS, RESIDUALS):
        own = covariance + deviation**2 * np.diag(np.r_[0, np.ones(width)])
        values, vectors = np.linalg.eigh(_covariance(x, x, own, residual))
        rotated = vectors.T @ rest
        for noise in NOISES:
            scale = np.maximum(values, 0) + noise**2
            evidence = -0.5 * (np.log(scale) + rotated**2 / scale).sum()
            found.append((evidence, vectors @ (rotated / scale), own, residual, noise))
    best = max(found, key=lambda each: each[0])
    shares = np.exp([each[0] - best[0] for each in found])
    shares /= shares.sum()
    weights = mean + sum(
        share * own @ _linear(x).T @ pull for share, (_, pull, own, _, _) in zip(shares, found, strict=True)
    )
    coefficients = sum(
        share * residual**2 * pull for share, (_, pull, _, residual, _) in zip(shares, found, strict=True)
    )
    _, _, own, residual, noise = best
    precision = np.linalg.inv(_covariance(x, x, own, residual) + noise**2 * np.eye(len(x)))
    return LatencyPredictor(
        unit, centre, spread, weights, x, np.asarray(coefficients), own, residual, precision, float(noise)
    )


def choose_samples(features: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Which architectures to measure: a D-optimal design, those that leave linear weights the least room.

    Architectures with the same features are equally good, and are drawn from at random.

    Args:
        features: (n, features) of all that could be measured.
        count: how many to choose.
        rng: starts the exchange and breaks ties.

    Returns:
        `count` different rows, int64.

    Raises:
        ValueError: more than there are, or none.

    Reference: Fedorov, "Theory of Optimal Experiments", 1972 (the exchange algorithm).
    """
    features = np.asarray(features, dtype=float)
    if not 0 < count <= len(features):
        raise ValueError(f"`count` must be 1 to the {len(features)} architectures there are, got {count}")
    spread = features.std(axis=0)
    rows = _linear((features - features.mean(axis=0)) / np.where(spread == 0, 1, spread))
    order = rng.permutation(len(rows))
    chosen, free = list(order[:count]), np.ones(len(rows), dtype=bool)
    free[chosen] = False
    improved = True
    while improved:
        improved = False
        for place in range(count):
            others = rows[np.delete(chosen, place)]
            room = np.linalg.inv(others.T @ others + RIDGE * np.eye(rows.shape[1]))
            gain = np.einsum("ij,jk,ik->i", rows, room, rows)
            now = gain[chosen[place]]
            gain[~free] = -np.inf
            best = order[gain[order].argmax()]
            if gain[best] > now * (1 + 1e-9):
                free[[chosen[place], best]] = True, False
                chosen[place], improved = best, True
    return np.array(chosen, dtype=np.int64)


def _prior(known: Sequence[tuple[np.ndarray, np.ndarray]], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of (intercept and weights) over devices, each in units of its mean latency; any intercept may be."""
    mean, covariance = np.r_[1.0, np.zeros(width)], np.zeros((width + 1, width + 1))
    if known:
        weights = np.array([np.linalg.lstsq(_linear(x), found / found.mean(), rcond=None)[0] for x, found in known])
        mean = weights.mean(axis=0)
        if len(known) > 1:
            covariance = np.cov(weights.T)
    covariance[0, :] = covariance[:, 0] = 0
    covariance[0, 0] = 1
    return mean, covariance


def _covariance(x: np.ndarray, y: np.ndarray, weights: np.ndarray, residual: float) -> np.ndarray:
    """Between latencies at x and y, (n, features) and (m, features) -> (n, m)."""
    return _linear(x) @ weights @ _linear(y).T + residual**2 * _smooth(x, y)


def _linear(x: np.ndarray) -> np.ndarray:
    return np.column_stack([np.ones(len(x)), x])


def _smooth(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    from scipy.spatial.distance import cdist  # a tenth of what `import nas` takes

    return np.exp(-cdist(x, y, "sqeuclidean") / (2 * x.shape[1]))


def _checked(features: np.ndarray, latencies: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    features, latencies = np.asarray(features, dtype=float), np.asarray(latencies, dtype=float)
    if features.ndim != 2 or latencies.shape != features.shape[:1]:
        raise ValueError(
            f"features must be of shape (n, features) and {name} (n,), got {features.shape} and {latencies.shape}"
        )
    if not (np.isfinite(features).all() and np.isfinite(latencies).all() and (latencies > 0).all()):
        raise ValueError(f"features must be finite and {name} positive and finite; leave out what was not measured")
    return features, latencies
