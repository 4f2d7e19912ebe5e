"""Accuracy predictors: from features of architectures, learned on a few trained ones, to a mean and its uncertainty.

A column may be an encoding, a cost, a zero-cost score or a supernet's accuracy. None is trusted beforehand: how much each counts is
learned from the examples, and `input_weights` tells it.

Shapes: n architectures, k columns.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm, rankdata
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import BaggingRegressor, GradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from sklearn.impute import SimpleImputer
from sklearn.inspection import permutation_importance
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import BayesianRidge
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from search_spaces import Architecture, SearchSpace
from search_spaces.core import unknown_name

Floats = NDArray[np.float64]
MEMBERS = 10


@dataclass(frozen=True)
class Prediction:
    """What is expected of n architectures.

    Attributes:
        mean: shape (n,), in the unit of the targets.
        std: shape (n,), one standard deviation: of the posterior for ridge and Gaussian process, between models fitted to resampled
            examples for the others, which are not less sure far from all examples.
    """

    mean: Floats
    std: Floats


class _Standardised:
    """A regression on standardised targets, to nine decimals: priors depend on their unit, and where it stops on their last bits."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def fit(self, inputs: Floats, targets: Floats) -> None:
        self.centre, self.spread = targets.mean(), targets.std()
        self.model.fit(inputs, np.round((targets - self.centre) / self.spread, 9))

    def predict(self, inputs: Floats, return_std: bool) -> tuple[Floats, Floats]:
        mean, std = self.model.predict(inputs, return_std=return_std)
        return self.centre + self.spread * mean, self.spread * std


def _ridge(seed: int) -> Any:
    return _Standardised(BayesianRidge())


def _kernel_ridge(seed: int) -> Any:
    ridge = TransformedTargetRegressor(KernelRidge(kernel="rbf", alpha=0.1), transformer=StandardScaler())
    return BaggingRegressor(ridge, MEMBERS, random_state=seed)


def _gaussian_process(seed: int) -> Any:
    kernel = ConstantKernel() * Matern(10.0, nu=1.5) + WhiteKernel(0.1)
    return _Standardised(GaussianProcessRegressor(kernel, random_state=seed))


def _gradient_boosting(seed: int) -> Any:
    trees = GradientBoostingRegressor(max_features=0.3)
    return BaggingRegressor(trees, MEMBERS, random_state=seed)


@dataclass(frozen=True)
class Kind:
    """A regression: one line on it, how it is made from a seed, and the fewest examples that it needs."""

    help: str
    make: Callable[[int], Any]
    needs: int


POSTERIOR = "the standard deviation is that of the posterior, noise included: it grows far from the examples"
RESAMPLED = (
    f"the standard deviation is the spread of {MEMBERS} models on resampled examples: it does not grow far from them"
)
PREDICTORS: dict[str, Kind] = {
    "ridge": Kind(f"Bayesian ridge regression; {POSTERIOR}", _ridge, 3),
    "kernel_ridge": Kind(f"kernel ridge regression; {RESAMPLED}", _kernel_ridge, 10),
    "gaussian_process": Kind(f"Gaussian process; {POSTERIOR}", _gaussian_process, 4),
    "gradient_boosting": Kind(f"gradient boosting; {RESAMPLED}", _gradient_boosting, 10),
}


