"""Optuna's samplers as strategies, and our strategies as samplers of Optuna."""

from __future__ import annotations

import random
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

import nas
from nas.runtime import stream
from nas.strategies import STRATEGIES, StrategySampler, make_strategy, suggest
from nas.strategies.adapted import DRAWS
from nas.strategies.optuna_strategy import RULES, SAMPLERS, SamplerEntry, optuna_strategy
from search_spaces import Architecture, Categorical, Constraint, Integer, SearchSpace, make_space
from tests.conformance import check_exhausts, check_replay, check_strategy, made_up_losses, visited
from tests.nas.strategies.test_strategies import AWKWARD, LINE, POOLING, WIDE, intricate
from tests.search_spaces.core.test_space import spaces

CHEAP = ["optuna:nsga2", "optuna:nsga3", "optuna:cmaes"]
TINY = SearchSpace(
    "tiny", (Categorical("op", ("conv", "pool", "skip")), Integer("kernel", (3, 5), when={"op": ("conv", "pool")}))
)


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def _make(name: str) -> Callable[[SearchSpace, np.random.Generator], object]:
    return lambda space, rng: make_strategy(name, space, rng)


# --- samplers as strategies ---


@pytest.mark.parametrize("name", CHEAP)
@pytest.mark.parametrize("space", AWKWARD, ids=lambda space: space.name)
def test_samplers_keep_the_contract_of_strategies(name: str, space: SearchSpace) -> None:
    check_strategy(_make(name), space)


def test_tpe_keeps_the_contract_of_strategies() -> None:
    check_strategy(_make("optuna:tpe"), TINY)


def test_the_gaussian_process_proposes_everything_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.strategies.adapted.DRAWS", 1)
    space = SearchSpace("few", (Integer("a", (1, 2, 4, 8)), Categorical("b", ("x", "y", "z"))))
    for objectives in (1, 2):
        check_exhausts(_make("optuna:gp"), space, 1, objectives)


@given(spaces(), st.sampled_from(["optuna:tpe", *CHEAP]), st.integers(1, 3), st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_in_random_spaces_every_architecture_comes_once(
    drawn: tuple[SearchSpace, object], name: str, objectives: int, seed: int
) -> None:
    space, _ = drawn
    strategy = make_strategy(name, space, np.random.default_rng(seed))
    archs = visited(strategy, [3] * 15, objectives)
    assert len(archs) == len(set(archs)) == min(45, space.size)
    for arch in archs:
        space.check(arch)


def _first(names: list[str], seed: int) -> dict[str, list[str]]:
    """The first keys that strategies ask for; runs in any process."""
    found = {}
    for name in names:
        strategy = make_strategy(name, make_space("resnet50-pooling"), np.random.default_rng(seed))
        found[name] = [
            arch.key
            for arch in visited(strategy, [4] * (3 if name == "optuna:gp" else 5 if name == "optuna:tpe" else 15))
        ]
    return found


def test_same_seed_same_architectures_in_another_process() -> None:
    names = [name for name in STRATEGIES if name.startswith("optuna:")]
    here = _first(names, seed=3)
    random.seed(1)
    with get_context("spawn").Pool(1) as pool:
        assert here == pool.apply(_first, (names, 3))
    other = _first(names, seed=4)
    assert all(here[name] != other[name] for name in names)


@pytest.mark.parametrize("name", ["optuna:tpe", *CHEAP])
def test_nothing_comes_twice_in_a_large_space_and_asking_ahead_changes_nothing(name: str) -> None:
    asked = {}
    for most in (1, 64):
        strategy, asked[most] = make_strategy(name, WIDE, np.random.default_rng(5)), list[Architecture]()
        while len(asked[most]) < 60:
            archs = strategy.ask(min(strategy.ahead, most, 60 - len(asked[most])))
            strategy.tell(archs, made_up_losses(archs, 1))
            asked[most] += archs
    assert asked[1] == asked[64] and len(set(asked[1])) == 60


@pytest.mark.parametrize(
    ("name", "trials", "better"),
    [("optuna:tpe", 60, 10), ("optuna:nsga2", 250, 5), ("optuna:cmaes", 120, 10), ("optuna:gp", 22, 10)],
)
def test_samplers_learn_from_what_they_are_told(name: str, trials: int, better: float) -> None:
    def worth(archs: list[Architecture]) -> np.ndarray:
        return np.array([[sum((value - 3) ** 2 for value in arch.values())] for arch in archs], dtype=float)

    strategy, chance = (make_strategy(each, WIDE, np.random.default_rng(0)) for each in (name, "random"))
    for _ in range(trials):
        archs = strategy.ask(1)
        strategy.tell(archs, worth(archs))
    assert worth(archs)[0, 0] + better < worth(chance.ask(trials)).mean()  # the last one is better than one at random


class _Stuck(BaseSampler):
    """Proposes one value for ever."""

    def __init__(self, value: int) -> None:
        self.value, self.ended, self.asked = value, list[tuple[TrialState, dict[str, float]]](), 0

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict:
        return {}

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict) -> dict:
        return {}

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: object) -> int:
        self.asked += 1
        return self.value

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: object) -> None:
        self.ended.append((state, trial.constraints))


