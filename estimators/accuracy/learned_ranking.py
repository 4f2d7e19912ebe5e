"""Scores, and anything else that is known of architectures, made into one ranking by what a few labels say of them.

What holds without labels is in `estimators.accuracy.aggregation`. Shapes: n architectures.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from estimators.accuracy.aggregation import Ranking, ranks
from estimators.accuracy.predictor import Predictor, normal_scores
from search_spaces.core import unknown_name

KINDS = ("gaussian_process", "gradient_boosting")


def aggregate_learned(
    scores: Mapping[str, ArrayLike],
    labels: Mapping[int, float],
    *,
    ranked: Collection[str] | None = None,
    kinds: Sequence[str] = KINDS,
    seed: int = 0,
) -> Ranking:
    """One ranking from several scores and a few labels: the mean of predictors that learn the labels' order from the scores' ranks.

    The direction of a score, and how much it counts, are learned.

    Args:
        scores: shape (n,) each, by name. NaN is filled in with the median of the labelled ones, and counted.
        labels: what is known, such as accuracies, by the position of the architecture; higher is better.
        ranked: which of the scores become ranks, by default all; encodings and costs are better taken as they are.
        kinds: of `estimators.accuracy.predictor.PREDICTORS`.
        seed: of what they draw at random.

    Returns:
        `values` are quantiles of the normal distribution that the labels' ranks stand for. All architectures have one, those with
        a label too, except where every score is NaN.

    Raises:
        ValueError: no scores, different lengths, a name in `ranked` or `kinds` that is not known, infinite scores that are not
            ranked, a position that is not there, labels that are not finite or all equal, or fewer than the predictors need; those of
            architectures without any score do not count.
    """
    if not scores or not kinds:
        raise ValueError(f"there must be scores and predictors, got {len(scores)} and {len(kinds)}; give one of each")
    for name in ranked or ():
        if name not in scores:
            raise unknown_name("score", name, scores)
    lengths = {name: len(np.asarray(values)) for name, values in scores.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"every score needs one value for each architecture, got {lengths}")
    n = next(iter(lengths.values()))
    for at, label in labels.items():
        if not 0 <= at < n:
            raise ValueError(f"labels must be of positions 0 to {n - 1}, got one of {at}")
        if not np.isfinite(label):
            raise ValueError(f"labels must be finite, got {label} at position {at}; leave it out")
    columns = {
        name: ranks(values) if ranked is None or name in ranked else np.asarray(values, dtype=np.float64)
        for name, values in scores.items()
    }
    for name, values in columns.items():
        if np.isinf(values).any():
            raise ValueError(f"scores that are not ranked must be finite or NaN, got an infinite {name!r}; rank it")
    inputs = np.column_stack(list(columns.values()))
    scored = np.isnan(inputs).sum(axis=1) < inputs.shape[1]
    examples = [at for at in labels if scored[at]]
    targets = np.array([labels[at] for at in examples])
    if len(targets) and (targets == targets[0]).all():
        raise ValueError(
            f"labels must differ for anything to be learned, got {len(targets)} times {targets[0]:g}; measure others"
        )
    found = np.full(n, np.nan)
    means = [
        Predictor(kind, seed=seed).fit(inputs[examples], normal_scores(targets)).predict(inputs[scored]).mean
        for kind in kinds
    ]
    found[scored] = np.mean(means, axis=0)
    return Ranking(found, {name: int(np.isnan(values).sum()) for name, values in columns.items()})
