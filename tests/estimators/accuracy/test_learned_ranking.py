"""One ranking from scores and few labels: what counts is learned, units do not matter, NaN is counted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from estimators.accuracy.aggregation import aggregate, ranks
from estimators.accuracy.learned_ranking import KINDS, aggregate_learned
from estimators.accuracy.predictor import Predictor, normal_scores

pytestmark = pytest.mark.filterwarnings("error")
N, LABELLED = 200, 40


def _toy(seed: int) -> tuple[dict[str, np.ndarray], np.ndarray, dict[int, float]]:
    """A score that helps, one that is the wrong way round and three of noise; accuracies of all, and of the labelled by position."""
    rng = np.random.default_rng(seed)
    accuracy = 90 + rng.normal(size=N)
    scores = {"helps": accuracy + 0.4 * rng.normal(size=N), "down": -accuracy + 0.4 * rng.normal(size=N)}
    scores |= {f"noise {at}": rng.normal(size=N) for at in range(3)}
    return scores, accuracy, dict(enumerate(accuracy[:LABELLED]))


def test_labels_tell_which_scores_count_and_which_way() -> None:
    scores, accuracy, labels = _toy(0)
    learned = aggregate_learned(scores, labels).values[LABELLED:]
    unlearned = aggregate(scores, higher_is_better=dict.fromkeys(scores, True)).values[LABELLED:]
    assert spearmanr(learned, accuracy[LABELLED:]).statistic > 0.85
    assert spearmanr(unlearned, accuracy[LABELLED:]).statistic < 0.3


def test_it_is_the_mean_of_predictors_of_the_labels_order() -> None:
    scores, accuracy, labels = _toy(1)
    found = aggregate_learned(scores, labels, ranked=["helps"], seed=3)
    inputs = np.column_stack([ranks(values) if name == "helps" else values for name, values in scores.items()])
    means = [
        Predictor(kind, seed=3).fit(inputs[:LABELLED], normal_scores(accuracy[:LABELLED])).predict(inputs).mean
        for kind in KINDS
    ]
    assert found.values == pytest.approx(np.mean(means, axis=0))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), power=st.sampled_from([1, 3]), sign=st.sampled_from([1, -1]))
def test_only_the_orders_of_scores_and_labels_matter(seed: int, power: int, sign: int) -> None:
    scores, _, labels = _toy(seed)
    curved = {at: np.exp(label / 10) for at, label in labels.items()}
    other = {name: sign * values**power for name, values in scores.items()}
    one = aggregate_learned(scores, labels, kinds=["ridge"]).values
    assert aggregate_learned(other, curved, kinds=["ridge"]).values == pytest.approx(one)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), share=st.floats(0, 0.5))
def test_nan_is_counted_and_only_what_has_no_score_has_no_value(seed: int, share: float) -> None:
    scores, _, labels = _toy(seed)
    lost = np.random.default_rng(seed).random((N, len(scores))) < share
    lost[:2] = lost[-2:] = True
    found = aggregate_learned(
        {name: np.where(lost[:, at], np.nan, values) for at, (name, values) in enumerate(scores.items())},
        labels,
        kinds=["ridge"],
    )
    assert list(found.missing.values()) == lost.sum(axis=0).tolist()
    assert np.isnan(found.values).tolist() == lost.all(axis=1).tolist()
    assert sorted(found.order.tolist()) == np.flatnonzero(~lost.all(axis=1)).tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": dict(enumerate(range(9)))}, "predictor 'gradient_boosting' needs at least 10 examples, got 9"),
        ({"labels": {}}, "predictor 'gaussian_process' needs at least 4 examples, got 0; measure more"),
        ({"labels": dict.fromkeys(range(11), 91.5)}, "labels must differ for anything to be learned, got 11 times 91.5"),
        ({"labels": {3: np.nan}}, "labels must be finite, got nan at position 3; leave it out"),
        ({"labels": {-1: 90.0}}, "labels must be of positions 0 to 11, got one of -1"),
        ({"labels": {12: 90.0}}, "labels must be of positions 0 to 11, got one of 12"),
        ({"scores": {"a": np.arange(12), "b": [1.0]}}, "one value for each architecture, got {'a': 12, 'b': 1}"),
        ({"scores": {"a": np.zeros((12, 2))}}, "must have shape (n,), got (12, 2)"),
        ({"scores": {}}, "there must be scores and predictors, got 0 and 2"),
        ({"kinds": []}, "there must be scores and predictors, got 1 and 0"),
        ({"kinds": ["lasso"]}, "no predictor is named 'lasso'"),
        ({"ranked": ["b"]}, "no score is named 'b'"),
        ({"scores": {"a": [np.inf] * 12}, "ranked": []}, "finite or NaN, got an infinite 'a'; rank it"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(change: dict, message: str) -> None:
    given = {"scores": {"a": np.arange(12.0)}, "labels": dict(enumerate(range(12))), **change}
    with pytest.raises(ValueError) as caught:
        aggregate_learned(given.pop("scores"), given.pop("labels"), **given)
    assert message in str(caught.value)