@pytest.mark.parametrize("again", [False, True])
def test_a_sampler_that_repeats_itself_is_asked_a_few_times_only(again: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = _Stuck(7)
    monkeypatch.setitem(SAMPLERS, "stuck", SamplerEntry(lambda seed: stuck, 1, again=again))  # type: ignore[arg-type]
    strategy = optuna_strategy(LINE, np.random.default_rng(0), sampler="stuck")
    archs = visited(strategy, [1] * 10, 1)
    assert len(set(archs)) == 10 and LINE.architecture({"x": 7}) in archs
    assert stuck.asked <= 10 * DRAWS
    failed = sum(state == TrialState.FAIL for state, _ in stuck.ended)
    assert failed == (0 if again else stuck.asked - 1)


def test_a_sampler_is_told_which_proposals_break_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = _Stuck(7)
    monkeypatch.setitem(SAMPLERS, "stuck", SamplerEntry(lambda seed: stuck, 1))  # type: ignore[arg-type]
    rules = (Constraint("even", lambda v: v["x"] % 2 == 0), Constraint("large", lambda v: v["x"] > 50))
    strategy = optuna_strategy(SearchSpace("line", LINE.choices, rules), np.random.default_rng(0), sampler="stuck")
    archs = visited(strategy, [1] * 10, 2)
    assert len(set(archs)) == 10 and all(arch["x"] > 50 and arch["x"] % 2 == 0 for arch in archs)
    assert (TrialState.COMPLETE, {RULES: 2.0}) in stuck.ended and (TrialState.COMPLETE, {RULES: -1.0}) in stuck.ended


@pytest.mark.parametrize("name", ["optuna:tpe", "optuna:gp", *CHEAP])
def test_constant_losses_and_a_space_of_one_choice_do_no_harm(name: str) -> None:
    strategy = make_strategy(name, LINE, np.random.default_rng(0))
    for _ in range(13):
        strategy.tell(strategy.ask(1), [[1.0]])


def test_of_several_objectives_one_that_takes_one_is_told_how_many_dominate() -> None:
    strategy = make_strategy("optuna:cmaes", LINE, np.random.default_rng(0))
    archs = strategy.ask(4)
    strategy.tell(archs, [[1.0, 1.0], [2.0, 2.0], [0.0, 3.0], [3.0, 3.0]])
    study = strategy._proposer._study  # type: ignore[attr-defined]
    assert [trial.values for trial in study.trials] == [[0.0], [1.0], [0.0], [1.0]]


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.strategies.named.find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r"`strategy` optuna:cmaes needs a package: pip install 'nas-toolkit\[cmaes\]'"
    ):
        make_strategy("optuna:cmaes", LINE, np.random.default_rng(0))


def test_global_random_states_and_optunas_words_are_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    optuna.logging.set_verbosity(optuna.logging.INFO)
    before = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    for name in ("optuna:tpe", *CHEAP):
        visited(make_strategy(name, TINY, np.random.default_rng(0)), [2] * 4)
    assert before == (random.getstate(), np.random.get_state()[1].tolist())  # type: ignore[index]
    assert optuna.logging.get_verbosity() == optuna.logging.INFO
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["optuna:tpe", "nni:evolution"])
def test_a_search_keeps_its_limits_and_ends_the_same_after_a_stop(name: str, tmp_path: Path) -> None:
    def searched(folder: str, trials: int) -> list[str]:
        study = nas.search(
            "nas-bench-macro",
            evaluate=lambda arch: {"score": float(sum(arch.values()))},
            objectives={"score": "max", "macs": "min"},
            strategy=name,
            limits={"macs": 60e6},
            trials=trials,
            out=tmp_path / folder,
        )
        assert study.trials["macs"].max() <= 60e6
        return study.trials["label"].tolist()

    whole = searched("whole", 14)
    assert searched("stopped", 8) == whole[:8] and searched("stopped", 14) == whole
    assert len(set(whole)) == 14


# --- strategies as samplers ---


def _losses(arch: Architecture) -> tuple[float, float]:
    first, second = made_up_losses([arch])[0].tolist()
    return -first, second


def _objective(space: SearchSpace) -> Callable[[Trial], tuple[float, float]]:
    return lambda trial: _losses(suggest(trial, space))


def _study(sampler: BaseSampler) -> Study:
    return optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)


def _archs(study: Study, space: SearchSpace) -> list[Architecture]:
    return [suggest(optuna.trial.FixedTrial(trial.params), space) for trial in study.trials]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["nsga2", "evolution", "random", "coarse-to-fine", "exhaustive"])
