"""Scaling rules: published multipliers and networks, budgets kept on what is built, and the exact program against brute force."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from estimators import CostModel, count, residual_cost, residual_space
from estimators.design.deepmad import evaluate, solve
from estimators.design.deepmad_bound import Bound, Prices, Problem, Step, first_prices
from estimators.design.scaling import (
    EFFICIENTNET_B0_MACS,
    RESNET_RS_BLOCKS,
    TINYNET_VARIANTS,
    Multipliers,
    Stages,
    compound,
    family,
    resnet_rs,
    scaled,
    scaled_to,
    tinynet,
    tinynet_to,
)
from estimators.zero_cost.entropy import Conv, Stage, deepmad_score, most_effectiveness
from search_spaces.core.extremes import largest

B0 = Stages((1, 2, 2, 3, 3, 4, 1), (16, 24, 40, 80, 112, 192, 320), 224)


def macs(network: Stages) -> float:
    """Of stages of 3x3 convolutions that halve the side, with a stem and a head that do not scale."""
    side, before, total = network.side / 2, 32, 3 * 32 * 9 * (network.side / 2) ** 2
    for depth, width in zip(network.depths, network.widths, strict=True):
        side /= 2
        total += 9 * width * (before + (depth - 1) * width) * side**2
        before = width
    return total + before * 1280 * side**2


def body(network: Stages) -> float:
    """Of stages at full resolution, and nothing that does not scale."""
    return network.side**2 * sum(d * w**2 for d, w in zip(network.depths, network.widths, strict=True))


@pytest.mark.parametrize(
    ("scale", "expected"), [(2, (1.07177, 1.31951, 1.03526, 1.51572)), (8, (1.23114, 2.29740, 1.10957, 3.48220))]
)
def test_recommended_multipliers(scale: float, expected: tuple[float, ...]) -> None:
    by = compound(scale)
    assert (by.depth, by.width, by.resolution, by.activations) == pytest.approx(expected, abs=1e-5)


@given(scale=st.floats(0.01, 100), alpha=st.floats(0, 1))
def test_macs_are_scaled_as_asked_and_activations_as_derived(scale: float, alpha: float) -> None:
    by = compound(scale, alpha)
    assert by.macs == pytest.approx(scale, rel=1e-9)
    assert by.activations == pytest.approx(scale ** (1 - alpha / 2), rel=1e-9)


def test_rounding() -> None:
    by = Multipliers(1.4, 1.3, 1.1)
    assert scaled(Stages((1, 2, 3), (16, 24, 40), 224), by) == Stages((1, 3, 4), (24, 32, 56), 248)
    grouped = [scaled(Stages((1,), (48,), 224, group), by) for group in (1, 3, 8, 16)]
    assert [(each.group_width, each.widths[0] % each.group_width) for each in grouped] == [
        (1, 0),
        (4, 0),
        (8, 0),
        (24, 0),
    ]
    assert scaled(Stages((1,), (8,), 32), Multipliers(0.1, 0.01, 0.01)) == Stages((1,), (8,), 4)


def test_tinynets_as_published() -> None:
    ratios = [published / EFFICIENTNET_B0_MACS for *_, published in TINYNET_VARIANTS.values()]
    networks = [tinynet_to(B0, ratio * body(B0), body) for ratio in ratios]
    assert [network.side for network in networks] == [192, 188, 184, 152, 106]
    assert networks[3].depths == (1, 1, 1, 2, 2, 3, 1)
    for width, depth, side, published in TINYNET_VARIANTS.values():
        by = tinynet(published / 387e6)
        assert (by.depth, by.resolution) == pytest.approx((depth, side))
        assert by.macs == pytest.approx(published / 387e6)
        assert by.width > width * 0.98  # the ideal width is too large


@settings(max_examples=25, deadline=None)
@given(ratio=st.floats(0.35, 1))
def test_a_budget_is_kept_and_used(ratio: float) -> None:
    budget = ratio * macs(B0)
    for network in (scaled_to(B0, budget, macs), tinynet_to(B0, budget, macs)):
        assert 0.6 * budget < macs(network) <= budget
    assert 3 * budget * 0.75 < macs(scaled_to(B0, 3 * budget, macs)) <= 3 * budget


def with_overhead(network: Stages) -> float:
    """10 ms before any work, and 20 microseconds for B0's."""
    return 10 + 0.02 * macs(network) / macs(B0)


