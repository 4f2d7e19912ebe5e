"""Blocks in the same budget as indices: what they cost, what they are worth beside groups, and that the cheaper damage goes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from pruners.allocation.allocate import Allocation, Limits, Priced, allocate, check_reachable, fewest_kept
from pruners.allocation.costs import CostModel
from pruners.allocation.latency import OperatorLatency
from pruners.allocation.selection import UNSURE, _commensurate
from pruners.groups.graph import Group
from pruners.operators.axes import Axis
from pruners.surgery import inside, unneeded
from tests.pruners.surgery.test_blocks import Net, Opened, random_net


def net(number: int = 3) -> tuple[Opened, list[Group], dict[Axis, Any], CostModel]:
    torch.manual_seed(0)
    opened = Opened(Net(["plain"] * number, False).eval(), torch.randn(4, 5))
    free = [group for group in opened.groups if not group.protected]
    deep = {Axis(1): block for block in opened.blocks}
    return opened, free, deep, CostModel(opened.graph, opened.model)


@pytest.mark.parametrize("seed", range(4))
def test_a_block_that_is_left_out_saves_what_it_costs(seed: int) -> None:
    opened = Opened(*random_net(seed))
    deep = {Axis(1): block for block in opened.blocks}
    cost = CostModel(opened.graph, opened.model)
    with_blocks = cost.with_blocks(deep)
    free = [group for group in opened.groups if not group.protected]
    for target in ("macs", "params", "weight_bytes"):
        assert with_blocks.of(target)({}) == cost.of(target)({})
        for axis, block in deep.items():
            less = cost.without(*unneeded(opened.graph.trace, [block]))
            kept = {group.axis: group.size - 2 for group in free}
            if block.norm is None:
                assert with_blocks.of(target)({axis: 0}) == less.of(target)({})
                assert with_blocks.of(target)({**kept, axis: 0}) == less.of(target)(kept)
            about = with_blocks.about(target, axis)
            saved = with_blocks.of(target)(kept) - with_blocks.of(target)({**kept, axis: 0})
            assert about(kept) - about({**kept, axis: 0}) == saved >= 0


def test_costs_of_blocks_are_none_of_the_model_that_was_given() -> None:
    _, _, deep, cost = net()
    before = cost.macs({})
    cost.with_blocks(deep)
    assert cost.macs(dict.fromkeys(deep, 0)) == before


def allocated(
    damages: Sequence[float], scores: Sequence[float], budget: float, limits: Limits | None = None
) -> tuple[Allocation, list[Group], list[Priced], CostModel]:
    """Three blocks of some damages, and the group in each with scores that are all alike."""
    _opened, free, deep, cost = net()
    blocks = [Priced(block, axis, damage) for (axis, block), damage in zip(deep.items(), damages, strict=True)]
    every = [priced.block for priced in blocks]
    held = {block: score for block, score in zip(every, scores, strict=True)}
    worth = {
        group.name: torch.full((group.size,), 1e3 if (block := inside(group, every)) is None else held[block])
        for group in free
    }
    target = {"macs": budget * cost.macs({})}
    return allocate(free, worth, cost, target, "optimal", limits, blocks=blocks), free, blocks, cost.with_blocks(deep)


def test_what_is_worth_least_goes_whole() -> None:
    found, _free, blocks, cost = allocated([5.0, 0.1, 5.0], [1.0, 1.0, 1.0], 0.75)
    assert found.left_out == (blocks[1].block,) and not found.keep
    assert cost.macs({blocks[1].axis: 0}) <= 0.75 * cost.macs({})


def test_a_precious_block_stays_and_its_indices_go() -> None:
    found, *_ = allocated([1e6] * 3, [0.01] * 3, 0.75)
    assert not found.left_out and found.keep


def test_nothing_is_taken_from_what_goes_anyway() -> None:
    found, free, blocks, cost = allocated([0.1, 0.2, 9.0], [0.5, 0.5, 0.5], 0.35)
    assert set(found.left_out) == {blocks[0].block, blocks[1].block}
    gone = {block.name for block in found.left_out}
    every = [priced.block for priced in blocks]
    for group in free:
        block = inside(group, every)
        assert group.axis not in found.keep or block is None or block.name not in gone
    left = {group.axis: int(found.keep[group.axis].sum()) for group in free if group.axis in found.keep}
    left |= {priced.axis: 0 for priced in blocks if priced.block in found.left_out}
    assert cost.macs(left) <= 0.35 * cost.macs({})


@pytest.mark.parametrize("seed", range(6))
def test_the_damage_is_the_least_that_there_is(seed: int) -> None:
    """Where costs add up: parameters of steps side by side along a stream that loses nothing."""
    _, free, deep, cost = net(2)
    every = list(deep.values())
    free = [group for group in free if inside(group, every) is not None]
    generator = torch.Generator().manual_seed(seed)
    scores = {group.name: torch.rand(group.size, generator=generator) for group in free}
    blocks = [Priced(block, axis, 8 * float(torch.rand((), generator=generator))) for axis, block in deep.items()]
    costs = cost.with_blocks(deep)
    budget = {"params": (0.3 + 0.1 * seed) * cost.params({})}
    limits = Limits(max_ratio=1)
    curves = {name: np.concatenate([[0], values.double().sort().values.cumsum(0)]) for name, values in scores.items()}

    def damage(removed: Sequence[int], left_out: Sequence[int]) -> float:
        total = sum(priced.damage for priced, gone in zip(blocks, left_out, strict=True) if gone)
        outs = [priced.block for priced, gone in zip(blocks, left_out, strict=True) if gone]
        pairs = zip(free, removed, strict=True)
        return total + sum(float(curves[g.name][n]) for g, n in pairs if inside(g, every) not in outs)

    def within(removed: Sequence[int], left_out: Sequence[int]) -> bool:
        kept = {group.axis: group.size - n for group, n in zip(free, removed, strict=True)}
        kept |= {priced.axis: 1 - gone for priced, gone in zip(blocks, left_out, strict=True)}
        return costs.params(kept) <= budget["params"]

    ways = product(product(*(range(group.size) for group in free)), product((0, 1), repeat=len(blocks)))
    best = min(damage(*way) for way in ways if within(*way))
    found = allocate(free, scores, cost, budget, "optimal", limits, blocks=blocks)
    removed = [int((~found.keep[g.axis]).sum()) if g.axis in found.keep else 0 for g in free]
    left_out = [int(priced.block in found.left_out) for priced in blocks]
    assert within(removed, left_out)
    assert damage(removed, left_out) == pytest.approx(best)


def test_only_blocks_may_reach_a_target_and_the_refusal_says_so() -> None:
    _, free, deep, cost = net()
    limits = Limits(max_ratio=0.3)
    budget = {"macs": 0.3 * cost.macs({})}
    with pytest.raises(
        ValueError, match=r"must be reachable.*protect fewer groups, or let blocks be left out with `depth`\."
    ):
        check_reachable(free, cost, budget, limits)
    least = check_reachable(free, cost.with_blocks(deep), budget, limits, deep)
    assert least["macs"] < budget["macs"]
    with pytest.raises(ValueError, match=r"protect fewer groups\."):
        check_reachable(free, cost.with_blocks(deep), {"macs": 1.0}, limits, deep)


def test_predicted_milliseconds_of_a_block_go_with_it() -> None:
    opened, free, deep, _ = net()

    def a_millisecond_each(calls: Sequence[Any], device: torch.device) -> list[float]:
        return [1.0] * len(calls)

    latency = OperatorLatency(opened.graph, fewest_kept(free, Limits()), a_millisecond_each, blocks=deep)
    alone = OperatorLatency(opened.graph, fewest_kept(free, Limits()), a_millisecond_each)
    assert latency({}) == pytest.approx(alone({}))
    axes = list(deep)
    per_block = latency({}) - latency({axes[0]: 0})
    assert per_block >= 3, "two linear layers and what is between them"
    assert latency({axes[0]: 0, axes[2]: 0}) == pytest.approx(latency({}) - 2 * per_block)
    about = latency.about(axes[1])
    assert about({}) - about({axes[1]: 0}) == pytest.approx(per_block)
    sizes = np.array([0, 1])
    assert latency({axes[0]: sizes})[1] - latency({axes[0]: sizes})[0] == pytest.approx(per_block)


def test_blocks_are_divided_by_what_estimates_are_usually_off_by() -> None:
    _opened, free, deep, _ = net()
    every = list(deep.values())
    blocks = [Priced(block, axis, damage) for (axis, block), damage in zip(deep.items(), [2.0, 4.0, 4.0], strict=True)]
    scores = {group.name: torch.full((group.size,), 1 / group.size) for group in free}
    scaled, priced, unit = _commensurate(scores, free, blocks)
    assert unit == pytest.approx(4)
    assert [found.damage for found in priced] == pytest.approx([0.5, 1.0, 1.0]), "the median factor is 4"
    assert all(torch.equal(scaled[name], scores[name]) for name in scores)
    far = [blocks[0]._replace(damage=4.0), blocks[1], blocks[2]._replace(damage=4.0 * 2 * UNSURE)]
    scaled, priced, _ = _commensurate(scores, free, far)
    assert [found.damage for found in priced] == pytest.approx([1.0, 1.0, 2 * UNSURE])
    for group in free:
        raised = 2 * UNSURE if inside(group, every) is every[2] else 1.0
        torch.testing.assert_close(scaled[group.name], raised * scores[group.name])


def test_without_blocks_scores_are_as_they_are() -> None:
    _, free, _, _ = net()
    scores = {group.name: torch.rand(group.size) for group in free}
    assert _commensurate(scores, free, []) == (scores, [], 1.0)
