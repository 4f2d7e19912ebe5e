"""How positions of a sample add up, where it is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pruners.importance.coherence import USUAL, Coherence
from pruners.importance.config import Importance
from pruners.importance.curvature import _features, _samples
from pruners.importance.score import score_groups
from tests.pruners.importance.test_curvature import opened

N, L, Q = 400, 16, 3


def ratio(x: Tensor, g: Tensor) -> float:
    """Of values and gradients (N, L, Q), in two batches."""
    found = Coherence()
    for part in (slice(0, 100), slice(100, None)):
        count = len(x[part])
        found.add(x[part].flatten(0, 1), g[part].flatten(0, 1), torch.arange(count).repeat_interleave(L), count)
    return found.ratio()


def test_independent_positions_add_up_by_their_squares() -> None:
    torch.manual_seed(0)
    assert ratio(torch.randn(N, L, Q) + 3, torch.randn(N, L, Q)) == pytest.approx(1, abs=0.1)


def test_positions_that_are_alike_add_up_by_themselves() -> None:
    torch.manual_seed(0)
    x, g = torch.randn(N, 1, Q).expand(N, L, Q), torch.randn(N, 1, Q).expand(N, L, Q)
    assert ratio(x + 3, g) == pytest.approx((N * L + USUAL) / (N + USUAL), rel=0.1)


def test_positions_that_undo_each_other_count_as_independent() -> None:
    torch.manual_seed(0)
    x = torch.randn(N, 1, Q).expand(N, L, Q)
    assert ratio(x + 3, torch.tensor([1.0, -1.0]).repeat(L // 2)[None, :, None].expand(N, L, Q)) == 1


def test_few_samples_say_little_and_what_reacts_to_nothing_is_no_division_by_zero() -> None:
    torch.manual_seed(0)
    found = Coherence()
    assert found.ratio() == 1
    found.add(torch.randn(L, Q).expand(L, Q), torch.zeros(L, Q), torch.zeros(L, dtype=torch.long), 1)
    assert found.ratio() == 1


@pytest.mark.parametrize(
    ("shape", "dims"), [((5, 7, 4), (-1,)), ((7, 5, 4), (-1,)), ((5, 4, 6, 6), (-3,)), ((5, 2, 7, 4), (-3, -1))]
)
def test_positions_belong_to_the_sample_they_come_from(shape: tuple[int, ...], dims: tuple[int, ...]) -> None:
    at = shape.index(5)
    value = torch.arange(5.0).view(-1, *[1] * (len(shape) - at - 1)).expand(shape)
    sample = _samples(value, dims, None, 5)
    assert sample is not None and torch.equal(_features(value, dims, None)[:, 0].long(), sample)
    assert _samples(value, dims, None, 3) is None


def test_padding_belongs_to_no_sample() -> None:
    real = torch.tensor([[True, True, False], [True, False, False]])
    sample = _samples(torch.zeros(2, 3, 4), (-1,), real, 2)
    assert sample is not None and sample.tolist() == [0, 0, 1]


class Averaged(nn.Module):
    """Two branches, of which one is averaged over positions and the other read at one of them; alike in all else."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv1d(4, 8, 1)
        self.other = nn.Conv1d(4, 8, 1)
        self.out = nn.Conv1d(8, 2, 1, bias=False)
        self.last = nn.Conv1d(8, 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.out(self.inner(x).tanh()).mean(-1), self.last(self.other(x).tanh())[..., 0]], 1)


def test_what_is_averaged_over_alike_positions_costs_as_much_as_one_position() -> None:
    torch.manual_seed(0)
    model = Averaged()
    with torch.no_grad():
        for one, other in ((model.inner, model.other), (model.out, model.last)):
            for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
                theirs.copy_(mine)
    x = torch.randn(800, 4, 1).expand(800, 4, 16)
    graph, free = opened(model, x[:2])
    first, second = score_groups(graph, free, Importance(criterion="curvature"), batches=[x]).values()
    assert float(first.min()) == pytest.approx(float(second.min()), rel=0.3)