@settings(max_examples=25, deadline=None)
@given(budget=st.floats(10.01, 25), alpha=st.floats(0.2, 1))
def test_no_larger_network_of_the_family_fits_the_budget(budget: float, alpha: float) -> None:
    def family(scale: float) -> Stages:
        return scaled(B0, compound(scale, alpha))

    found = scaled_to(B0, budget, with_overhead, lambda scale: compound(scale, alpha))
    scales = np.geomspace(0.1, 1000, 1000)
    allowed = [network for network in map(family, scales) if with_overhead(network) <= budget]
    assert with_overhead(found) == max(map(with_overhead, [*allowed, found])) <= budget


def test_a_family_has_the_largest_network_of_each_budget() -> None:
    budgets = [scale * macs(B0) for scale in (0.5, 2, 1, 4)]
    networks = family(B0, budgets, macs, lambda scale: compound(scale, 1), width_multiple=4)
    assert networks == [
        scaled_to(B0, budget, macs, lambda scale: compound(scale, 1), width_multiple=4) for budget in budgets
    ]
    assert [network.depths for network in networks] == [B0.depths] * 4


@pytest.mark.parametrize(
    ("name", "stages", "params"),
    [
        (18, Stages((2, 2, 2, 2), (64, 128, 256, 512), 64), 11_689_512),
        (50, Stages((3, 4, 6, 3), (256, 512, 1024, 2048), 64), 25_557_032),
    ],
)
def test_residual_stages_of_the_usual_networks(name: int, stages: Stages, params: int) -> None:
    assert residual_cost("params", name, num_classes=1000)(stages) == params


