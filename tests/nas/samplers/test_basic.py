"""What each sampler draws, against the counts and limits that define it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from estimators.counting.cost import CostModel
from nas.samplers.basic import Delayed, Draw, Fair, Groups, Sandwich, balanced, nested
from nas.samplers.complexity import BANK, Complexity, Performance
from nas.samplers.progressive import Progressive
from nas.samplers.size_order import cheap_and_dear, extremes
from nas.supernets.make import make_sampler
from nas.supernets.samplers import SAMPLERS
from search_spaces import Categorical, Constraint, Integer, Network, SearchSpace, largest, make_space, smallest
from tests.elastic_toy import KERNELS, WIDTHS, elastic_space

SPACE = elastic_space()
SMALL, LARGE = extremes(SPACE)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_same_seed_draws_the_same_and_a_checkpoint_goes_on_as_if_nothing_had_happened(name: str) -> None:
    def run(steps: int, stop: int | None = None) -> list[list[Draw]]:
        sampler = make_sampler(name, SPACE, epochs=steps, seed=3)
        drawn = []
        for epoch in range(steps):
            if epoch == stop:
                kept = sampler.tensors()
                sampler = make_sampler(name, SPACE, epochs=steps, seed=3)
                sampler.restore(kept)
            draws = sampler.draw(epoch, rng(epoch))
            sampler.tell(draws, rng(epoch).random(len(draws)).tolist())
            drawn.append(draws)
        return drawn

    assert run(40) == run(40) == run(40, stop=17)


def test_the_extremes_are_the_first_and_the_last_values() -> None:
    assert dict(SMALL) == {"depth": 1, "width1": WIDTHS[0], "kernel1": KERNELS[0]}
    assert set(LARGE.values()) == {2, WIDTHS[-1], KERNELS[-1]}


def test_a_space_without_an_order_of_size_cannot_have_a_sandwich() -> None:
    net = make_space("resnet20-pooling", operators=["conv", "max"], image_size=8, in_channels=1)
    assert extremes(net)  # placements of pooling are ordered, earliest first
    backwards = SearchSpace("backwards", tuple(reversed_choices(SPACE)), network=SPACE.network)
    with pytest.raises(ValueError, match=r"'backwards' has no order of size: .* macs.* use a sampler that needs none"):
        make_sampler("sandwich", backwards, epochs=1, seed=0)
    limited = SearchSpace(
        "limited",
        SPACE.choices,
        (Constraint("depth is 2", lambda values: values["depth"] == 2),),
        network=SPACE.network,
    )
    with pytest.raises(ValueError, match="make no architecture.*depth is 2.*use a sampler that needs none"):
        make_sampler("delayed", limited, epochs=1, seed=0)


def reversed_choices(space: SearchSpace) -> list[Categorical]:
    return [Categorical(c.name, tuple(reversed(c.values)), c.when) for c in space.choices]  # type: ignore[attr-defined]


def test_a_space_without_an_order_of_size_has_cheap_and_dear_architectures_too() -> None:
    backwards = SearchSpace("backwards", tuple(reversed_choices(elastic_space(3))), network=elastic_space(3).network)
    archs = list(backwards.enumerate())
    macs = np.sort(CostModel(backwards).batch(backwards.encode(archs))["macs"])
    cheap, dear = (CostModel(backwards).cost(arch).macs for arch in cheap_and_dear(backwards))
    assert cheap <= np.quantile(macs, 0.1) and dear >= np.quantile(macs, 0.9)
    assert cheap_and_dear(SPACE) == (SMALL, LARGE)


def test_a_fair_step_trains_every_value_of_every_choice_equally_often_up_to_one() -> None:
    flat = SearchSpace("flat", (Integer("a", (1, 2, 3)), Categorical("b", ("x", "y", "z")), Integer("c", (1, 2))))
    for seed in range(20):
        archs = [draw.arch for draw in Fair(flat).draw(0, rng(seed))]
        assert len(archs) == 3
        assert sorted(arch["a"] for arch in archs) == [1, 2, 3]
        assert sorted(arch["b"] for arch in archs) == ["x", "y", "z"]
        assert sorted(Counter(arch["c"] for arch in archs).values()) == [1, 2]


def test_a_fair_step_pools_at_every_block_once() -> None:
    placements = make_space("resnet18-pooling")  # 3 of 8 blocks: 3 subnets, one block twice
    for seed in range(20):
        taken = Counter(item for draw in Fair(placements).draw(0, rng(seed)) for item in draw.arch["pools"])
        assert len(taken) == 8 and sorted(taken.values()) == [1] * 7 + [2]


def test_fair_says_what_it_cannot_serve() -> None:
    tied = SearchSpace(
        "tied", (Integer("a", (1, 2)), Integer("b", (1, 2))), (Constraint("a is b", lambda v: v["a"] == v["b"]),)
    )
    with pytest.raises(ValueError, match="'tied' has the constraint: a is b; use uniform"):
        Fair(tied)
    for name in ("nas-bench-macro", "nas-bench-201"):
        with pytest.raises(ValueError, match=f"{name!r} has a canonical form, .* other values .*; use uniform"):
            make_sampler("fair", make_space(name), epochs=1, seed=0)
    long = SearchSpace("long", (Integer("a", tuple(range(100))),))
    with pytest.raises(ValueError, match="at most 64, but choice 'a' of 'long' needs 100; use uniform"):
        Fair(long)


def test_a_sandwich_is_the_ends_and_what_is_between() -> None:
    draws = Sandwich(SPACE, SMALL, LARGE, subnets=3).draw(0, rng())
    assert draws[:2] == [Draw(LARGE, "max"), Draw(SMALL, "min")]
    assert [draw.role for draw in draws[2:]] == ["random"] * 3


def test_delayed_shrinking_starts_with_the_largest_and_fades_the_others_in() -> None:
    sampler = Delayed(Sandwich(SPACE, SMALL, LARGE), start=4, epsilon=0.2, over=4)
    weights = [{draw.role: draw.weight for draw in sampler.draw(epoch, rng())} for epoch in range(10)]
    assert weights[:4] == [{"max": 1.0}] * 4
    assert [w["min"] for w in weights[4:]] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])
    assert all(w["max"] == 1 and w["random"] == w["min"] for w in weights[4:])
    assert Delayed(Sandwich(SPACE, SMALL, LARGE), start=0, epsilon=0).draw(0, rng()) == [Draw(LARGE, "max")]


@pytest.mark.parametrize("epochs", [3, 4, 5, 8, 60])
def test_delayed_shrinking_has_faded_the_others_in_before_it_ends(epochs: int) -> None:
    sampler = make_sampler("delayed", SPACE, epochs=epochs, seed=0)
    first, *_, last = (sampler.draw(epoch, rng()) for epoch in range(epochs))
    assert [draw.role for draw in first] == ["max"]
    assert [draw.weight for draw in last] == [1.0] * 4


def test_delayed_shrinking_needs_epochs_to_fade_in() -> None:
    with pytest.raises(ValueError, match="at least 3 epochs, got 2; use more, or sampler sandwich"):
        make_sampler("delayed", SPACE, epochs=2, seed=0)


def test_progressive_shrinking_opens_kernels_then_depths_then_widths() -> None:
    space = elastic_space(blocks=3)
    largest = extremes(space)[1]
    sampler = Progressive(space, largest, epochs=20)
    seen = [sampler.draw(epoch, rng(seed)) for epoch in range(20) for seed in range(40)]
    by_epoch = [seen[at * 40 : at * 40 + 40] for at in range(20)]
    values = [
        {
            kind: sorted({v for step in steps for d in step for n, v in d.arch.items() if n.startswith(kind)})
            for kind in ("kernel", "depth", "width")
        }
        for steps in by_epoch
    ]
    closed = {"kernel": [3], "depth": [3], "width": [8]}
    assert values[:5] == [closed] * 5 and sampler.first == 5
    assert all(step == [Draw(largest, "max")] for steps in by_epoch[:5] for step in steps)
    # five stages share fifteen epochs: kernels 1 and 3; depths from 2, from 1; widths from 4, from 2
    assert values[5:8] == [{**closed, "kernel": [1, 3]}] * 3
    assert values[8:11] == [{**closed, "kernel": [1, 3], "depth": [2, 3]}] * 3
    assert values[11:14] == [{**closed, "kernel": [1, 3], "depth": [1, 2, 3]}] * 3
    assert values[14:17] == [{"kernel": [1, 3], "depth": [1, 2, 3], "width": [4, 8]}] * 3
    assert values[17:] == [{"kernel": [1, 3], "depth": [1, 2, 3], "width": [2, 4, 8]}] * 3
    assert [len(steps[0]) for steps in by_epoch] == [1] * 8 + [2] * 6 + [4] * 6
    assert [epoch for epoch in range(20) if sampler.sorts(epoch)] == [14]


ELASTIC = {
    "resnet-elastic": ({"choices": "width,depth,kernel", "depths": (1, 2)}, ("width", "inner")),
    "mobilenet-elastic": (
        {"choices": "kernel,expansion,depth,width", "depths": (1, 2), "image_size": 32},
        ("width", "expansion"),
    ),
    "channel-bench-macro-resnet": ({}, tuple(f"c{at}" for at in range(7))),
}


@pytest.mark.parametrize("name", ELASTIC)
def test_every_width_of_the_elastic_spaces_stays_largest_until_channels_are_sorted(name: str) -> None:
    options, widths = ELASTIC[name]
    space = make_space(name, **options)
    most = {choice.name: choice.value(choice.size - 1) for choice in space.choices if choice.name.endswith(widths)}
    sampler = Progressive(space, largest(space), epochs=12)
    (sorting,) = (epoch for epoch in range(12) if sampler.sorts(epoch))

    def narrow(epochs: range) -> set[str]:
        archs = [d.arch for epoch in epochs for seed in range(20) for d in sampler.draw(epoch, rng(seed))]
        return {name for arch in archs for name, value in most.items() if arch.get(name, value) != value}

    assert narrow(range(sorting)) == set()
    assert narrow(range(sorting, 12)) == set(most)


def test_progressive_says_what_it_cannot_serve() -> None:
    with pytest.raises(
        ValueError, match="of the kind kernel, depth, width or expansion, but 'resnet20-pooling' has none among pools"
    ):
        make_sampler("progressive", make_space("resnet20-pooling"), epochs=9, seed=0)
    with pytest.raises(ValueError, match="has 5 stages in 'toy' and needs an epoch for each, got 4; train for longer"):
        make_sampler("progressive", SPACE, epochs=4, seed=0)


def test_sorted_needs_ordered_sizes() -> None:
    assert len(nested(SPACE).draw(0, rng())) == 4
    with pytest.raises(
        ValueError, match="sampler sorted needs choices of ordered sizes.*'pools' of 'resnet20-pooling'"
    ):
        make_sampler("sorted", make_space("resnet20-pooling"), epochs=1, seed=0)


def test_groups_are_balanced_and_open_from_the_largest_value_on() -> None:
    sampler = Groups(SPACE, subnets=5, opening=4)
    for epoch in range(8):
        for seed in range(10):
            archs = [draw.arch for draw in sampler.draw(epoch, rng(seed))]
            counts = Counter(arch["width1"] for arch in archs)
            opened = min(1 + epoch * 2 // 4, 3)
            assert set(counts) == set(WIDTHS[-opened:])
            assert max(counts.values()) - min(counts.values()) <= 1
    assert [draw.arch for draw in Groups(SPACE, subnets=1, opening=4).draw(0, rng())] == [LARGE]


def test_a_balanced_draw_that_no_attempt_satisfies_says_so() -> None:
    never = SearchSpace("never", (Integer("a", (1, 2)),), (Constraint("a is 3", lambda values: values["a"] == 3),))
    with pytest.raises(ValueError, match="no balanced draw of 'never' kept its constraints .*a is 3"):
        balanced(never, 1, rng())


def test_the_budget_walks_by_one_and_every_subnet_is_within_it() -> None:
    space = elastic_space(blocks=4)
    sampler, model = Complexity(space, seed=0, budgets=5), CostModel(space)
    limits = [(model.cost(inside[0]).macs, model.cost(inside[-1]).macs) for inside in sampler.budgets]
    assert all(a[1] <= b[0] for a, b in zip(limits, limits[1:], strict=False))
    generator, moves, at = rng(), Counter(), 0
    for _ in range(3000):
        draws = sampler.draw(0, generator)
        moves[(at, sampler.at)] += 1
        at = sampler.at
        low, high = limits[at]
        assert all(low <= model.cost(draw.arch).macs <= high for draw in draws[:-1])
        assert draws[-1].role == "min" and model.cost(draws[-1].arch).macs <= low
    for here in range(5):
        leaving = {there: n for (a, there), n in moves.items() if a == here}
        total = sum(leaving.values())
        expected = {n: (2 if n == here and here in (0, 4) else 1) / 3 for n in (here - 1, here, here + 1) if 0 <= n < 5}
        assert {n: count / total for n, count in leaving.items()} == pytest.approx(expected, abs=0.06)


def test_performance_takes_wide_before_deep_and_then_the_best_of_its_bank() -> None:
    space = elastic_space(blocks=3)
    sampler = Performance(space, seed=0, budgets=2)
    wide = space.architecture({"depth": 1, "width1": 8, "kernel1": 3})
    deep = space.architecture(
        {"depth": 3, **{f"width{n}": 2 for n in (1, 2, 3)}, **{f"kernel{n}": 3 for n in (1, 2, 3)}}
    )
    anchor = space.architecture({"depth": 2, "width1": 4, "kernel1": 3, "width2": 4, "kernel2": 3})
    assert sampler.narrowness(wide, anchor) < sampler.narrowness(deep, anchor)
    assert [sampler.chance(epoch) for epoch in (0, 99, 100, 250, 2000)] == pytest.approx([0.2, 0.2, 0.35, 0.5, 1])
    members = sampler.budgets[1][: BANK + 5]
    sampler.tell([Draw(arch) for arch in members], [float(n) for n in range(len(members))])
    assert len(sampler.banks[1]) == BANK and list(sampler.banks[1]) == members[:BANK]
    sampler.tell([Draw(members[-1])], [-1.0])
    assert members[-1] in sampler.banks[1] and members[BANK - 1] not in sampler.banks[1]
    sampler.at, generator = 1, rng()
    drawn = Counter(sampler.child(2000, generator) for _ in range(500))
    assert drawn.most_common(1)[0][0] == members[-1] and set(drawn) <= set(sampler.banks[1])


@pytest.mark.parametrize("kind", [Complexity, Performance])
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_a_space_of_few_architectures_has_as_many_budgets(kind: type[Complexity], count: int) -> None:
    chain = SPACE.net.blocks[0], SPACE.net.blocks[1], SPACE.net.blocks[-1]
    net = Network(chain, SPACE.net.input_shape, SPACE.net.num_classes)
    few = SearchSpace("few", (Integer("width1", tuple(range(1, count + 1))), Integer("kernel1", (3,))), network=net)
    sampler, generator = kind(few, seed=0), rng()
    assert len(sampler.budgets) == count
    assert {draw.arch for _ in range(200) for draw in sampler.draw(0, generator)} == set(few.enumerate())


@pytest.mark.parametrize("name", SAMPLERS)
def test_losses_of_a_step_are_averaged_but_where_the_method_adds_or_splits(name: str) -> None:
    sampler = make_sampler(name, SPACE, epochs=5, seed=0)
    draws = sampler.draw(4, rng())
    total = sum(draw.weight for draw in draws)
    assert total == pytest.approx(len(draws) if SAMPLERS[name].trains_largest or SAMPLERS[name].shares_batch else 1)


@pytest.mark.parametrize("name", ELASTIC)
def test_performance_knows_every_width_of_the_elastic_spaces(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.samplers.complexity.POOL", 8)
    options, widths = ELASTIC[name]
    space = make_space(name, **options)
    small, large = smallest(space), largest(space)
    sampler, model = Performance(space, seed=0, budgets=2), CostModel(space)
    narrow = {**large, **{name: value for name, value in small.items() if name.endswith(widths)}}
    shallow = {name: small[name] if name.endswith("depth") else large[name] for name in small}
    expected = model.cost(space.architecture(narrow)).macs - model.cost(space.architecture(shallow)).macs
    assert sampler.narrowness(large, small) == expected
