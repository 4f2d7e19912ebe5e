"""NNI's tuners as strategies."""

from __future__ import annotations

import logging
import random
import subprocess
import sys
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.strategies import STRATEGIES, Strategy, make_strategy
from nas.strategies.adapted import DRAWS
from nas.strategies.nni_strategy import TUNERS, UNUSABLE, TunerEntry, nni_strategy
from nas.study import configure
from search_spaces import Architecture, Constraint, Integer, SearchSpace, Subset, make_space
from tests.conformance import check_strategy, made_up_losses, visited
from tests.nas.strategies.test_strategies import AWKWARD, LINE, POOLING, WIDE, intricate
from tests.search_spaces.core.test_space import spaces

NAMES = [name for name in STRATEGIES if name.startswith("nni:")]


def _make(name: str) -> Callable[[SearchSpace, np.random.Generator], Strategy]:
    return lambda space, rng: make_strategy(name, space, rng)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("space", AWKWARD, ids=lambda space: space.name)
def test_tuners_keep_the_contract_of_strategies(name: str, space: SearchSpace) -> None:
    check_strategy(_make(name), space)


@given(spaces(), st.sampled_from(NAMES), st.integers(1, 3), st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_in_random_spaces_every_architecture_comes_once(
    drawn: tuple[SearchSpace, object], name: str, objectives: int, seed: int
) -> None:
    space, _ = drawn
    archs = visited(make_strategy(name, space, np.random.default_rng(seed)), [3] * 15, objectives)
    assert len(archs) == len(set(archs)) == min(45, space.size)
    for arch in archs:
        space.check(arch)


def _first(names: list[str], seed: int) -> dict[str, list[str]]:
    """The first keys that strategies ask for; runs in any process."""
    spaces = {"placements": make_space("resnet50-pooling"), "wide": WIDE}
    return {
        f"{name} {title}": [
            arch.key for arch in visited(make_strategy(name, space, np.random.default_rng(seed)), [5] * 9)
        ]
        for name in names
        for title, space in spaces.items()
    }


def test_same_seed_same_architectures_in_another_process() -> None:
    here = _first(NAMES, seed=3)
    random.seed(7)
    np.random.seed(7)
    with get_context("spawn").Pool(1) as pool:
        assert here == pool.apply(_first, (NAMES, 3))
    other = _first(NAMES, seed=4)
    assert {key for key in here if here[key] == other[key]} <= {"nni:grid placements", "nni:grid wide"}


@pytest.mark.parametrize("name", ["nni:tpe", "nni:evolution"])
def test_tuners_learn_from_what_they_are_told(name: str) -> None:
    def worth(archs: list[Architecture]) -> np.ndarray:
        return np.array([[sum((value - 3) ** 2 for value in arch.values())] for arch in archs], dtype=float)

    strategy, chance = (make_strategy(each, WIDE, np.random.default_rng(0)) for each in (name, "random"))
    told = []
    for _ in range(150):
        archs = strategy.ask(1)
        told.append(worth(archs)[0, 0])
        strategy.tell(archs, [[told[-1]]])
    assert np.mean(told[-50:]) + 10 < worth(chance.ask(150)).mean()


def test_what_was_told_and_not_asked_teaches_tpe_too() -> None:
    strategy = make_strategy("nni:tpe", LINE, np.random.default_rng(0))
    archs = [LINE.architecture({"x": x}) for x in range(0, 101, 2)]
    strategy.tell(archs, [[1.0]] * len(archs))
    history = strategy._proposer._tuner._history  # type: ignore[attr-defined]
    assert len(history[("x (position)",)]) == 51


def test_grid_search_goes_through_the_space_in_order() -> None:
    space = SearchSpace("grid", (Integer("a", (1, 2)), Integer("b", (3, 4, 5))))
    asked = make_strategy("nni:grid", space, np.random.default_rng(0)).ask(10)
    assert asked == list(space.enumerate())


@pytest.mark.parametrize("name", NAMES)
def test_tuners_that_do_not_listen_can_be_asked_far_ahead(name: str) -> None:
    strategy = make_strategy(name, WIDE, np.random.default_rng(0))
    assert strategy.ahead == (WIDE.raw_size if name in ("nni:random", "nni:grid") else 1)


# --- tuners that misbehave ---


class _Tuner:
    """Proposes the same for ever."""

    def __init__(self, proposal: object) -> None:
        self.proposal, self.asked, self.told, self.ended = proposal, 0, [], []  # type: ignore[var-annotated]

    def generate_parameters(self, parameter_id: int) -> Any:
        self.asked += 1
        if isinstance(self.proposal, type):
            raise self.proposal("no more")
        return self.proposal

    def receive_trial_result(self, parameter_id: int, parameters: object, value: float) -> None:
        self.told.append((parameters, value))

    def trial_end(self, parameter_id: int, success: bool) -> None:
        self.ended.append(success)

    def import_data(self, data: object) -> None:
        pass


def _stuck(monkeypatch: pytest.MonkeyPatch, proposal: object, space: SearchSpace = LINE) -> tuple[_Tuner, Strategy]:
    tuner = _Tuner(proposal)
    monkeypatch.setitem(TUNERS, "stuck", TunerEntry(lambda document, seed: tuner))  # type: ignore[arg-type]
    return tuner, nni_strategy(space, np.random.default_rng(0), tuner="stuck")


@pytest.mark.parametrize(
    "wrong", [{"x (position)": 101}, {"x (position)": "7"}, {"x (position)": 7.0}, {"y": 7}, {}, 7]
)
def test_a_proposal_outside_the_space_is_refused(wrong: object, monkeypatch: pytest.MonkeyPatch) -> None:
    _, strategy = _stuck(monkeypatch, wrong)
    with pytest.raises(
        ValueError,
        match=r"_Tuner of NNI must propose one of \[0, .* for 'x \(position\)', got .* outside the search",
    ):
        strategy.ask(1)


def test_a_key_outside_the_space_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    space = SearchSpace("places", (Subset("place", (1, 2), 1),))
    _, strategy = _stuck(monkeypatch, {"place[1]": 0.5, "place[2]": float("nan")}, space)
    with pytest.raises(ValueError, match=r"must propose a number from 0 to 1 for 'place\[2\]', got nan"):
        strategy.ask(1)


def test_a_duplicate_for_ever_is_told_what_it_was_worth_and_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tuner, strategy = _stuck(monkeypatch, {"x (position)": 7})
    archs = visited(strategy, [1] * 200, 1)
    assert archs[0] == LINE.architecture({"x": 7}) and len(archs) == len(set(archs)) == 101
    assert tuner.asked <= 102 * DRAWS
    assert {value for _, value in tuner.told} == {made_up_losses(archs[:1], 1)[0, 0]}
    assert len(tuner.told) == tuner.asked and not tuner.ended


def test_a_duplicate_of_what_is_not_told_yet_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    tuner, strategy = _stuck(monkeypatch, {"x (position)": 7})
    assert len(set(strategy.ask(5))) == 5
    assert tuner.ended == [False] * 4 * DRAWS


def test_what_breaks_a_rule_is_no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    space = SearchSpace("even", LINE.choices, (Constraint("x is even", lambda v: v["x"] % 2 == 0),))
    tuner, strategy = _stuck(monkeypatch, {"x (position)": 7}, space)
    assert len(visited(strategy, [10] * 10, 1)) == 51
    assert not tuner.told and set(tuner.ended) == {False}


def test_where_a_tuner_has_nothing_the_rest_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    from nni import NoMoreTrialError

    for nothing in (NoMoreTrialError, None):
        tuner, strategy = _stuck(monkeypatch, nothing)
        assert len(visited(strategy, [20] * 10, 2)) == 101 and tuner.asked <= 103
    _, strategy = _stuck(monkeypatch, RuntimeError)
    with pytest.raises(RuntimeError, match="no more"):
        strategy.ask(1)


def test_more_trials_at_once_than_evolution_has_individuals() -> None:
    strategy = make_strategy("nni:evolution", WIDE, np.random.default_rng(0))
    archs = strategy.ask(50)
    strategy.tell(archs, made_up_losses(archs, 1))
    assert len({*archs, *strategy.ask(50)}) == 100


# --- the package ---


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.strategies.named.find_spec", lambda name: None)
    for name in NAMES:
        with pytest.raises(ValueError, match=rf"`strategy` {name} needs a package: pip install 'nas-toolkit\[nni\]'"):
            make_strategy(name, POOLING, np.random.default_rng(0))


@pytest.mark.parametrize("tuner", UNUSABLE)
def test_tuners_that_do_not_run_are_refused_with_the_reason(tuner: str) -> None:
    for ask in (
        lambda: make_strategy(f"nni:{tuner}", POOLING, np.random.default_rng(0)),
        lambda: configure("resnet20-pooling", "digits", strategy=f"nni:{tuner}"),
    ):
        with pytest.raises(
            ValueError, match=f"`strategy` nni:{tuner} does not run: NNI's .* take optuna:gp, or nni:tpe"
        ):
            ask()
    with pytest.raises(ValueError, match="no strategy is named 'nni:tpee'; did you mean nni:tpe"):
        make_strategy("nni:tpee", POOLING, np.random.default_rng(0))


def test_random_states_and_the_log_of_the_process_are_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    before = random.getstate(), np.random.get_state()[1].tolist(), logging.getLogger("nni").level  # type: ignore[index]
    for name in NAMES:
        visited(make_strategy(name, intricate(), np.random.default_rng(0)), [2] * 20)
    assert before[:2] == (random.getstate(), np.random.get_state()[1].tolist())  # type: ignore[index]
    assert logging.getLogger("nni").level == logging.INFO
    assert capsys.readouterr() == ("", "")


def test_nni_is_imported_when_it_is_used_says_nothing_and_writes_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np\n"
        "from nas.cli.kinds import listing; listing('strategies')\n"
        "from nas.strategies import make_strategy; from search_spaces import make_space\n"
        "assert 'nni' not in sys.modules\n"
        "strategy = make_strategy('nni:evolution', make_space('resnet20-pooling'), np.random.default_rng(0))\n"
        "strategy.tell(archs := strategy.ask(3), [[1.0]] * 3)\n"
        "assert 'nni' in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        env={"HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list(tmp_path.iterdir())
