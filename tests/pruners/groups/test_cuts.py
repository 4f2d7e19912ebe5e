"""Slices of tensors of which some axis is ragged: they commute with the data movement that the axes stand for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pruners.groups.cuts import cuts, kept_per_row
from pruners.groups.ragged import curve, keep_highest
from pruners.operators.axes import Axis, concat, product
from pruners.operators.rules import Dims

ROWS, SIZE = 3, 4
MOVES = ("swap", "merge", "merge swapped", "twice", "beside itself", "copies", "other axis")


def moved(tensor: torch.Tensor, dims: Dims, move: str) -> tuple[torch.Tensor, Dims]:
    """Move data and axes alike; dimensions are (host, ragged) until they are merged."""
    a, b = dims
    if move == "swap":
        return tensor.transpose(0, 1), [b, a]
    if move == "merge":
        return tensor.flatten().unsqueeze(0), [Axis(1), product((a, b))]
    if move == "merge swapped":
        return tensor.t().flatten().unsqueeze(1), [product((b, a)), Axis(1)]
    if move == "twice":
        return torch.cat([tensor, tensor], 1), [a, concat((b, b))]
    if move == "beside itself":
        return torch.cat([tensor, tensor], 0), [concat((a, a)), b]
    if move == "copies":
        return tensor.repeat_interleave(2, 0), [product((a, Axis(2))), b]
    return torch.cat([tensor, tensor.new_full((tensor.shape[0], 5), -1)], 1), [a, concat((b, Axis(5)))]


@settings(deadline=None, max_examples=120)
@given(st.lists(st.sampled_from(MOVES), max_size=4), st.integers(0, 2**16))
def test_a_slice_of_what_is_moved_is_what_the_slice_moves_to(moves: list[str], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    host, axis = Axis(ROWS), Axis(SIZE)
    keep = {axis: keep_highest(torch.rand(ROWS, SIZE, generator=generator), int(seed % SIZE))}
    if seed % 2:
        keep[host] = keep_highest(torch.rand(ROWS, generator=generator), 1)
    counts = {leaf: kept_per_row(leaf, kept, {axis: host}.get(leaf)) for leaf, kept in keep.items()}

    def smaller(tensor: torch.Tensor, dims: Dims) -> torch.Tensor:
        for cut in cuts(dims, keep, counts, {axis: host}):
            tensor = cut.take(tensor)
        return tensor

    whole, dims = torch.arange(1.0, 1 + ROWS * SIZE).view(ROWS, SIZE), [host, axis]
    rows = keep[host].nonzero().flatten() if host in keep else range(ROWS)
    part = torch.stack([whole[row][keep[axis][row]] for row in rows])
    torch.testing.assert_close(smaller(whole, dims), part)
    for move in moves:
        (whole, after), (part, _) = moved(whole, dims, move), moved(part, dims, move)
        dims = after
    assert torch.equal(smaller(whole, dims), part)
    silent = whole
    for cut in cuts(dims, keep, counts, {axis: host}):
        silent = cut.silence(silent)
    assert torch.equal(smaller(silent, dims), part) and set(silent.unique().tolist()) <= {0, *part.unique().tolist()}
    back = part
    for cut in reversed(cuts(dims, keep, counts, {axis: host})):
        back = cut.put(back)
    assert torch.equal(back, silent)


@pytest.mark.parametrize(
    ("kept", "host"),
    [
        (torch.ones(3, 4, dtype=torch.bool), None),
        (torch.ones(2, 4, dtype=torch.bool), Axis(3)),
        (torch.tensor([[True, False], [True, True]]), Axis(2)),
    ],
)
def test_what_is_kept_must_fit(kept: torch.Tensor, host: Axis | None) -> None:
    with pytest.raises(ValueError, match=r"keeps as many as the others, got shape"):
        kept_per_row(Axis(kept.shape[1]), kept, host)


def test_each_row_keeps_its_highest_and_the_curve_adds_them_up() -> None:
    scores = torch.tensor([[3.0, 1.0, 2.0], [0.5, 5.0, 4.0]])
    assert keep_highest(scores, 1).tolist() == [[True, False, True], [False, True, True]]
    assert keep_highest(scores[0], 2).tolist() == [True, False, False]
    assert keep_highest(torch.ones(3), 1).tolist() == [False, True, True]
    assert curve(scores).tolist() == [1.5, 6.0, 8.0]
    assert curve(scores[0]).tolist() == [3.0, 1.0, 2.0]