@settings(max_examples=4, deadline=None)
@given(
    depths=st.lists(st.integers(1, 2), min_size=3, max_size=3),
    widths=st.lists(st.sampled_from([8, 16, 32]), min_size=3, max_size=3).map(sorted),
    group_width=st.sampled_from([None, 4]),
    side=st.sampled_from([12, 20]),
)
def test_the_largest_network_of_a_residual_space_is_that_of_the_stages(
    depths: list[int], widths: list[int], group_width: int | None, side: int
) -> None:
    stages = Stages(tuple(depths), tuple(widths), side, group_width)
    space = residual_space(stages, 20, num_classes=7)
    arch = largest(space)
    network = space.net.build(space.locals(arch))
    counted = count(network, (3, side, side)).total
    assert counted == CostModel(space).cost(arch)
    for metric in ("macs", "params"):
        assert residual_cost(metric, 20, num_classes=7)(stages) == getattr(counted, metric)
    convs = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3)]
    of_stages = [width for depth, width in zip(depths, widths, strict=True) for _ in range(2 * depth)]
    assert [layer.out_channels for layer in convs[1:]] == of_stages
    assert {layer.in_channels // layer.groups for layer in convs[1:]} == {4} or group_width is None
    assert space.size > 1


def test_resnet_rs() -> None:
    assert {depth: 3 * sum(blocks) + 2 for depth, blocks in RESNET_RS_BLOCKS.items()} == {
        50: 50, 101: 101, 152: 152, 200: 200, 270: 272, 350: 350, 420: 419
    }  # fmt: skip

    def depth_and_side(network: Stages) -> float:
        return sum(network.depths) * sum(network.widths) * network.side**2

    smallest = Stages((3, 4, 6, 3), (256, 512, 1024, 2048), 160)
    assert resnet_rs(depth_and_side(smallest), depth_and_side) == smallest
    assert resnet_rs(1e15, depth_and_side).depths == (4, 44, 87, 4)
    wider = resnet_rs(2 * depth_and_side(smallest), depth_and_side, long_training=False)
    assert wider.depths == smallest.depths and wider.side == 160 and wider.widths[0] > 256
    with pytest.raises(ValueError, match="the cost of ResNet-RS-50 at 160, got 1"):
        resnet_rs(1, depth_and_side)


def problem(max_macs: float, max_params: float, effectiveness: float, weights: tuple[float, ...]) -> Problem:
    return Problem(
        ((8, 12, 16), (8, 24), (16, 32), (32, 64)), ((1, 2), (1, 3), (1, 3), (1, 2)), 32, max_macs, max_params, effectiveness,
        weights=weights,
    )  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(
    max_macs=st.floats(2e5, 2e6),
    max_params=st.floats(2e3, 1.5e5),
    effectiveness=st.floats(0.02, 0.1),
    weights=st.sampled_from([(1.0, 1.0, 1.0, 8.0), (0.0, 5.0, 0.0, 8.0), (5.0, 0.0, 1.0, 1.0)]),
)
def test_the_program_is_solved_exactly(
    max_macs: float, max_params: float, effectiveness: float, weights: tuple[float, ...]
) -> None:
    asked = problem(max_macs, max_params, effectiveness, weights)
    everything = [
        evaluate(asked, widths, depths) for widths in product(*asked.widths) for depths in product(*asked.depths)
    ]
    allowed = [found for found in everything if found is not None]
    if not allowed:
        with pytest.raises(ValueError, match="no network meets at most .*; allow more, or offer smaller"):
            solve(asked)
        return
    best = solve(asked)
    assert best.score == max(found.score for found in allowed)
    assert best == evaluate(asked, best.widths, best.depths)
    assert best.macs <= max_macs and best.params <= max_params and best.effectiveness <= effectiveness
    assert list(best.widths) == sorted(best.widths)


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """One to four stages, whose limits are near what one of their networks has."""
    stages = draw(st.integers(1, 4))
    choices = st.lists(st.integers(1, 40), min_size=1, max_size=4, unique=True)
    depths = st.lists(st.integers(1, 9), min_size=1, max_size=3, unique=True)
    widths = tuple(tuple(sorted(draw(choices))) for _ in range(stages))
    layers = tuple(tuple(draw(depths)) for _ in range(stages))
    weights = tuple(draw(st.floats(0, 8)) for _ in range(stages))
    free = Problem(widths, layers, 32, math.inf, math.inf, 1e6, weights=weights)
    some = evaluate(
        free, [max(each[0] for each in widths[: at + 1]) for at in range(stages)], [max(each) for each in layers]
    )
    loose = [draw(st.floats(0.5, 3)) for _ in range(3)]
    if some is None:
        return free
    limits = [of * by for of, by in zip((some.macs, some.params, some.effectiveness), loose, strict=True)]
    return Problem(widths, layers, 32, limits[0], limits[1], limits[2], weights=weights)


@settings(max_examples=100, deadline=None)
@given(
    asked=problems(),
    prices=st.lists(st.floats(0, 2), min_size=3, max_size=3),
    depths=st.lists(st.floats(-40, 40), min_size=3, max_size=3),
)
def test_no_network_beats_the_optimum_or_any_bound(asked: Problem, prices: list[float], depths: list[float]) -> None:
    networks = [
        evaluate(asked, widths, layers) for widths in product(*asked.widths) for layers in product(*asked.depths)
    ]
    best = max((found.score for found in networks if found is not None), default=None)
    if best is None:
        with pytest.raises(ValueError, match="no network meets at most"):
            solve(asked)
        return
    assert solve(asked).score == best
    of_depths = np.array([0.0, *depths[: len(asked.widths) - 1]])
    of_depths[1:] -= of_depths[1:].mean() if len(of_depths) > 1 else 0
    steps = [Step(asked, stage) for stage in range(len(asked.widths))]
    macs, params = prices[0] / 1e4, prices[1] / 1e2
    for each in (first_prices(asked), Prices(macs, params, 10 * prices[2], 1 + 10 * prices[1], of_depths)):
        assert Bound(asked, steps, each).value >= best - 1e-9 * abs(best)


@given(depths=st.lists(st.integers(1, 9), min_size=4, max_size=4))
def test_prices_of_depths_bound_the_penalty_and_its_gradient_meets_it(depths: list[int]) -> None:
    asked = Problem(((8,),) * 4, tuple((each,) for each in depths), 32, 1e9, 1e9, 1e6, weights=(0.0,) * 4)
    found, seen = evaluate(asked, [8] * 4, depths), np.array(depths[1:])
    steps = [Step(asked, stage) for stage in range(4)]
    gradient = 10 * np.exp(seen.std()) * (seen - seen.mean()) / (3 * max(seen.std(), 1e-9))

    def bound(share: float) -> float:
        return Bound(asked, steps, Prices(0, 0, 0, 1, np.array([0, *share * gradient]))).value

    assert found is not None and bound(1) == pytest.approx(found.score)
    assert all(bound(share) >= found.score - 1e-6 for share in (-1, 0, 0.5, 2))


def test_fine_grids_of_widths_are_solved() -> None:
    """At the size of ResNet-18; 3 x 10^12 networks."""
    widths = tuple(tuple(range(most // 16, most + 1, most // 16)) for most in (64, 128, 256, 512, 1024))
    asked = Problem(widths, (tuple(range(1, 6)),) * 5, 224, 1.82e9, 11.69e6)
    best = solve(asked)
    assert best == evaluate(asked, best.widths, best.depths)
    for at, (offered, width) in enumerate(zip(widths, best.widths, strict=True)):
        wider = min((each for each in offered if each > width), default=width)
        other = evaluate(asked, [*best.widths[:at], wider, *best.widths[at + 1 :]], best.depths)
        assert other is None or wider == width  # more channels always score more, so they do not fit


def test_figures_by_hand() -> None:
    """Three 3x3 layers with 16 input channels: effectiveness 3 / 144; each has entropy log(144) / 2."""
    asked = Problem(((16,),), ((3,),), 2, 1e9, 1e9, 1.0, channels=16, weights=(1.0,))
    found = solve(asked)
    assert found.effectiveness == pytest.approx(3 / 144)
    assert found.score == pytest.approx(math.log(16) * 3 * 2.484907 - 10, abs=1e-5)
    assert (found.macs, found.params) == (3 * 144 * 16, 3 * 144 * 16)
    deeper = solve(Problem(((16,),), ((6,),), 2, 1e9, 1e9, 1.0, channels=16, weights=(1.0,)))
    assert deeper.effectiveness == pytest.approx(2 * found.effectiveness)


def test_without_the_effectiveness_limit_networks_become_deep_and_thin() -> None:
    def solved(limit: float) -> list[int]:
        found = solve(
            Problem(((8, 16, 32, 64),) * 2, (tuple(range(1, 30)),) * 2, 32, 4e6, 1e9, limit, weights=(1.0, 8.0))
        )
        return [sum(found.depths), sum(found.widths)]

    free, limited = solved(10.0), solved(0.04)
    assert free[0] > limited[0] and free[1] < limited[1]


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="the scale must be positive, got 0; 2 doubles the macs"):
        compound(0)
    with pytest.raises(ValueError, match="`alpha` must be 0 to 1, got 2"):
        compound(2, 2)
    with pytest.raises(ValueError, match="`ratio` must be at most 1, the rule shrinks, got 2"):
        tinynet(2)
    with pytest.raises(ValueError, match="`budget` must be at least .* smallest network, got 1"):
        scaled_to(B0, 1, macs)
    with pytest.raises(ValueError, match="`budget` must be at least .*, got nan"):
        scaled_to(B0, math.nan, macs)
    with pytest.raises(
        ValueError, match="`cost` must grow with the network, got 5 for Stages.*; give a smaller budget"
    ):
        scaled_to(B0, 7, lambda network: 5)
    with pytest.raises(ValueError, match="no metric is named 'flops'"):
        residual_cost("flops")
    with pytest.raises(ValueError, match="`widths` must be positive integers, one for each of 4 stages; got"):
        residual_space(B0)
    with pytest.raises(ValueError, match="a weight for each stage, got 1, 1 and 5"):
        Problem(((8,),), ((1,),), 32, 1e9, 1e9)
    with pytest.raises(ValueError, match="`depths` must offer positive numbers for each stage"):
        Problem(((8,),), ((0,),), 32, 1e9, 1e9, weights=(1.0,))
    with pytest.raises(ValueError, match="`weights` must not be negative"):
        Problem(((8,),), ((1,),), 32, 1e9, 1e9, weights=(-1.0,))
    with pytest.raises(ValueError, match="`effectiveness` must be positive, got 0"):
        Problem(((8,),), ((1,),), 32, 1e9, 1e9, 0, weights=(1.0,))


@given(
    widths=st.lists(st.integers(4, 64), min_size=5, max_size=5).map(sorted),
    depths=st.lists(st.integers(1, 6), min_size=5, max_size=5),
)
def test_the_program_scores_as_the_score_of_a_network_does(widths: list[int], depths: list[int]) -> None:
    problem = Problem(tuple((w,) for w in widths), tuple((d,) for d in depths), 64, 1e12, 1e12, 1e3)
    found = evaluate(problem, widths, depths)
    stages = [
        Stage(width, side, (Conv(before, 9), *[Conv(width, 9)] * (depth - 1)), depth)
        for before, width, depth, side in zip([3, *widths], widths, depths, problem.sides, strict=False)
    ]
    assert found is not None
    assert found.score == pytest.approx(deepmad_score(stages))
    assert found.effectiveness == pytest.approx(most_effectiveness(stages))
