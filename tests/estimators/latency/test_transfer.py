"""Few measurements of a new device: what is known of others helps, what is measured decides, and bad input is named."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from estimators import KnownDevice, choose_samples, fit_latency, known_device, operation_counts
from search_spaces import make_space

WEIGHTS = np.array([[0.1, 1.0, 3.0], [0.2, 1.5, 4.0], [0.1, 0.8, 3.5], [0.3, 1.2, 2.5]])


def architectures(count: int, seed: int = 0) -> np.ndarray:
    """Counts of three operators among six, (count, 3)."""
    return np.random.default_rng(seed).multinomial(6, [0.25] * 4, size=count)[:, :3].astype(float)


def device(features: np.ndarray, weights: np.ndarray, noise: float, seed: int) -> np.ndarray:
    return (2 + features @ weights) * np.exp(noise * np.random.default_rng(seed).standard_normal(len(features)))


def test_an_exact_device_is_learned_exactly() -> None:
    features = architectures(200)
    latencies = device(features, WEIGHTS[0], 0, 0)
    chosen = choose_samples(features, 12, np.random.default_rng(0))
    predictor = fit_latency(features[chosen], latencies[chosen])
    assert predictor.predict(features) == pytest.approx(latencies, rel=0.01)


@pytest.mark.parametrize("unit", [1.0, 1000.0])
def test_known_devices_help_where_the_new_one_is_noisy(unit: float) -> None:
    features = architectures(500)
    known = [KnownDevice(features, device(features, weights, 0.02, at)) for at, weights in enumerate(WEIGHTS[1:])]
    truth = device(features, WEIGHTS[0], 0, 0)
    with_known, without = [], []
    for seed in range(10):
        chosen = np.random.default_rng(seed).permutation(500)[:8]
        measured = unit * device(features, WEIGHTS[0], 0.3, seed)[chosen]
        for kept, given_known in ((with_known, known), (without, [])):
            predicted = fit_latency(features[chosen], measured, given_known).predict(features)
            kept.append(spearmanr(predicted, truth)[0])
    assert np.mean(with_known) > 0.97
    assert np.mean(with_known) > np.mean(without) + 0.02


def test_measurements_outweigh_known_devices_that_are_unlike() -> None:
    features = architectures(500)
    known = [KnownDevice(features, device(features, weights[::-1], 0.02, at)) for at, weights in enumerate(WEIGHTS[1:])]
    truth = device(features, WEIGHTS[0], 0, 0)
    chosen = choose_samples(features, 40, np.random.default_rng(0))
    assert spearmanr(fit_latency(features[chosen], truth[chosen], known).predict(features), truth)[0] > 0.99


def test_the_residual_takes_up_what_is_not_linear() -> None:
    features = architectures(400)
    truth = 2 + np.maximum(features[:, 2] * 3, features[:, 1] * 2 + 4)
    rows = np.random.default_rng(0).permutation(400)
    predictor = fit_latency(features[rows[:80]], truth[rows[:80]])
    design = np.column_stack([np.ones(400), features])
    line = design @ np.linalg.lstsq(design[rows[:80]], truth[rows[:80]], rcond=None)[0]
    errors = [np.abs(found - truth)[rows[80:]].mean() for found in (predictor.predict(features), line)]
    assert errors[0] < errors[1] / 4


def test_uncertainty_covers_and_grows_away_from_the_samples() -> None:
    features = architectures(400)
    measured = device(features, WEIGHTS[0], 0.05, 3)
    predictor = fit_latency(features[:40], measured[:40])
    spread = predictor.uncertainty(features)
    inside = np.abs(predictor.predict(features) - measured)[40:] < 2 * spread[40:]
    assert 0.88 < inside.mean() <= 1
    assert predictor.uncertainty(np.array([[60.0, 0, 0]]))[0] > 2 * spread.max()


def test_counts_of_a_cell_are_those_of_its_operations() -> None:
    space = make_space("nas-bench-201")
    archs = [space.sample(np.random.default_rng(seed)) for seed in range(40)]
    counted = operation_counts(space, archs)
    names = ("skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
    assert counted.tolist() == [[space.label(arch).count(f"{name}~") for name in names] for arch in archs]
    assert counted.min() == 0 and counted.max() > 2


@pytest.mark.parametrize("name", ["nas-bench-201", "resnet-elastic", "mobilenet-elastic"])
def test_counts_tell_all_that_is_linear_in_how_often_values_are_chosen(name: str) -> None:
    """So is what was left out."""
    space = make_space(name)
    archs = [space.sample(np.random.default_rng(seed)) for seed in range(300)]
    found, codes = operation_counts(space, archs), space.encode(archs)
    design = np.column_stack([np.ones(len(archs)), found])
    for values in {column.values for column in space.columns}:
        places = [at for at, column in enumerate(space.columns) if column.values == values]
        for code in range(len(values)):
            chosen = (codes[:, places] == code).sum(axis=1)
            rebuilt = design @ np.linalg.lstsq(design, chosen, rcond=None)[0]
            assert rebuilt == pytest.approx(chosen, abs=1e-6)


def test_a_known_device_of_a_space() -> None:
    space = make_space("nas-bench-201")
    archs = [space.sample(np.random.default_rng(seed)) for seed in range(60)]
    counted = operation_counts(space, archs)
    times = 2 + counted @ [0.1, 1.0, 3.0, 0.5]
    known = [known_device(space, archs, times), known_device(space, archs, 1.1 * times)]
    assert known[0].features.tolist() == counted.tolist() and known[1].latencies == pytest.approx(1.1 * times)
    some = slice(0, 12)
    assert fit_latency(counted[some], times[some], known).predict(counted) == pytest.approx(times, rel=0.02)
    with pytest.raises(ValueError, match=re.escape("got (60, 4) and (59,)")):
        known_device(space, archs, times[:59])
    assert operation_counts(space, []).shape == (0, 4)


@settings(max_examples=20, deadline=None)
@given(count=st.integers(1, 30), seed=st.integers(0, 1000))
def test_chosen_samples_differ_and_are_no_worse_than_random(count: int, seed: int) -> None:
    features = architectures(200, seed)
    chosen = choose_samples(features, count, np.random.default_rng(seed))
    assert len(set(chosen.tolist())) == count
    assert chosen.tolist() == choose_samples(features, count, np.random.default_rng(seed)).tolist()

    def determined(rows: np.ndarray) -> float:
        design = np.column_stack([np.ones(len(rows)), features[rows]])
        return float(np.linalg.slogdet(design.T @ design + 1e-6 * np.eye(4))[1])

    random = np.random.default_rng(seed + 1).permutation(200)[:count]
    # Fewer samples than weights determine nothing: what little they do depends on the scale of the features
    assert count < 4 or determined(chosen) >= determined(random) - 1e-6


def test_fewer_samples_than_the_predictor_needs() -> None:
    features = architectures(50)
    latencies = device(features, WEIGHTS[0], 0, 0)
    with pytest.raises(ValueError, match="needs at least 5 samples, got 4; measure more$"):
        fit_latency(features[:4], latencies[:4], [KnownDevice(features, latencies)])
    with pytest.raises(ValueError, match="at least 5 samples, got 4; measure more, use fewer features, or give known"):
        fit_latency(features[:4], latencies[:4])
    with pytest.raises(ValueError, match="needs at least 12 samples, got 10"):
        fit_latency(np.zeros((10, 10)), latencies[:10])


def test_constant_targets() -> None:
    with pytest.raises(ValueError, match="latencies must differ, got 8 times 2.5; measure with a finer clock"):
        fit_latency(architectures(8), np.full(8, 2.5))


def test_other_bad_input() -> None:
    features, latencies = architectures(8), np.arange(1.0, 9.0)
    with pytest.raises(ValueError, match=re.escape("got (8, 3) and (7,)")):
        fit_latency(features, latencies[:7])
    for wrong in (np.nan, 0.0, -1.0):
        with pytest.raises(ValueError, match="positive and finite; leave out what was not measured"):
            fit_latency(features, np.r_[latencies[:7], wrong])
    with pytest.raises(ValueError, match="known devices must have the same 3 features, got 2"):
        fit_latency(features, latencies, [KnownDevice(features[:, :2], latencies)])
    with pytest.raises(ValueError, match=re.escape("must be of shape (n, 3) as those that were measured, got (8, 2)")):
        fit_latency(features, latencies).predict(features[:, :2])
    with pytest.raises(ValueError, match="`count` must be 1 to the 8 architectures there are, got 9"):
        choose_samples(features, 9, np.random.default_rng(0))
