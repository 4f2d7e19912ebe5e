"""Skip connections in a chain: what is kept comes back, last first, in supernets, in networks and in shapes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from search_spaces import Block, Network, OnSkip, Supernet, elastic_block
from search_spaces.core.skips import joined, joined_shape


class Scale(nn.Module):
    """Multiplies by its weight, and repeats pixels where its local choice, (times,), says so."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(()))

    def choose_(self, local: tuple[int], in_shape: tuple[int, ...]) -> None:
        (self.times,) = local

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x * self.weight, scale_factor=self.times) if self.times > 1 else x * self.weight


def chain(*locals: OnSkip | tuple[int]) -> tuple[Network, tuple[OnSkip | tuple[int], ...]]:
    def block(number: int) -> Block:
        return elastic_block(f"block{number}", (), Scale, lambda: locals[number])

    return Network(tuple(block(number) for number in range(len(locals))), (1, 3, 2), 1), locals


KEEPS, JOINS, BOTH = OnSkip((1,), keeps=True), OnSkip((1,), joins=True), OnSkip((1,), keeps=True, joins=True)


@pytest.mark.parametrize(
    ("locals", "channels"),
    [
        ((KEEPS, JOINS), [1, 2]),
        ((KEEPS, (1,), JOINS, (1,)), [1, 1, 2, 2]),
        ((KEEPS, KEEPS, JOINS, JOINS), [1, 1, 2, 3]),
        ((KEEPS, BOTH, (1,), JOINS), [1, 2, 2, 4]),
        ((KEEPS, (2,), JOINS), [1, 1, 2]),
    ],
)
def test_what_is_kept_last_comes_back_first(locals: tuple[OnSkip | tuple[int], ...], channels: list[int]) -> None:
    network, chosen = chain(*locals)
    supernet, x = Supernet(network), torch.randn(2, 1, 3, 2)
    subnet, own = supernet.extract(chosen), network.build(chosen)
    weights = [parameter.detach() for parameter in supernet.parameters()]
    expected, kept = x, []
    for local, weight in zip(locals, weights, strict=True):
        if isinstance(local, OnSkip) and local.joins:
            before = kept.pop()
            expected = torch.cat((before, expected[..., : before.shape[2], : before.shape[3]]), dim=1)
        expected = expected * weight
        if local == (2,):
            expected = F.interpolate(expected, scale_factor=2)
        if isinstance(local, OnSkip) and local.keeps:
            kept.append(expected)
    assert torch.equal(supernet(x, chosen), expected) and torch.equal(subnet(x), expected)
    own.load_state_dict(subnet.state_dict())
    assert torch.equal(own(x), expected)
    assert [part.seen[1][0] for part in network.parts(chosen)] == channels and expected.shape[1] == channels[-1]


@given(st.integers(1, 4), st.integers(1, 4), st.lists(st.tuples(st.integers(1, 5), st.integers(0, 3)), max_size=3))
def test_shapes_are_those_of_tensors(kept: int, own: int, sides: list[tuple[int, int]]) -> None:
    before = (kept, *(side for side, _ in sides))
    after = (own, *(side + more for side, more in sides))
    assert joined_shape(before, after) == joined(torch.zeros(2, *before), torch.zeros(2, *after)).shape[1:]


def test_what_cannot_be_joined_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at least as large as what was kept, got \(3, 2, 4\) for \(1, 3, 4\)"):
        joined_shape((1, 3, 4), (3, 2, 4))
    network, chosen = chain(JOINS)
    with pytest.raises(ValueError, match="needs an earlier one that keeps, got none"):
        network.build(chosen)
    with pytest.raises(ValueError, match="needs an earlier one that keeps, got none"):
        Supernet(network)(torch.zeros(1, 1, 3, 2), chosen)