class Predictor:
    """One regression of scikit-learn behind columns that are filled in and scaled.

    NaN in a column becomes the column's median among the examples, beside a column that tells where it was. The unit of the targets
    makes no difference.

    Args:
        kind: one of `PREDICTORS`; `ridge` is Bayesian ridge regression, which finds its own strength.
        seed: of what is drawn at random.

    Raises:
        ValueError: no such kind.
    """

    def __init__(self, kind: str = "gaussian_process", *, seed: int = 0) -> None:
        if kind not in PREDICTORS:
            raise unknown_name("predictor", kind, PREDICTORS)
        self.kind = kind
        self._scale = make_pipeline(
            SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True), StandardScaler()
        )
        self._model = PREDICTORS[kind].make(seed)
        self._columns: int | None = None

    def fit(self, inputs: ArrayLike, targets: ArrayLike) -> Predictor:
        """Learn from examples.

        Args:
            inputs: shape (n, k); NaN for what is not known.
            targets: shape (n,), finite. Their order is all that is learned if they are `normal_scores` of the accuracies.

        Raises:
            ValueError: fewer examples than the predictor needs, targets that are all equal or not finite, infinite inputs, or other
                shapes.
        """
        x, y = _inputs(inputs), np.asarray(targets, dtype=np.float64)
        if y.shape != (len(x),):
            raise ValueError(f"`targets` must have shape ({len(x)},), one for each row of inputs; got {y.shape}")
        needs = PREDICTORS[self.kind].needs
        if len(y) < needs:
            least = min(PREDICTORS, key=lambda kind: PREDICTORS[kind].needs)
            way_out = "measure more" if self.kind == least else f"measure more, or use {least!r}"
            raise ValueError(f"predictor {self.kind!r} needs at least {needs} examples, got {len(y)}; {way_out}")
        if not np.isfinite(y).all():
            raise ValueError(f"targets must be finite, got {y[~np.isfinite(y)][0]}; leave these examples out")
        if (y == y[0]).all():
            raise ValueError(
                f"targets must differ for anything to be learned, got {len(y)} times {y[0]:g}; measure others"
            )
        self._columns = x.shape[1]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a length scale at its limit is an answer too
            self._model.fit(self._scale.fit_transform(x), y)
        return self

    def predict(self, inputs: ArrayLike) -> Prediction:
        """What is expected of other architectures, from columns in the order of the examples'.

        Raises:
            ValueError: nothing was learned yet, infinite inputs or another number of columns.
        """
        x = _inputs(inputs)
        if self._columns is None:
            raise ValueError("a predictor must learn from examples first; call `fit`")
        if x.shape[1] != self._columns:
            raise ValueError(f"`inputs` must have the {self._columns} columns of the examples, got {x.shape[1]}")
        scaled = self._scale.transform(x)
        if isinstance(self._model, BaggingRegressor):
            members = np.stack([member.predict(scaled) for member in self._model.estimators_])
            return Prediction(members.mean(0), members.std(0))
        mean, std = self._model.predict(scaled, return_std=True)
        return Prediction(mean, std)


def one_hot(space: SearchSpace, archs: Sequence[Architecture]) -> dict[str, Floats]:
    """The encoding of n architectures as columns of shape (n,): 1 where `column=value` holds, 0 elsewhere."""
    codes = space.encode(archs)
    return {
        f"{column.name}={value}": (codes[:, at] == code).astype(np.float64)
        for at, column in enumerate(space.columns)
        for code, value in enumerate(column.values)
    }


def normal_scores(values: ArrayLike) -> Floats:
    """Accuracies as the quantiles of a normal distribution that their ranks stand for, for targets with a long tail; NaN stays NaN."""
    array = np.asarray(values, dtype=np.float64)
    return norm.ppf((rankdata(array, nan_policy="omit") - 0.5) / max(1, int((~np.isnan(array)).sum())))


def input_weights(
    kind: str, columns: Mapping[str, ArrayLike], targets: ArrayLike, *, seed: int = 0, folds: int = 5
) -> dict[str, float]:
    """How much a predictor relies on each column: the R² it loses, on examples held out, when that column is shuffled.

    Near 0 for a column that does not help, such as the accuracy of a supernet that orders nothing right.

    Args:
        kind: one of `PREDICTORS`.
        columns: shape (n,) each, by name.
        targets: shape (n,).
        seed: of the folds and the shuffles.
        folds: parts that the examples are held out in.

    Raises:
        ValueError: fewer examples than parts, and as `Predictor.fit`, for the examples that remain when a part is held out.
    """
    x = np.column_stack([np.asarray(values, dtype=np.float64) for values in columns.values()])
    y = np.asarray(targets, dtype=np.float64)
    if not 2 <= folds <= len(y):
        raise ValueError(
            f"`folds` must be 2 to the number of examples, {len(y)}, got {folds}; measure more, or use fewer"
        )
    lost = []
    for train, held in KFold(folds, shuffle=True, random_state=seed).split(x):
        predictor = Predictor(kind, seed=seed).fit(x[train], y[train])
        lost.append(permutation_importance(predictor, x[held], y[held], scoring=_r2, n_repeats=10, random_state=seed))
    return dict(zip(columns, np.mean([part.importances_mean for part in lost], axis=0).tolist(), strict=True))


def _r2(predictor: Predictor, inputs: Floats, targets: Floats) -> float:
    return r2_score(targets, predictor.predict(inputs).mean)


def _inputs(inputs: ArrayLike) -> Floats:
    x = np.asarray(inputs, dtype=np.float64)
    if x.ndim != 2 or not x.shape[1]:
        raise ValueError(f"`inputs` must have shape (n, k), a row for each architecture; got {x.shape}")
    if np.isinf(x).any():
        column = int(np.argwhere(np.isinf(x))[0, 1])
        raise ValueError(
            f"inputs must be finite or NaN, got an infinite one in column {column}; give `ranks` of such a score"
        )
    return x
