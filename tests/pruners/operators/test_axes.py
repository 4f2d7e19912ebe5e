"""The algebra of axes: refinement, freezing, and masks that agree with the data movement they stand for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pruners.operators.axes import (
    Axis,
    Misaligned,
    concat,
    count,
    cut,
    factor,
    find,
    freeze,
    leaves,
    mask,
    product,
    tie,
    units,
)


def kept(axis: Axis, removed: dict[Axis, list[int]]) -> list[int]:
    keep = {}
    for leaf, indices in removed.items():
        keep[find(leaf)] = torch.ones(leaf.size, dtype=torch.bool)
        keep[find(leaf)][indices] = False
    result = mask(axis, keep).nonzero().flatten().tolist()
    assert len(result) == count(axis, {leaf: int(k.sum()) for leaf, k in keep.items()})
    return result


def test_elementary_axis_takes_the_structure_it_is_tied_to() -> None:
    heads, width, channels = Axis(2), Axis(3), Axis(6)
    tie(channels, product((heads, width)))
    assert leaves(channels) == [heads, width]
    assert kept(channels, {heads: [0]}) == [3, 4, 5]
    assert kept(channels, {width: [1]}) == [0, 2, 3, 5]
    assert units(channels, width).tolist() == [0, 1, 2, 0, 1, 2]
    assert units(channels, heads).tolist() == [0, 0, 0, 1, 1, 1]


def test_concatenations_are_refined_at_all_breakpoints() -> None:
    whole = Axis(10)
    first = cut(whole, (4, 6))
    second = cut(whole, (3, 7))
    tie(first[0], Axis(4))
    assert [leaf.size for leaf in leaves(whole)] == [3, 1, 6]
    assert [leaf.size for leaf in leaves(second[1])] == [1, 6]


def test_products_are_refined_to_common_factors() -> None:
    a, b = product((Axis(6), Axis(4))), product((Axis(12), Axis(2)))
    tie(a, b)
    assert [leaf.size for leaf in leaves(a)] == [6, 2, 2]
    assert leaves(a) == leaves(b)


def test_factors_without_common_refinement_are_frozen() -> None:
    a, b = product((Axis(2), Axis(3))), product((Axis(3), Axis(2)))
    tie(a, b)
    assert all(leaf.frozen for leaf in (*leaves(a), *leaves(b)))


def test_shuffled_halves_are_tied() -> None:
    left, right = Axis(4), Axis(4)
    outer, inner = factor(concat((left, right)), (2, 4))
    assert find(left) is find(right) is find(inner)
    assert all(leaf.frozen for leaf in leaves(outer))
    assert kept(product((inner, outer)), {left: [1]}) == [0, 1, 4, 5, 6, 7]


def test_a_cut_inside_a_row_of_a_product() -> None:
    rows, row = Axis(3), Axis(4)
    head, tail = cut(product((rows, row)), (6, 6))
    assert head.size == tail.size == 6
    first_half = leaves(head)[-1]
    assert kept(head, {first_half: [0]}) == [1, 2, 3, 5] and kept(tail, {first_half: [0]}) == [0, 1, 3, 4, 5]


def test_freezing_spreads_through_ties() -> None:
    a, b, c = Axis(6), Axis(6), Axis(6)
    freeze(a, "input")
    tie(b, product((Axis(2), Axis(3))))
    tie(a, b)
    tie(b, c)
    assert all(leaf.frozen == "input" for leaf in leaves(c))


def test_an_axis_tied_to_a_part_of_itself_is_frozen() -> None:
    part = Axis(1)
    whole = concat((part, Axis(3)))
    other = concat((Axis(3), Axis(1)))
    tie(whole, other)
    assert find(whole).size == 4
    with pytest.raises(Misaligned):
        factor(Axis(6), (4, 2))


@st.composite
def moves(draw: st.DrawFn) -> list[tuple[str, int]]:
    return draw(st.lists(st.tuples(st.sampled_from(("swap", "cat", "cut", "rows")), st.integers(1, 3)), max_size=5))


@settings(deadline=None, max_examples=80)
@given(moves(), st.integers(0, 2**16))
def test_masks_follow_the_data(steps: list[tuple[str, int]], seed: int) -> None:
    """Move labels and axes alike; an index stays exactly if the mask says so of the label's own axis."""
    source = Axis(12)
    labels, axis = torch.arange(12), source
    for step, n in steps:
        size = len(labels)
        if step == "swap" and size % (n + 1) == 0:
            try:
                outer, inner = factor(axis, (n + 1, size // (n + 1)))
            except Misaligned:
                continue
            axis, labels = product((inner, outer)), labels.view(n + 1, -1).t().flatten()
        elif step == "cat" and size < 100:
            axis, labels = concat((axis, axis)), labels.repeat(2)
        elif step == "cut" and size > n + 1:
            axis, labels = cut(axis, (n, size - n))[1], labels[n:]
        elif step == "rows" and size < 100:
            axis, labels = product((Axis(n, "copies"), axis)), labels.repeat(n)
    generator = torch.Generator().manual_seed(seed)
    keep = {leaf: torch.rand(leaf.size, generator=generator) < 0.5 for leaf in leaves(source) if not leaf.frozen}
    expected = mask(source, keep)[labels]
    assert torch.equal(mask(axis, keep), expected)
