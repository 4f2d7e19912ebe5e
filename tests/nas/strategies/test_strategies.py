"""Search strategies: the contract that all of them keep, and what makes each one itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import pytest

from nas.objectives.pareto import crowding_distance, hypervolume, non_dominated_rank
from nas.strategies import NSGA2, STRATEGIES, CoarseToFine, Evolution, Exhaustive, RandomSearch, make_strategy
from nas.strategies.coarse_to_fine import tied
from nas.strategies.ranked import Ranked
from search_spaces import Architecture, Categorical, Constraint, Integer, SearchSpace, Subset, ensemble, make_space
from tests.conformance import check_strategy, made_up_losses, sequences, sequences_elsewhere, visited
from tests.elastic_toy import elastic_space

POOLING = make_space("resnet20-pooling")
ASKED = {name: entry.make for name, entry in STRATEGIES.items() if not entry.ranked and ":" not in name}
SETTINGS = {
    **ASKED,
    "small nsga2": lambda space, rng: NSGA2(space, rng, population=4, crossover=0.5),
    "small evolution": lambda space, rng: Evolution(space, rng, population=5, tournament=2),
    "small coarse-to-fine": lambda space, rng: CoarseToFine(space, rng, coarse=3),
}
WIDE = SearchSpace("wide", tuple(Integer(f"w{at}", tuple(range(8))) for at in range(10)))
LINE = SearchSpace("line", (Integer("x", tuple(range(101))),))


def _line(*positions: int) -> list[Architecture]:
    return [LINE.architecture({"x": position}) for position in positions]


def intricate() -> SearchSpace:
    """Conditions, a constraint that cuts islands, and a canonical form: 45 descriptions, 15 architectures."""
    return SearchSpace(
        "intricate",
        (
            Categorical("op", ("conv", "pool", "skip")),
            Integer("kernel", (3, 5, 7), when={"op": ("conv", "pool")}),
            Subset("taps", (1, 2, 3, 4), 2, when={"op": ("conv",)}),
            Categorical("extra", ("a", "b")),
        ),
        constraints=(Constraint("kernel 5 is only for convolutions", lambda v: v["op"] != "pool" or v["kernel"] != 5),),
        canonical=lambda v: {**v, "extra": "a", **({"taps": (1, 2)} if v.get("kernel") == 7 and "taps" in v else {})},
    )


@pytest.mark.parametrize("name", SETTINGS)
def test_every_strategy_keeps_the_contract_on_the_36_placements(name: str) -> None:
    check_strategy(SETTINGS[name], POOLING)


AWKWARD = (
    intricate(),
    SearchSpace("single", (Integer("x", (1,)),)),
    SearchSpace("empty", ()),
    SearchSpace("islands", LINE.choices, (Constraint("x is a multiple of 25", lambda v: v["x"] % 25 == 0),)),
)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("space", AWKWARD, ids=lambda space: space.name)
def test_every_strategy_keeps_the_contract_on_awkward_spaces(name: str, space: SearchSpace) -> None:
    check_strategy(SETTINGS[name], space)


@pytest.mark.parametrize("name", SETTINGS)
def test_asking_ahead_asks_what_asking_one_by_one_does(name: str) -> None:
    asked = {}
    for most in (1, 7, 64):
        strategy, asked[most] = SETTINGS[name](WIDE, np.random.default_rng(5)), list[Architecture]()
        while len(asked[most]) < 150:
            archs = strategy.ask(min(strategy.ahead, most, 150 - len(asked[most])))
            strategy.tell(archs, made_up_losses(archs))
            asked[most] += archs
    assert asked[1] == asked[7] == asked[64]


def test_what_can_be_asked_ahead() -> None:
    rng = np.random.default_rng(0)
    assert NSGA2(WIDE, rng).ahead == 20 and Evolution(WIDE, rng).ahead == 50 and CoarseToFine(WIDE, rng).ahead == 1
    assert RandomSearch(WIDE, rng).ahead == Exhaustive(WIDE, rng).ahead == 8**10


def test_same_seed_same_architectures_in_another_process() -> None:
    spaces = ["resnet20-pooling", "resnet50-pooling"]
    here = sequences(list(ASKED), spaces, seed=3)
    assert here == sequences_elsewhere(list(ASKED), spaces, seed=3)
    other = sequences(list(ASKED), spaces, seed=4)
    assert [key for key in here if here[key] == other[key]] == [f"exhaustive {space}" for space in spaces]


@pytest.mark.parametrize("name", SETTINGS)
def test_in_a_large_space_nothing_comes_twice(name: str) -> None:
    assert WIDE.raw_size == 8**10
    archs = visited(SETTINGS[name](WIDE, np.random.default_rng(0)), [17] * 20)
    assert len(set(archs)) == 17 * 20
    for arch in archs[::20]:
        WIDE.check(arch)


@pytest.mark.parametrize("name", [name for name in ASKED if not STRATEGIES[name].everything])
def test_a_space_too_large_to_list_ends_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.strategies.strategy.SMALL", 35)
    monkeypatch.setattr(SearchSpace, "enumerate", lambda self: pytest.fail("listed"))
    assert len(visited(ASKED[name](POOLING, np.random.default_rng(0)), [5] * 65)) == 36


def test_exhaustive_follows_the_space() -> None:
    assert Exhaustive(POOLING, np.random.default_rng(0)).ask(100) == list(POOLING.enumerate())


def test_random_search_is_uniform_without_repetition() -> None:
    first = [RandomSearch(POOLING, np.random.default_rng(seed)).ask(2) for seed in range(720)]
    for position in range(2):
        counts = np.unique([POOLING.label(pair[position]) for pair in first], return_counts=True)[1]
        assert len(counts) == 36 and counts.min() >= 6 and counts.max() <= 40  # 20 on average


def test_random_search_of_an_ensemble_takes_splits_in_turns() -> None:
    space = ensemble(elastic_space(2))
    every = Counter(arch["split"] for arch in space.enumerate())
    assert max(every.values()) > 5 * min(every.values())
    asked = [
        arch["split"] for arch in RandomSearch(space, np.random.default_rng(0)).ask(len(every) * min(every.values()))
    ]
    for start in range(0, len(asked), len(every)):
        assert set(asked[start : start + len(every)]) == set(every)
    whole = RandomSearch(space, np.random.default_rng(0)).ask(10**6)
    assert len(whole) == len(set(whole)) == space.size


def test_nsga2_keeps_the_best_of_parents_and_children() -> None:
    strategy = NSGA2(LINE, np.random.default_rng(0), population=2)
    strategy.tell(_line(90, 50, 95, 10), [[2.0, 2.0], [0.0, 1.0], [3.0, 3.0], [1.0, 0.0]])
    assert {arch["x"] for arch in strategy.ask(4)} == {49, 51, 9, 11}


def test_nsga2_closes_a_generation_by_results_not_by_batches() -> None:
    strategy = NSGA2(LINE, np.random.default_rng(0), population=2)
    strategy.tell(_line(50, 10, 90), [[2.0, 3.0], [3.0, 2.0], [0.0, 1.0]])
    assert {arch["x"] for arch in strategy.ask(4)} == {49, 51, 9, 11}  # 90 waits for the fourth result
    strategy.tell(_line(70), [[1.0, 0.0]])
    assert {arch["x"] for arch in strategy.ask(4)} == {69, 71, 89, 91}


def test_nsga2_breeds_from_what_is_told_before_the_first_generation_closes() -> None:
    strategy = NSGA2(WIDE, np.random.default_rng(0), population=6)
    first = strategy.ask(6)
    strategy.tell(first[:2], [[0.0, 1.0], [1.0, 0.0]])
    for child in strategy.ask(10):
        strange = [name for name in child if child[name] not in (first[0][name], first[1][name])]
        assert len(strange) <= 5  # binomial with mean 1
    assert strategy.ask(1)


def test_crossover_mixes_two_parents() -> None:
    low = WIDE.architecture({f"w{at}": 0 for at in range(10)})
    high = WIDE.architecture({f"w{at}": 7 for at in range(10)})

    def mixed(crossover: float) -> int:
        strategy = NSGA2(WIDE, np.random.default_rng(0), population=2, crossover=crossover)
        strategy.tell([low, high], [[0.0, 1.0], [1.0, 0.0]])
        children = [list(child.values()) for child in strategy.ask(20)]
        return sum(values.count(0) > 1 and values.count(7) > 1 for values in children)

    assert mixed(0.0) == 0
    assert mixed(1.0) >= 5


def test_evolution_lets_the_oldest_die_even_if_it_is_the_best() -> None:
    strategy = Evolution(LINE, np.random.default_rng(0), population=2, tournament=2)
    strategy.tell(_line(50, 10, 90), [[0.0], [1.0], [2.0]])
    assert {arch["x"] for arch in strategy.ask(4)} == {9, 11, 89, 91}


def test_evolution_prefers_the_winner_of_the_tournament() -> None:
    strategy = Evolution(WIDE, np.random.default_rng(0), population=20, tournament=20)
    first = strategy.ask(20)
    strategy.tell(first, [[float(at)] for at in range(20)])
    near = [sum(child[name] != first[0][name] for name in child) == 1 for child in strategy.ask(20)]
    assert sum(near) >= 10  # 1 - (19 / 20)**20 = 64 % of tournaments hold the best


def _stages(limit: int = 99) -> SearchSpace:
    """Two stages of one or two blocks, each with three widths, and one kernel for all; the widths add up to `limit` at most."""
    choices = [Integer("kernel", (3, 5, 7), kind="kernel")]
    for stage in (1, 2):
        choices.append(Integer(f"depth{stage}", (1, 2), kind="depth"))
        choices.append(Integer(f"width{stage}.1", (4 * stage, 6 * stage, 8 * stage), kind="width"))
        widths = (3 * stage, 5 * stage, 7 * stage)
        choices.append(Integer(f"width{stage}.2", widths, when={f"depth{stage}": (2,)}, kind="width"))

    def total(values: Mapping[str, object]) -> int:
        return sum(value for name, value in values.items() if name.startswith("width") and isinstance(value, int))

    rule = Constraint(f"at most {limit} channels", lambda values: total(values) <= limit)
    return SearchSpace("stages", tuple(choices), (rule,))


def test_the_grid_ties_the_choices_of_a_kind() -> None:
    space = _stages()
    points = tied(space, np.random.default_rng(0), most=100)
    assert len(set(points)) == len(points) == 3 * 2 * 3
    for arch in points:
        places = {(choice.kind, *choice.codes(arch[choice.name])) for choice in space.choices if choice.name in arch}
        assert len(places) == 3  # one for each kind
    assert len(tied(space, np.random.default_rng(0), most=5)) == 5
    assert 0 < len(tied(_stages(limit=20), np.random.default_rng(0), most=100)) < 18


def test_the_grid_ties_choices_of_different_sizes_at_the_same_relative_position() -> None:
    space = SearchSpace("s", (Integer("a", (1, 2, 3, 4, 5), kind="width"), Integer("b", (10, 20, 30), kind="width")))
    points = tied(space, np.random.default_rng(0), most=100)
    assert sorted(tuple(arch.values()) for arch in points) == [(1, 10), (2, 10), (3, 20), (4, 30), (5, 30)]


def test_the_grid_ties_choices_without_a_kind_that_have_the_same_values() -> None:
    cells = tied(make_space("nas-bench-201"), np.random.default_rng(0), most=100)
    assert sorted(len(set(arch.values())) for arch in cells) == [1] * 5
    assert len(tied(POOLING, np.random.default_rng(0), most=100)) == 36
    many = SearchSpace("many", tuple(Integer(f"x{size}", tuple(range(size))) for size in range(2, 12)))
    assert len(tied(many, np.random.default_rng(0), most=50)) == 50


def test_coarse_to_fine_finds_the_best_tied_point_and_goes_on_from_there_in_single_choices() -> None:
    space = _stages(limit=30)
    goal = space.architecture({"kernel": 5, "depth1": 1, "width1.1": 6, "depth2": 1, "width2.1": 16})

    def loss(arch: Architecture) -> float:
        """Distance from the goal, in positions."""
        return sum(abs(at - to) for at, to in zip(space.codes(arch), space.codes(goal), strict=True))

    grid = tied(space, np.random.default_rng(0), most=100)
    skeleton = min(grid, key=loss)
    assert dict(skeleton) == {"kernel": 5, "depth1": 1, "width1.1": 6, "depth2": 1, "width2.1": 12} != dict(goal)
    strategy = CoarseToFine(space, np.random.default_rng(0))
    coarse = strategy.ask(len(grid))
    assert set(coarse) == set(grid)
    strategy.tell(coarse, [[loss(arch)] for arch in coarse])
    (fine,) = strategy.ask(1)
    assert sum(fine.get(name) != value for name, value in skeleton.items()) == 1
    for _ in range(20):
        if fine == goal:
            return
        space.check(fine)
        strategy.tell([fine], [[loss(fine)]])
        (fine,) = strategy.ask(1)
    pytest.fail("the goal is a neighbour of the skeleton, but was not found")


def test_coarse_to_fine_refines_the_whole_front() -> None:
    strategy = CoarseToFine(LINE, np.random.default_rng(0), coarse=1)
    strategy.tell(strategy.ask(1), [[9.0, 9.0]])
    strategy.tell(_line(50, 10, 90), [[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    assert {arch["x"] for arch in strategy.ask(4)} == {9, 11, 49, 51}


@pytest.mark.parametrize("make", [NSGA2, Evolution])
def test_the_first_population_is_sampled_whatever_is_told(make: type[NSGA2] | type[Evolution]) -> None:
    one, other = make(WIDE, np.random.default_rng(0)), make(WIDE, np.random.default_rng(0))
    first = one.ask(5)
    assert first == other.ask(5)
    one.tell(first, made_up_losses(first))
    other.tell(first, -made_up_losses(first))
    assert one.ask(one.population - 5) == other.ask(one.population - 5)
    assert one.ask(10) != other.ask(10)


def test_ranked_prefers_fronts_then_room() -> None:
    losses = made_up_losses(list(POOLING.enumerate()))
    rank = non_dominated_rank(losses)
    ranked = Ranked(zip(POOLING.enumerate(), losses, strict=True))
    best = ranked.best(36)
    assert [rank[list(POOLING.enumerate()).index(arch)] for arch, _ in best] == sorted(rank)
    room = {}
    for front in range(rank.max() + 1):
        rows = np.flatnonzero(rank == front)
        room |= dict(zip(rows, crowding_distance(losses[rows]), strict=True))
    expected = sorted(range(36), key=lambda at: (rank[at], -room[at], at))
    assert [arch for arch, _ in best] == [list(POOLING.enumerate())[at] for at in expected]
    assert ranked.winner([35, expected[0], 12]) == best[0][0]
    twins = Ranked([(arch, np.zeros(2)) for arch in POOLING.enumerate()])
    assert twins.winner([7, 3, 9]) == twins.members[7][0]


def _trade_off(archs: list[Architecture]) -> np.ndarray:
    """Error against cost: each layer wants a width of its own, and the gain of width wears off."""
    widths = np.array([list(arch.values()) for arch in archs], dtype=float)
    weight = np.array([5, 1, 3, 2, 8, 1, 2, 6, 1, 4])
    error = (weight * np.exp(-widths / np.array([1, 4, 2, 6, 1, 5, 3, 1, 7, 2]))).sum(axis=1) / weight.sum()
    error += 0.02 * np.abs(np.diff(widths, axis=1)).mean(axis=1)
    return np.stack([error, (widths * weight[::-1]).sum(axis=1) / 7 / weight.sum()], axis=1)


@pytest.mark.parametrize("name", ["nsga2", "evolution", "coarse-to-fine"])
def test_evolutionary_strategies_find_a_better_front_than_random_search(name: str) -> None:
    def volume(name: str, seed: int) -> float:
        strategy = make_strategy(name, WIDE, np.random.default_rng(seed))
        found: list[np.ndarray] = []
        for _ in range(50):
            archs = strategy.ask(10)
            found.append(_trade_off(archs))
            strategy.tell(archs, found[-1])
        return hypervolume(np.concatenate(found), [1.0, 1.0])

    ours, chance = ([volume(each, seed) for seed in range(5)] for each in (name, "random"))
    assert min(ours) > max(chance) + 0.02
    assert np.mean(ours) > 1.08 * np.mean(chance)


def test_one_objective_is_minimised() -> None:
    def best(name: str) -> float:
        strategy = make_strategy(name, WIDE, np.random.default_rng(0))
        lowest = np.inf
        for _ in range(30):
            archs = strategy.ask(20)
            losses = np.array([[sum((value - 3) ** 2 for value in arch.values())] for arch in archs], dtype=float)
            strategy.tell(archs, losses)
            lowest = min(lowest, losses.min())
        return lowest

    assert best("nsga2") <= 2 and best("evolution") <= 2 and best("random") >= 8
    assert best("coarse-to-fine") == 0


def test_errors_offer_a_way_out() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="no strategy is named 'nsga'; did you mean nsga2"):
        make_strategy("nsga", POOLING, rng)
    with pytest.raises(ValueError, match=f"known: {', '.join(list(STRATEGIES)[:20])}"):
        make_strategy("zzz", POOLING, rng)
    with pytest.raises(ValueError, match="`population` must be at least 2, got 1"):
        NSGA2(POOLING, rng, population=1)
    with pytest.raises(ValueError, match=r"`crossover` is a probability between 0 and 1, got 1\.5"):
        NSGA2(POOLING, rng, crossover=1.5)
    with pytest.raises(ValueError, match="`population` must be at least 1, got 0"):
        Evolution(POOLING, rng, population=0)
    with pytest.raises(ValueError, match="`tournament` must be from 1 to the population of 5, got 6"):
        Evolution(POOLING, rng, population=5, tournament=6)
    with pytest.raises(ValueError, match="`coarse` must be at least 1, got 0"):
        CoarseToFine(POOLING, rng, coarse=0)