@pytest.mark.parametrize("space", [intricate(), POOLING], ids=lambda space: space.name)
def test_a_sampler_tries_what_its_strategy_asks_for_and_ends_with_the_space(name: str, space: SearchSpace) -> None:
    study = _study(StrategySampler(space, name, seed=2))
    study.optimize(_objective(space), n_trials=1000)
    asked = visited(make_strategy(name, space, stream(2, "strategy")), [1] * space.size)
    assert _archs(study, space) == asked and len(asked) == space.size
    with pytest.raises(ValueError, match="every architecture of .* was proposed; end the study, or widen the space"):
        suggest(study.ask(), space)


def test_choices_are_suggested_by_their_own_names_and_other_parameters_by_another_sampler() -> None:
    study = _study(StrategySampler(TINY, "nsga2", others=RandomSampler(seed=0)))

    def objective(trial: Trial) -> tuple[float, float]:
        values: dict[str, object] = {"op": trial.suggest_categorical("op", ["skip", "conv", "pool"])}
        if values["op"] != "skip":
            values["kernel"] = trial.suggest_int("kernel", 3, 5, step=2)
        assert 0 < trial.suggest_float("learning_rate", 1e-3, 1.0, log=True) <= 1
        return _losses(TINY.architecture(values))

    study.optimize(objective, n_trials=10)
    assert len(study.trials) == TINY.size
    assert len({trial.params["learning_rate"] for trial in study.trials}) == TINY.size


def test_a_sampler_refuses_what_does_not_fit_its_space() -> None:
    trial = _study(StrategySampler(TINY)).ask()
    with pytest.raises(ValueError, match="no choice of 'tiny' is named 'kernle'; did you mean kernel"):
        trial.suggest_int("kernle", 3, 5)
    with pytest.raises(ValueError, match="the distribution of 'op' must hold all values of the choice, got .*'x'"):
        trial.suggest_categorical("op", ["x", "y"])
    study = _study(StrategySampler(TINY, "exhaustive"))
    for _ in range(5):
        trial = study.ask()
        if trial.number < 4:
            study.tell(trial, _objective(TINY)(trial))
    with pytest.raises(ValueError, match="'kernel' does not exist in the architecture of trial 4"):
        trial.suggest_int("kernel", 3, 5)
    with pytest.raises(ValueError, match="must hold all values of the choice"):
        _study(StrategySampler(TINY, "exhaustive")).ask().suggest_int("kernel", 4, 5)
    with pytest.raises(ValueError, match="no strategy is named 'nsga'"):
        StrategySampler(TINY, "nsga")


def test_what_fails_is_not_tried_again_and_tells_nothing() -> None:
    study = _study(StrategySampler(POOLING, "nsga2"))

    def objective(trial: Trial) -> tuple[float, float]:
        arch = suggest(trial, POOLING)
        if trial.number % 4 == 0:
            raise RuntimeError("out of memory")
        if trial.number % 4 == 1:
            raise optuna.TrialPruned
        return (float("inf"), 0.0) if trial.number % 4 == 2 else _losses(arch)

    study.optimize(objective, n_trials=100, catch=RuntimeError)
    assert len(set(_archs(study, POOLING))) == len(study.trials) == 36


def test_what_was_tried_before_or_elsewhere_is_known() -> None:
    first = _study(RandomSampler(seed=0))
    first.optimize(_objective(POOLING), n_trials=8)
    tried = set(_archs(first, POOLING))
    second = _study(StrategySampler(POOLING, "nsga2"))
    second.add_trials(first.trials)
    second.enqueue_trial(first.trials[0].params)  # known already
    second.optimize(_objective(POOLING), n_trials=100)
    assert len(second.trials) == 8 + 1 + 36 - len(tried)
    assert set(_archs(second, POOLING)) == set(POOLING.enumerate())


def test_an_enqueued_trial_takes_no_architecture_of_the_strategys() -> None:
    study = _study(StrategySampler(LINE, "exhaustive"))
    study.enqueue_trial({"x (position)": 50})
    study.optimize(_objective(LINE), n_trials=3)
    assert [arch["x"] for arch in _archs(study, LINE)] == [50, 0, 1]


def test_threads_share_a_strategy() -> None:
    study = _study(StrategySampler(POOLING, "evolution"))
    study.optimize(_objective(POOLING), n_trials=30, n_jobs=2)
    assert len(set(_archs(study, POOLING))) == 30


def test_suggest_works_with_samplers_of_optuna_and_says_which_rule_they_break() -> None:
    space = intricate()
    study = _study(RandomSampler(seed=0))
    study.optimize(_objective(space), n_trials=40, catch=ValueError)
    states = {trial.state for trial in study.trials}
    assert states == {TrialState.COMPLETE, TrialState.FAIL}
    with pytest.raises(ValueError, match="must keep the rule: kernel 5 is only for convolutions"):
        suggest(optuna.trial.FixedTrial({"op": "pool", "kernel (position)": 1, "extra": "a"}), space)  # type: ignore[arg-type]
    check_replay(_make("optuna:nsga2"), space)
