"""What steps are worth is remembered, and forgotten where it changes."""

from __future__ import annotations

from functools import cached_property

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pruners.allocation.allocate import Limits, fewest_kept, importance_lost
from pruners.allocation.greedy import within
from pruners.allocation.program import Item, Program
from pruners.allocation.targets import counted_budgets
from pruners.operators.axes import Axis
from pruners.surgery import around, inside, removable_blocks
from tests.pruners.allocation.test_knapsack import analysed


class Forgetful(Program):
    """Every step is worth something else after every other."""

    @cached_property
    def touched(self) -> dict[str, list[Item]]:
        return {item.name: self.every for item in self.every}


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["residual", "dense", "fused qkv", "shared", "grouped and shuffled"]),
    st.dictionaries(st.sampled_from(["macs", "params"]), st.floats(0.3, 0.9), min_size=1),
    st.integers(0, 1000),
)
def test_what_is_remembered_is_what_would_be_computed(name: str, targets: dict[str, float], seed: int) -> None:
    free, cost = analysed(name)
    generator = torch.Generator().manual_seed(seed)
    blocks = removable_blocks(cost.graph)
    axes = {block.name: Axis(1) for block in blocks}
    cost = cost.with_blocks({axes[block.name]: block for block in blocks})
    budgets = counted_budgets(targets, cost)
    fewest = {**fewest_kept(free, Limits()), **dict.fromkeys(axes.values(), 0)}
    assume(all(cost.of(target)(fewest) <= budget for target, budget in budgets.items()))

    def items(part_of: object = None) -> tuple[Item, ...]:
        own = [Item(group.name, group.axis, group.size) for group in free if inside(group, blocks) is part_of]
        inner = [block for block in blocks if around(block, blocks) is part_of]
        return (*own, *(Item(block.name, axes[block.name], 1, items(block)) for block in inner))

    damages = {group.name: importance_lost(torch.rand(group.size, generator=generator)) for group in free}
    damages |= {block.name: importance_lost(5 * torch.rand(1, generator=generator)) for block in blocks}
    levels = {group.name: Limits().levels(group) for group in free} | {block.name: [0, 1] for block in blocks}
    start = dict.fromkeys(damages, 0)
    found, expected = (within(kind(items(), damages, levels, cost, budgets), start) for kind in (Program, Forgetful))
    assert found == expected
    kept = Program(items(), damages, levels, cost, budgets).kept(found)
    assert all(cost.of(target)(kept) <= budget for target, budget in budgets.items())
