"""Bayesian optimisation: its Gaussian process, its criterion, and what it makes of signals and of awkward trials."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from nas.objectives import hypervolume
from nas.strategies import STRATEGIES, Bayesian, Knowledge, RandomSearch, Strategy, make_strategy
from nas.strategies.belief import FAILED
from nas.strategies.features import Features, normal_scores
from nas.strategies.gaussian_process import Posterior, Prior
from nas.strategies.improvement import hypervolume_gain, shortfall
from search_spaces import Architecture, Categorical, Integer, SearchSpace, make_space
from tests.conformance import check_strategy, made_up_losses, visited

POOLING = make_space("resnet20-pooling")
CUBE = SearchSpace("cube", tuple(Categorical(f"c{at}", tuple("abcd")) for at in range(5)))
WIDE = SearchSpace("wide", tuple(Integer(f"w{at}", tuple(range(8))) for at in range(10)))
EFFECTS = np.random.default_rng(0).normal(size=(5, 4))
PAIRS = np.random.default_rng(1).normal(size=(4, 4))


def _loss(archs: Sequence[Architecture]) -> np.ndarray:
    """Main effects of five choices, and what the first two do together."""
    codes = CUBE.encode(archs)
    return EFFECTS[np.arange(5), codes].sum(axis=1) + PAIRS[codes[:, 0], codes[:, 1]]


def _best(strategy: Strategy, loss: Callable[[Sequence[Architecture]], np.ndarray], trials: int) -> float:
    found = []
    for _ in range(trials):
        archs = strategy.ask(1)
        found.append(loss(archs))
        strategy.tell(archs, found[-1][:, None])
    return float(np.min(found))


def _problem(n: int, seed: int) -> tuple[Prior, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    features = Features(WIDE, [WIDE.sample(rng)], None)
    archs = [WIDE.sample(rng) for _ in range(n)]
    return Prior(features.groups), features(archs, features.signals(archs)), rng.normal(size=n)


# --- the Gaussian process ---


@pytest.mark.parametrize("seed", range(3))
def test_the_gradient_of_the_evidence_is_its_slope(seed: int) -> None:
    prior, features, targets = _problem(15, seed)
    at = prior.mean + 0.5 * np.random.default_rng(seed).normal(size=len(prior.mean))
    value, gradient = prior.energy(at, features, targets)
    assert np.isfinite(value)
    np.testing.assert_allclose(
        gradient, approx_fprime(at, lambda p: prior.energy(p, features, targets)[0], 1e-6), atol=1e-4
    )


def test_learning_finds_what_matters_and_what_does_not() -> None:
    rng = np.random.default_rng(0)
    archs = [WIDE.sample(rng) for _ in range(80)]
    features = Features(WIDE, archs, None)
    prior, read = Prior(features.groups), features(archs, features.signals(archs))
    targets = np.array([arch["w3"] for arch in archs], dtype=float) - 3.5
    kernel = prior.kernel(prior.learned(read, targets / 2.3, prior.mean))
    weight = {at: kernel.weights[features.groups == at][0] for at in range(20)}
    assert max(weight, key=lambda at: weight[at]) == 7  # positions of w3: a value and a position for each choice
    assert kernel.noise < 0.1


def test_adding_trials_and_replacing_candidates_is_what_doing_it_anew_is() -> None:
    prior, features, targets = _problem(40, seed=1)
    kernel, (trials, candidates) = prior.kernel(prior.mean), (features[:25], features[25:])
    whole, grown = Posterior(kernel, trials, 0), Posterior(kernel, trials[:10], 15)
    whole.watch(candidates)
    grown.watch(candidates[::-1])
    for row in trials[10:20]:
        grown.add(row)
    grown.replace(np.arange(15), candidates)
    for row in trials[20:]:
        grown.add(row)
    assert grown.room == whole.room == 0
    np.testing.assert_allclose(grown.mean(targets[:25]), whole.mean(targets[:25]))
    np.testing.assert_allclose(grown.deviation, whole.deviation)
    mean, deviation = whole.expected(candidates, targets[:25])
    np.testing.assert_allclose(mean, whole.mean(targets[:25]))
    np.testing.assert_allclose(deviation, whole.deviation)


def test_features_have_variance_1_over_uniform_values() -> None:
    space = SearchSpace(
        "mixed", (Categorical("op", ("a", "b", "c")), Integer("x", (1, 2, 5)), Categorical("more", ("a", "b", "c")))
    )
    archs = list(space.enumerate())
    knowledge = Knowledge(lambda archs: np.array([[float(arch["x"]), np.nan, np.inf] for arch in archs]))  # type: ignore[arg-type]
    features = Features(space, archs, knowledge)
    read = features(archs, features.signals(archs))
    assert np.isfinite(read).all()
    variance = np.bincount(features.groups, (read**2).mean(axis=0) - read.mean(axis=0) ** 2)
    np.testing.assert_allclose(variance[:5], 1.0)  # op, value and position of x, more, what op and more add up to
    assert variance[5] > 0.5 and variance[6:].tolist() == [0.0, 0.0]


def test_normal_scores_share_ranks_and_keep_nan() -> None:
    scores = normal_scores(np.array([-9.0, 1.0, 2.0, 2.5, 99.0, np.nan]), np.array([1.0, 2.0, 2.0, 3.0]))
    assert np.isnan(scores[-1]) and (np.diff(scores[:-1]) >= 0).all()
    np.testing.assert_allclose(scores[2], 0.0, atol=1e-12)
    np.testing.assert_allclose(scores[0], -scores[4])


# --- the criterion ---


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_what_is_certain_gains_the_hypervolume_that_it_adds(objectives: int) -> None:
    rng = np.random.default_rng(objectives)
    front, points = np.round(rng.random((6, objectives)), 1), rng.random((20, objectives)) * 1.2
    reference = np.full(objectives, 1.1)
    gains = [lambda level, at=at: np.maximum(level - points[:, at], 0.0) for at in range(objectives)]
    before = hypervolume(front, reference)
    added = [hypervolume(np.vstack([front, point]), reference) - before for point in points]
    np.testing.assert_allclose(hypervolume_gain(front, reference.tolist(), gains), added, atol=1e-12)


def test_what_is_uncertain_gains_what_draws_add_on_average() -> None:
    rng = np.random.default_rng(0)
    front, reference = np.array([[0.2, 0.8], [0.5, 0.5], [0.8, 0.1]]), [1.0, 1.0]
    mean, deviation = rng.random((3, 2)), 0.1 + 0.3 * rng.random((3, 2))
    gains = [lambda level, at=at: shortfall(np.array([level]), mean[:, at], deviation[:, at])[:, 0] for at in range(2)]
    found = hypervolume_gain(front, reference, gains)
    before = hypervolume(front, reference)
    for at in range(3):
        draws = mean[at] + deviation[at] * rng.normal(size=(4000, 2))
        added = [hypervolume(np.vstack([front, draw]), reference) - before for draw in draws]
        assert abs(found[at] - np.mean(added)) < 4 * np.std(added) / np.sqrt(4000)


# --- the strategy ---


def test_it_finds_the_best_of_a_thousand_in_fifty_trials() -> None:
    archs = list(CUBE.enumerate())
    losses = np.sort(_loss(archs))
    found = [_best(Bayesian(CUBE, np.random.default_rng(seed)), _loss, 50) for seed in range(3)]
    chance = [_best(RandomSearch(CUBE, np.random.default_rng(seed)), _loss, 50) for seed in range(3)]
    assert np.mean(found) <= losses[1] and np.mean(chance) > losses[3]


@pytest.mark.parametrize("name", [name for name, entry in STRATEGIES.items() if entry.knows])
def test_the_contract_holds_with_signals_and_an_exact_objective(name: str) -> None:
    def signals(archs: Sequence[Architecture]) -> np.ndarray:
        return np.column_stack([made_up_losses(archs)[:, 1], np.full(len(archs), np.nan)])

    knowledge = Knowledge(signals, exact={1: 0})
    space = SearchSpace("small", (Integer("x", (1, 2, 3, 4)), Categorical("op", ("a", "b", "c"))))
    check_strategy(lambda space, rng: make_strategy(name, space, rng, knowledge), space)


def test_a_signal_is_trusted_as_far_as_the_trials_bear_it_out() -> None:
    rng = np.random.default_rng(0)
    noise = dict(zip(CUBE.enumerate(), rng.normal(size=(CUBE.size, 2)).tolist(), strict=True))

    def found(signals: Callable[[Sequence[Architecture]], np.ndarray] | None, seed: int) -> float:
        knowledge = None if signals is None else Knowledge(signals)
        return _best(Bayesian(CUBE, np.random.default_rng(seed), knowledge), _loss, 16)

    without, useful, useless = (
        np.mean([found(signals, seed) for seed in range(4)])
        for signals in (
            None,
            lambda archs: np.exp(-_loss(archs))[:, None],
            lambda archs: np.array([noise[arch] for arch in archs]),
        )
    )
    best = _loss(list(CUBE.enumerate())).min()
    assert useful < best + 0.2 < without
    assert useless < without + 0.8


def test_an_exact_objective_keeps_it_from_what_can_add_nothing() -> None:
    space = SearchSpace("line", (Integer("x", tuple(range(50))),))
    knowledge = Knowledge(lambda archs: np.array([[float(arch["x"])] for arch in archs]), exact={1: 0})  # type: ignore[arg-type]
    strategy = Bayesian(space, np.random.default_rng(0), knowledge)
    first = [space.architecture({"x": x}) for x in (0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 49)]
    strategy.tell(first, [[1.0 - (arch["x"] == 20), float(arch["x"])] for arch in first])  # type: ignore[arg-type]
    asked = [strategy.ask(1)[0]["x"] for _ in range(5)]
    assert max(asked) < 20  # type: ignore[type-var, operator]


def test_failed_trials_are_not_asked_again_and_little_like_them_is() -> None:
    def loss(archs: Sequence[Architecture]) -> np.ndarray:
        return np.where([arch["c0"] == "a" for arch in archs], 1e30, _loss(archs))

    assert loss(list(CUBE.enumerate())).max() > FAILED
    strategy = Bayesian(CUBE, np.random.default_rng(0))
    asked = []
    for _ in range(60):
        archs = strategy.ask(1)
        strategy.tell(archs, loss(archs)[:, None])
        asked += archs
    assert len(set(asked)) == 60
    assert sum(arch["c0"] == "a" for arch in asked[20:]) <= 4
    good = [value for value in np.sort(loss(list(CUBE.enumerate())))[:3]]
    assert loss(asked).min() in good


@pytest.mark.parametrize("losses", [[0.0], [1e30], [1e30, 0.0], [5.0, 5.0]])
def test_targets_that_tell_nothing_are_no_obstacle(losses: list[float]) -> None:
    strategy = Bayesian(CUBE, np.random.default_rng(0))
    asked = []
    for _ in range(25):
        archs = strategy.ask(1)
        strategy.tell(archs, [losses])
        asked += archs
    assert len(set(asked)) == 25


@pytest.mark.parametrize("trials", [0, 1, 2])
def test_fewer_trials_than_anything_can_be_learned_from(trials: int) -> None:
    strategy = Bayesian(CUBE, np.random.default_rng(0), start=1)
    archs = strategy.ask(3)[:trials]
    if archs:
        strategy.tell(archs, made_up_losses(archs, 1))
    assert len(set(strategy.ask(5)) - set(archs)) == 5


def test_one_column_and_one_value_are_enough() -> None:
    line = SearchSpace("line", (Integer("x", tuple(range(101))),))

    def loss(archs: Sequence[Architecture]) -> np.ndarray:
        return (line.encode(archs)[:, 0] - 37.0) ** 2

    assert _best(Bayesian(line, np.random.default_rng(0)), loss, 25) == 0.0
    assert len(visited(Bayesian(SearchSpace("one", (Integer("x", (1,)),)), np.random.default_rng(0)), [2])) == 1


def test_a_round_is_asked_from_the_same_knowledge() -> None:
    def make() -> Bayesian:
        return Bayesian(WIDE, np.random.default_rng(0), start=6, together=5, explore=False)

    one, other = make(), make()
    assert one.ahead == 6
    for strategy in (one, other):
        first = strategy.ask(6)
        strategy.tell(first, made_up_losses(first))
        assert strategy.ahead == 5
    begun, same = one.ask(2), other.ask(2)
    assert begun == same and one.ahead == 3
    one.tell(begun, made_up_losses(begun))
    assert one.ask(3) == other.ask(3)
    assert one.ahead == 5
    other.tell(begun, -made_up_losses(begun))
    assert one.ask(5) != other.ask(5)


def test_unlearned_signals_of_another_shape_are_refused() -> None:
    strategy = Bayesian(CUBE, np.random.default_rng(0), Knowledge(lambda archs: np.zeros(len(archs))))
    with pytest.raises(ValueError, match=r"`signals` must give 1024 architectures numbers of shape \(1024, s\)"):
        strategy.ask(6)


def test_errors_offer_a_way_out() -> None:
    with pytest.raises(ValueError, match="`start` must be at least 1, got 0"):
        Bayesian(CUBE, np.random.default_rng(0), start=0)
    with pytest.raises(ValueError, match="`together` must be at least 1, got 0"):
        Bayesian(CUBE, np.random.default_rng(0), together=0)
