"""The range test finds a rate that neither undoes what a network knows nor leaves it where it is, and changes nothing."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from nas.training import NotFinite, safe_rate, trial_rate


def bowl() -> tuple[nn.Linear, torch.optim.Optimizer]:
    """A weight of 2 and a loss of 5 times its square, on which descent is stable at rates below 0.2 and best at 0.1."""
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 2.0)
    return layer, torch.optim.SGD(layer.parameters(), lr=1.0, momentum=0.5)


def test_the_best_rate_is_taken_and_the_test_ends_at_the_first_that_is_clearly_worse() -> None:
    layer, optimizer = bowl()

    def trial(rate: float) -> None:
        with torch.no_grad():
            for _ in range(3):
                layer.weight *= 1 - 10 * rate

    found = safe_rate(layer, optimizer, trial, lambda: 5 * layer.weight.item() ** 2, [0.4, 0.08, 0.001, 0.01, 0.19])
    assert found.rate == 0.08 and found.start == pytest.approx(20)
    assert list(found.losses) == [0.001, 0.01, 0.08, 0.19]  # in rising order, and 0.4 no more
    assert layer.weight.item() == 2


def test_of_rates_that_are_as_good_the_highest_is_taken() -> None:
    layer, optimizer = bowl()
    losses = iter([1.0, 0.5, 0.499, 0.501, 0.52])
    assert safe_rate(layer, optimizer, lambda rate: None, lambda: next(losses), [1, 2, 3, 4]).rate == 3


def test_everything_is_left_as_it_was() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2)).eval()
    net[3].train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(torch.randn(6, 4)).square().sum().backward()
    optimizer.step()
    before = copy.deepcopy((net.state_dict(), optimizer.state_dict()))
    random = torch.get_rng_state()
    seen = []

    def trial(rate: float) -> None:
        net.train()
        optimizer.param_groups[0]["lr"] = rate
        seen.append(torch.rand(()).item())
        net(torch.randn(6, 4)).square().sum().backward()
        optimizer.step()

    safe_rate(net, optimizer, trial, lambda: 1.0, [0.1, 0.2])
    assert len(seen) == 2 and seen[0] == seen[1]  # each trial draws the same
    assert torch.equal(torch.get_rng_state(), random)
    assert [part.training for part in net] == [False, False, False, True]
    assert all(torch.equal(value, before[0][name]) for name, value in net.state_dict().items())
    after = optimizer.state_dict()
    assert after["param_groups"] == before[1]["param_groups"]
    for index, entry in after["state"].items():
        assert torch.equal(entry["momentum_buffer"], before[1]["state"][index]["momentum_buffer"])


def test_a_rate_that_diverges_ends_the_test() -> None:
    layer, optimizer = bowl()

    def trial(rate: float) -> None:
        if rate > 1:
            raise NotFinite("nan")

    found = safe_rate(layer, optimizer, trial, lambda: 1.0, [0.5, 2, 3])
    assert found.rate == 0.5 and found.losses == {0.5: 1.0, 2: math.inf}
    with pytest.raises(ValueError, match=r"must lead to a finite loss, got none among 2, 3; give a lower one"):
        safe_rate(layer, optimizer, trial, lambda: 1.0, [2, 3])


def test_no_rate_is_tried_after_the_time_is_up() -> None:
    layer, optimizer = bowl()
    found = safe_rate(layer, optimizer, lambda rate: None, lambda: 1.0, [1, 2, 3], seconds=0)
    assert list(found.losses) == [1]


def test_the_rate_of_a_trial_rises_and_falls() -> None:
    rates = [trial_rate(2.0, step, 20) for step in range(20)]
    top = rates.index(max(rates))
    assert top in (3, 4) and 1.8 < max(rates) <= 2
    assert rates[: top + 1] == sorted(rates[: top + 1]) and rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] < 0.02
