"""Changes of outputs in units of their own spread or in nats, and random projections whose gradients square to them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruners.importance.outputs import Measure
from pruners.tracing.trace import trace


class Named(nn.Module):
    """What a language model returns: logits of each token, by name, (N, L, V), or of each text, (N, V)."""

    def __init__(self, name: str, tokens: bool) -> None:
        super().__init__()
        self.name, self.tokens, self.out = name, tokens, nn.Linear(4, 5)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"hidden": x, self.name: self.out(x if self.tokens else x.mean(1))}


def measure_of(model: nn.Module, x: Tensor) -> Measure:
    return Measure(trace(model.eval(), (x,)))


def test_outputs_that_stay_do_not_change_and_others_do_in_units_of_their_spread() -> None:
    torch.manual_seed(0)
    measure = measure_of(nn.Linear(4, 3), torch.randn(2, 4))
    y = torch.randn(200, 3) * torch.tensor([1.0, 2.0, 3.0]) + 100
    assert measure.change([y], [y]) == 0
    assert measure.change([y], [y + 1]) == pytest.approx(3 / float(y.var(0).sum()), rel=1e-4)
    assert measure.change([y], [y.mean(0).expand_as(y)]) == pytest.approx(199 / 200, rel=1e-4)


@pytest.mark.parametrize("unit", [1e-4, 1.0, 1e4])
def test_units_of_outputs_do_not_matter(unit: float) -> None:
    torch.manual_seed(0)
    y, z = torch.randn(50, 3), torch.randn(50, 3)
    there, here = (measure_of(nn.Linear(4, 3), torch.randn(2, 4)) for _ in range(2))
    assert here.change([unit * y], [unit * z]) == pytest.approx(there.change([y], [z]), rel=1e-4)


def test_outputs_that_never_vary_are_no_division_by_zero() -> None:
    measure = measure_of(nn.Linear(4, 3), torch.randn(2, 4))
    y = torch.ones(5, 3)
    assert measure.change([y], [y]) == 0
    assert measure.change([y], [2 * y]) == pytest.approx(1), "in units of their size"
    assert abs(float(measure.projected([y], torch.Generator()))) <= 15
    zeros = measure_of(nn.Linear(4, 3), torch.randn(2, 4))
    assert zeros.change([0 * y], [y]) == pytest.approx(3)


def test_only_named_logits_of_tokens_are_distributions() -> None:
    x = torch.randn(2, 6, 4)
    assert measure_of(Named("logits", True), x).tokens == {1}
    assert measure_of(Named("logits", False), x).tokens == measure_of(Named("scores", True), x).tokens == frozenset()


def test_logits_change_by_the_divergence_of_the_next_token() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 6, 4)
    measure = measure_of(Named("logits", True), x)
    old, new = torch.randn(3, 6, 5), torch.randn(3, 6, 5)
    expected = nn.functional.kl_div(new.log_softmax(-1), old.log_softmax(-1), log_target=True, reduction="sum") / 18
    assert measure.change([x, old], [x, new]) == pytest.approx(float(expected), rel=1e-4)
    assert measure.change([x, old], [x, old + 7]) == pytest.approx(0, abs=1e-6), "a constant is no change"


@pytest.mark.parametrize("size", [0.0, 1e-4, 1e-2, 1.0, 10.0, 100.0])
def test_small_divergences_are_not_lost_in_rounding_nor_large_ones_in_overflow(size: float) -> None:
    torch.manual_seed(0)
    x, old = torch.randn(1, 3, 4), 4 * torch.randn(1, 3, 20_000)
    new = old + size * torch.randn(1, 3, 20_000)
    was, now = (logits.double().log_softmax(-1) for logits in (old, new))
    expected = float((was.exp() * (was - now)).sum()) / 3
    assert measure_of(Named("logits", True), x).change([x, old], [x, new]) == pytest.approx(expected, rel=0.01)


def squared_projection(measure: Measure, outputs: list[Tensor], change: Tensor, draws: int) -> float:
    """The mean square, per sample, of the gradient of random projections along a change of the last output."""
    last = outputs[-1].requires_grad_()
    generator, total = torch.Generator().manual_seed(0), 0.0
    for _ in range(draws):
        (g,) = torch.autograd.grad(measure.projected(outputs, generator), [last])
        total += float((g * change).flatten(1).sum(1).square().sum()) / len(last)
    return total / draws


def test_squared_projections_are_the_change_on_average() -> None:
    torch.manual_seed(0)
    measure = measure_of(nn.Linear(4, 3), torch.randn(2, 4))
    y, change = torch.randn(20, 3), 0.1 * torch.randn(20, 3)
    expected = measure.change([y], [y + change])
    assert squared_projection(measure, [y], change, 400) == pytest.approx(expected, rel=0.1)


def test_squared_projections_of_logits_are_the_divergence_on_average() -> None:
    """Of labels that the model draws, whose gradients square to its Fisher matrix; positions are independent."""
    torch.manual_seed(0)
    x = torch.zeros(20, 6, 4)
    measure = measure_of(Named("logits", True), x[:2])
    logits, change = torch.randn(20, 6, 5), 0.05 * torch.randn(20, 6, 5)
    expected = measure.change([x, logits], [x, logits + change])
    assert squared_projection(measure, [x, logits], change, 400) == pytest.approx(expected, rel=0.1)


class Both(nn.Module):
    """An output of real numbers beside one of whole numbers."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x * 2, x.argmax(-1)


def test_whole_numbers_are_no_output_that_changes() -> None:
    x = torch.randn(5, 4)
    measure = measure_of(Both(), x)
    returned: list[Any] = [x * 2, x.argmax(-1)]
    assert list(measure.of(returned)) == [0] and measure.samples(returned) == 5
    assert measure.change(returned, [x * 2, x.argmin(-1)]) == 0
