"""Rankings from several scores, and accuracy from few examples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from estimators.accuracy.aggregation import aggregate, ranks
from estimators.accuracy.predictor import PREDICTORS, Predictor, input_weights, normal_scores, one_hot
from search_spaces import make_space

pytestmark = pytest.mark.filterwarnings("error")
UP = {"a": True, "b": True, "c": True, "down": False}


# --- without labels ---


def test_ranks_are_fractions_and_share_ties() -> None:
    assert ranks([3.0, 1.0, 2.0, 2.0]).tolist() == [1.0, 0.25, 0.625, 0.625]
    assert ranks([3.0, 1.0], higher_is_better=False).tolist() == [0.5, 1.0]
    assert ranks([-np.inf, 0.0, np.inf]).tolist() == pytest.approx([1 / 3, 2 / 3, 1])


def test_nan_is_kept_out_of_rankings_and_counted() -> None:
    assert np.array_equal(ranks([np.nan, 5.0, 4.0]), [np.nan, 1.0, 0.5], equal_nan=True)
    found = aggregate({"a": [np.nan, 5.0, 4.0], "b": [np.nan, 1.0, np.nan]}, higher_is_better=UP)
    assert found.missing == {"a": 1, "b": 2}
    assert np.isnan(found.values[0]) and found.order.tolist() == [1, 2]


def test_the_aggregate_is_the_geometric_mean_of_ranks() -> None:
    found = aggregate({"a": [1.0, 2.0, 3.0, 4.0], "down": [1.0, 2.0, 3.0, 4.0]}, higher_is_better=UP)
    assert found.values == pytest.approx([(a * b) ** 0.5 / 4 for a, b in ((1, 4), (2, 3), (3, 2), (4, 1))])
    assert found.order.tolist() == [1, 2, 0, 3]


def test_a_group_has_one_vote() -> None:
    scores = {"a": [1.0, 2.0, 3.0], "b": [1.0, 2.0, 3.0], "c": [3.0, 1.0, 2.0]}
    grouped = aggregate(scores, higher_is_better=UP, groups=[("a", "b")])
    alone = aggregate({"a": scores["a"], "c": scores["c"]}, higher_is_better=UP)
    assert grouped.values == pytest.approx(alone.values)
    assert not np.allclose(grouped.values, aggregate(scores, higher_is_better=UP).values)


@settings(max_examples=30, deadline=None)
@given(values=st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=12), seed=st.integers(0, 99))
def test_only_the_order_of_a_score_matters(values: list[float], seed: int) -> None:
    a = np.array(values).round(3)
    b = np.random.default_rng(seed).normal(size=len(a))
    one = aggregate({"a": a, "b": b}, higher_is_better=UP)
    other = aggregate({"a": np.arctan(a / 1e6) * 3 + 1, "down": -b}, higher_is_better=UP)
    assert one.values == pytest.approx(other.values)


@pytest.mark.parametrize(
    ("scores", "options", "message"),
    [
        ({}, {}, "`scores` must hold at least one score, got none"),
        ({"a": [1.0], "b": [1.0, 2.0]}, {}, "every score needs one value for each architecture, got {'a': 1, 'b': 2}"),
        ({"d": [1.0]}, {}, "must tell the direction of every score, got none for 'd'"),
        ({"a": [1.0]}, {"groups": [["b"]]}, "no score is named 'b'"),
        ({"a": [1.0]}, {"groups": [["a"], ["a"]]}, "each score may be in one group, got 'a' twice"),
        ({"a": [[1.0]]}, {}, r"`values` must have shape (n,), got (1, 1)"),
    ],
)
def test_bad_scores_are_refused(scores: dict, options: dict, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        aggregate(scores, higher_is_better=UP, **options)
    assert message in str(caught.value)


# --- from few labels ---


def _examples(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4))
    return x, 90 + 2 * x[:, 0] - x[:, 1] + 0.1 * rng.normal(size=n)


@pytest.mark.parametrize("kind", PREDICTORS)
def test_predictors_learn_and_know_how_sure_they_are(kind: str) -> None:
    (x, y), (x_new, y_new) = _examples(60), _examples(80, seed=1)
    predictor = Predictor(kind, seed=3).fit(x, y)
    found = predictor.predict(x_new)
    assert found.mean.shape == found.std.shape == (80,) and (found.std > 0).all()
    assert spearmanr(found.mean, y_new).statistic > (0.85 if kind == "gradient_boosting" else 0.93)
    assert np.array_equal(Predictor(kind, seed=3).fit(x, y).predict(x_new).mean, found.mean)
    if kind in ("ridge", "gaussian_process"):
        assert predictor.predict(x_new * 20).std.mean() > 2 * found.std.mean()


@pytest.mark.parametrize("kind", PREDICTORS)
@pytest.mark.parametrize("noise", [0.005, 1.0])
def test_the_unit_of_the_targets_makes_no_difference(kind: str, noise: float) -> None:
    (x, _), (x_new, _) = _examples(60), _examples(20, seed=1)
    y = 90 + 2 * x[:, 0] - x[:, 1] + noise * np.random.default_rng(2).normal(size=60)
    percent, fraction = (Predictor(kind).fit(x, targets).predict(x_new) for targets in (y, y / 100))
    assert 100 * fraction.mean == pytest.approx(percent.mean)
    assert 100 * fraction.std == pytest.approx(percent.std)


@pytest.mark.parametrize("kind", ["ridge", "gaussian_process"])
def test_uncertainty_covers_the_truth(kind: str) -> None:
    (x, y), (x_new, y_new) = _examples(60), _examples(200, seed=1)
    found = Predictor(kind).fit(x, y).predict(x_new)
    inside = np.abs(y_new - found.mean) < 2 * found.std
    assert 0.85 < inside.mean() <= 1


def test_unknown_inputs_are_filled_in() -> None:
    x, y = _examples(60)
    x[::5, 3] = np.nan
    full = Predictor("ridge").fit(x, y).predict(x)
    assert np.isfinite(full.mean).all() and spearmanr(full.mean, y).statistic > 0.95


def test_the_weight_of_a_supernets_accuracy_is_learned() -> None:
    rng = np.random.default_rng(0)
    x, y = _examples(80)
    plain = {"size": x[:, 2]}
    good = input_weights("ridge", {**plain, "supernet": y + rng.normal(size=80)}, y)
    opposite = input_weights("ridge", {**plain, "supernet": -y}, y)
    useless = input_weights("ridge", {**plain, "size": x[:, 0], "supernet": rng.normal(size=80)}, y)
    assert good["supernet"] > 0.5 > abs(good["size"]) and opposite["supernet"] > 0.5
    assert abs(useless["supernet"]) < 0.1 < useless["size"]


def test_one_hot_columns_tell_architectures_apart() -> None:
    space = make_space("resnet20-pooling")
    archs = list(space.enumerate())
    columns = one_hot(space, archs)
    assert len({tuple(row) for row in np.column_stack(list(columns.values()))}) == 36
    assert columns["pools[4]=1"].tolist() == [float(4 in arch["pools"]) for arch in archs]  # type: ignore[operator]


def test_normal_scores_keep_the_order() -> None:
    found = normal_scores([10.0, 91.0, 90.0])
    assert found.tolist() == pytest.approx([-0.967422, 0.967422, 0.0], abs=1e-6)
    assert normal_scores([10.0, np.nan, 91.0, 90.0]).tolist() == pytest.approx(
        [-0.967422, np.nan, 0.967422, 0.0], abs=1e-6, nan_ok=True
    )


# --- bad input ---


@pytest.mark.parametrize("kind", PREDICTORS)
def test_fewer_examples_than_a_predictor_needs_are_refused(kind: str) -> None:
    needs = PREDICTORS[kind].needs
    x, y = _examples(needs)
    with pytest.raises(
        ValueError, match=f"predictor '{kind}' needs at least {needs} examples, got {needs - 1}; measure"
    ):
        Predictor(kind).fit(x[1:], y[1:])
    with pytest.raises(ValueError, match="measure more$" if kind == "ridge" else "measure more, or use 'ridge'$"):
        Predictor(kind).fit(x[1:], y[1:])
    assert np.isfinite(Predictor(kind).fit(x, y).predict(x).mean).all()


def test_inputs_and_targets_that_teach_nothing_are_refused() -> None:
    x, y = _examples(12)
    with pytest.raises(
        ValueError, match="targets must differ for anything to be learned, got 12 times 90; measure others"
    ):
        Predictor().fit(x, np.full(12, 90.0))
    with pytest.raises(ValueError, match="targets must be finite, got nan; leave these examples out"):
        Predictor().fit(x, np.where(y > 90, y, np.nan))
    with pytest.raises(ValueError, match="inputs must be finite or NaN, got an infinite one in column 1; give `ranks`"):
        Predictor().fit(np.where([False, True, False, False], np.inf, x), y)
    with pytest.raises(ValueError, match=r"`targets` must have shape \(12,\), one for each row of inputs; got \(11,\)"):
        Predictor().fit(x, y[1:])
    with pytest.raises(
        ValueError, match=r"`inputs` must have shape \(n, k\), a row for each architecture; got \(12,\)"
    ):
        Predictor().fit(y, y)
    with pytest.raises(ValueError, match="a predictor must learn from examples first; call `fit`"):
        Predictor().predict(x)
    with pytest.raises(ValueError, match="`inputs` must have the 4 columns of the examples, got 3"):
        Predictor().fit(x, y).predict(x[:, 1:])
    with pytest.raises(ValueError, match="no predictor is named 'lasso'"):
        Predictor("lasso")
    with pytest.raises(ValueError, match="`folds` must be 2 to the number of examples, 12, got 20; measure more, or"):
        input_weights("ridge", {"a": y}, y, folds=20)
