"""Decisions, rewards, and the strategies that learn from them: tree search and policy gradients."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings

from nas.strategies import MCTS, RandomSearch, Reinforce, Strategy
from nas.strategies.decisions import Decisions, Key, Step
from nas.strategies.reinforce import Policy, removing
from nas.strategies.rewards import Rewards
from search_spaces import Architecture, Categorical, Integer, SearchSpace, Subset, make_space
from tests.conformance import check_strategy
from tests.nas.strategies.test_exact import spaces

EIGHT = SearchSpace("eight", (Integer("x", tuple(range(8))),))
SETTINGS = {
    "plain": lambda space, rng: MCTS(space, rng, shared=0.0),
    "greedy": lambda space, rng: MCTS(space, rng, explore=0.0),
    "quick": lambda space, rng: Reinforce(space, rng, rate=5.0, batch=2),
    "stages": lambda space, rng: Reinforce(space, rng, removal=7),
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("space", ["resnet20-pooling", "conditional"])
def test_settings_keep_the_contract(name: str, space: str) -> None:
    depth = Categorical("deep", ("no", "yes"))
    widths = Integer("w1", (1, 2, 3)), Integer("w2", (1, 2, 3, 4), when={"deep": ("yes",)})
    check_strategy(
        SETTINGS[name], make_space(space) if space != "conditional" else SearchSpace(space, (depth, *widths))
    )


@settings(max_examples=25, deadline=None)
@given(spaces())
def test_every_architecture_is_made_by_its_decisions_and_no_two_by_the_same(space: SearchSpace) -> None:
    decisions, seen = Decisions(space), set()
    for arch in space.enumerate():
        steps = decisions.of(arch)
        seen.add(tuple(steps))
        left = iter(steps)

        def pick(key: Key, branches: int, left: object = left) -> int:
            step = next(left)  # type: ignore[call-overload]
            assert step[:2] == (key, branches) and 0 <= step.branch < branches
            return step.branch

        assert decisions.made(pick) == arch and next(left, None) is None
    assert len(seen) == space.size


def test_ordered_choices_are_halved() -> None:
    rng, decisions = np.random.default_rng(0), Decisions(EIGHT)
    assert {len(decisions.of(arch)) for arch in EIGHT.enumerate()} == {3}
    three = Decisions(SearchSpace("three", (Integer("x", (1, 2, 3)),)))

    def drawn() -> Architecture:
        arch = three.made(lambda key, branches: int(rng.integers(branches)))
        assert arch is not None
        return arch

    counts = Counter(drawn()["x"] for _ in range(4000))
    assert [counts[x] / 4000 for x in (1, 2, 3)] == pytest.approx([0.5, 0.25, 0.25], abs=0.03)
    letters = SearchSpace("letters", (Categorical("x", tuple("abcdefgh")),))
    assert len(Decisions(letters).of(letters.architecture({"x": "d"}))) == 1
    taps = SearchSpace("taps", (Subset("taps", (1, 2, 3, 4), 1),))
    assert [len(Decisions(taps).of(arch)) for arch in taps.enumerate()] == [1, 2, 3, 3]


def test_rewards_are_ranks_for_one_objective_and_highest_on_the_front_for_several() -> None:
    rewards = Rewards()
    for loss in np.random.default_rng(0).permutation(200):
        rewards.add(np.array([float(loss)]))
        if rewards.stale:
            rewards.renewed()
    worth = rewards.renewed()
    losses = np.array([row[0] for row in rewards._losses])
    assert worth == pytest.approx(1 - losses / 200)
    several = Rewards()
    points = np.random.default_rng(1).random((50, 2))
    for row in points:
        several.add(row)
    worth = several.renewed()
    dominators = ((points[None] <= points[:, None]).all(2) & (points[None] < points[:, None]).any(2)).sum(axis=1)
    assert worth == pytest.approx(1 - dominators / 50)


def test_failed_trials_are_the_lowest_rank_and_nothing_more() -> None:
    rewards = Rewards()
    for loss in (3.0, 1.0, 1e30, 2.0, 1e30):
        rewards.add(np.array([loss]))
    assert rewards.renewed().tolist() == pytest.approx([0.6, 1.0, 0.4, 0.8, 0.4])
    for make in (MCTS, Reinforce):
        strategy = make(make_space("nas-bench-macro"), np.random.default_rng(0))
        for at in range(60):
            (arch,) = strategy.ask(1)
            strategy.tell([arch], [[1e30 if at % 3 else float(at)]])
        means = (
            [total / n for branches in strategy._means.values() for n, total in branches if n] if make is MCTS else []
        )
        assert all(0 <= mean <= 1 for mean in means)


def test_plain_uct_takes_each_branch_once_before_any_twice() -> None:
    arms = SearchSpace("arms", (Categorical("a", tuple("abcde")), Categorical("b", tuple("abcde"))))
    strategy = MCTS(arms, np.random.default_rng(0), shared=0.0)
    firsts = []
    for at in range(10):
        (arch,) = strategy.ask(1)
        strategy.tell([arch], [[float(at)]])
        firsts.append(arch["a"])
    assert sorted(firsts[:5]) == list("abcde")


@pytest.mark.parametrize("shared", [0.0, 1.0])
def test_the_better_arm_is_taken_more_often(shared: float) -> None:
    arms = SearchSpace("arms", (Categorical("arm", ("bad", "good")), Integer("x", tuple(range(400)))))
    strategy, taken = MCTS(arms, np.random.default_rng(0), shared=shared), Counter[object]()
    noise = np.random.default_rng(1)
    for _ in range(200):
        (arch,) = strategy.ask(1)
        strategy.tell([arch], [[(arch["arm"] == "bad") + noise.normal(0, 0.3)]])
        taken[arch["arm"]] += 1
    assert taken["good"] > 130


@pytest.mark.parametrize("shared", [0.0, 1.0])
def test_the_tree_learns_what_adds_up(shared: float) -> None:
    layers = SearchSpace("layers", tuple(Categorical(f"op{at}", tuple("abcd")) for at in range(8)))

    def best(strategy: Strategy) -> int:
        most = 0
        for _ in range(150):
            (arch,) = strategy.ask(1)
            hits = sum(value == "c" for value in arch.values())
            strategy.tell([arch], [[-float(hits)]])
            most = max(most, hits)
        return most

    ours = [best(MCTS(layers, np.random.default_rng(seed), shared=shared)) for seed in range(4)]
    chance = [best(RandomSearch(layers, np.random.default_rng(seed))) for seed in range(4)]
    assert np.mean(ours) > np.mean(chance) + 1


def test_a_policy_moves_towards_what_was_better_than_expected() -> None:
    policy = Policy(np.random.default_rng(0), rate=0.5)
    key: Key = ("x", 0, 3)
    assert policy.shares(key, 3) == pytest.approx([1 / 3] * 3)
    policy.learn([Step(key, 3, 2)], 1.0)
    # logits 0.5 * ((branch taken) - 1 / 3): the gradient of the logarithm of a softmax
    weights = np.exp(0.5 * np.array([-1 / 3, -1 / 3, 2 / 3]))
    assert policy.shares(key, 3) == pytest.approx(weights / weights.sum())
    assert policy.shares(key, 3, sharpness=0.0) == pytest.approx([1 / 3] * 3)
    policy.learn([Step(key, 3, 2)], -5.0)
    assert policy.shares(key, 3)[2] < 1 / 3
    assert Counter(policy.draw(key, 3) for _ in range(500))[2] < 120


def _blocks() -> SearchSpace:
    blocks = [Categorical(f"block{at}", ("leave out", "keep"), kind="depth") for at in range(4)]
    widths = [Integer(f"width{at}", (2, 4, 6, 8), when={f"block{at}": ("keep",)}) for at in range(4)]
    return SearchSpace("blocks", (*blocks, Integer("stem", (2, 4, 6, 8)), *widths))


def _loss(arch: Architecture) -> float:
    """Blocks 1 and 3 are needed and the others cost; widths of 6 are best."""
    needed = sum(arch[f"block{at}"] != ("keep" if at % 2 else "leave out") for at in range(4))
    return 10.0 * needed + sum(abs(value - 6) for name, value in arch.items() if isinstance(value, int))


def test_the_first_stage_removes_blocks_and_the_second_shrinks_what_is_left() -> None:
    space = _blocks()
    assert removing(space) == {f"block{at}" for at in range(4)}
    strategy = Reinforce(space, np.random.default_rng(0), removal=12)
    for _ in range(12):
        (arch,) = strategy.ask(1)
        assert {value for value in arch.values() if isinstance(value, int)} == {8}
        strategy.tell([arch], [[_loss(arch)]])
    best = min(strategy._told, key=_loss)
    later = []
    for _ in range(20):
        (arch,) = strategy.ask(1)
        strategy.tell([arch], [[_loss(arch)]])
        later.append(arch)
    depth = [{name: arch[name] for name in removing(space)} for arch in later]
    assert all(each == {name: best[name] for name in removing(space)} for each in depth[:10])
    assert len({arch["stem"] for arch in later}) > 1


def test_a_space_without_depth_has_one_stage() -> None:
    assert Reinforce(EIGHT, np.random.default_rng(0), removal=50).removal == 0


def test_a_policy_learns_what_is_best() -> None:
    layers = SearchSpace("layers", tuple(Categorical(f"op{at}", tuple("abcd")) for at in range(10)))
    strategy = Reinforce(layers, np.random.default_rng(0))
    hits = []
    for _ in range(400):
        (arch,) = strategy.ask(1)
        hits.append(sum(value == "c" for value in arch.values()))
        strategy.tell([arch], [[-float(hits[-1])]])
    assert np.mean(hits[:10]) < 4 and np.mean(hits[-50:]) > 6


def test_bad_settings_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="`explore` and `shared` must be at least 0, got explore=-1 and shared=1"):
        MCTS(EIGHT, rng, explore=-1.0)
    for changed, rule in (
        ({"rate": 0.0}, "`rate` must be above 0, got 0"),
        ({"batch": 0}, "`batch` must be at least 1, got 0"),
        ({"removal": -1}, "`removal` must be at least 0, got -1"),
    ):
        with pytest.raises(ValueError, match=rule):
            Reinforce(EIGHT, rng, **changed)
