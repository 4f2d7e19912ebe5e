"""Targets that only a built model can tell, with estimators that know no clock, and what all targets have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from estimators import count
from pruners.allocation.targets import Measured, measured_targets, parse_target, search
from tests.pruners.networks import build
from tests.pruners.plain import prune


def energy(model: nn.Module, inputs: Any) -> float:
    """A cost that is neither of the counted ones: activations, plus a start-up."""
    return 100.0 + count(model, inputs).total.activations


def shaky(size: float, seed: int = 0) -> Callable[[nn.Module, Any], float]:
    """`energy` with relative noise."""
    generator = torch.Generator().manual_seed(seed)
    return lambda model, inputs: energy(model, inputs) * float(1 + size * torch.randn(1, generator=generator))


@pytest.mark.parametrize("fraction", [0.5, 0.7, 0.95])
@pytest.mark.parametrize("allocation", ["global", "uniform"])
def test_an_own_target_is_met_and_one_index_less_would_miss(fraction: float, allocation: str) -> None:
    model, example = build("residual")
    found = prune(model, example, {"energy": fraction}, estimators={"energy": energy}, allocation=allocation)
    report = found.summary.targets["energy"]
    assert report["asked"] == pytest.approx(fraction * energy(model, example))
    assert report["measured"] == report["predicted"] == energy(found.model, example) <= report["asked"]
    assert found.summary.before["energy"] == energy(model, example)
    index = 2 * 2 * 8 * 8  # one channel of the stem and of what is added to it, two samples of 8 x 8
    step = index if allocation == "global" else 2 * index
    assert report["asked"] - report["measured"] < step


def test_several_targets_of_both_kinds() -> None:
    model, example = build("residual")
    targets: dict[str, float | str] = {"params": 0.6, "energy": 2500.0, "macs": 0.9}
    summary = prune(model, example, targets, estimators={"energy": energy}).summary
    assert set(summary.targets) == set(targets)
    assert all(found["measured"] <= found["asked"] for found in summary.targets.values())
    assert summary.targets["macs"]["predicted"] == summary.after["macs"]
    assert max(found["measured"] / found["asked"] for found in summary.targets.values()) > 0.9


def test_noise_does_not_let_a_miss_pass() -> None:
    model, example = build("residual")
    for seed in range(5):
        found = prune(model, example, {"energy": 0.7}, estimators={"energy": shaky(0.03, seed)})
        report = found.summary.targets["energy"]
        assert report["measured"] <= report["asked"]
        assert 0.5 * energy(model, example) < energy(found.model, example) < 0.8 * energy(model, example)


def test_a_measured_target_is_refused_with_the_range() -> None:
    model, example = build("residual")
    with pytest.raises(
        ValueError, match=r"must be reachable, got energy 101.*energy from [\d,.]+ to [\d,.]+, measured"
    ):
        prune(model, example, {"energy": 101.0}, estimators={"energy": energy})


def test_a_result_that_is_measured_beyond_its_target_is_refused() -> None:
    model, example = build("residual")
    calls = iter(range(1000))

    def worsening(model: nn.Module, inputs: Any) -> float:
        return energy(model, inputs) * (1.0 if next(calls) < 15 else 3.0)

    with pytest.raises(ValueError, match=r"must be met by the built model, got energy .* where"):
        prune(model, example, {"energy": 0.7}, estimators={"energy": worsening})


def test_latency_is_measured_on_the_example_inputs() -> None:
    model, (x,) = build("residual")
    (aim,) = measured_targets({"latency_ms": 0.9}, {}, model, (), {"x": x})
    reading = aim.read(model)
    assert reading.limit == 0.9 * reading.full and reading.value > 0


def test_latency_comes_from_the_machine_unless_told_otherwise() -> None:
    model, example = build("residual")
    targets: dict[str, float | str] = {"latency_ms": "0.0028ms"}
    report = prune(model, example, targets, estimators={"latency_ms": lambda m, x: energy(m, x) / 1e6}).summary.targets[
        "latency_ms"
    ]
    assert report["asked"] == 0.0028 and 0.0025 < report["measured"] <= 0.0028


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("macs", 0.5, (0.5, True)),
        ("macs", 1, (1.0, True)),
        ("macs", 1.5, (1.5, False)),
        ("latency_ms", 3.0, (3.0, False)),
        ("latency_ms", "0.8ms", (0.8, False)),
        ("latency_ms", "12ms", (12.0, False)),
    ],
)
def test_fractions_and_absolute_numbers(name: str, value: float | str, expected: tuple[float, bool]) -> None:
    assert parse_target(name, value) == expected


@pytest.mark.parametrize(
    ("targets", "estimators", "message"),
    [
        ({}, {}, "at least one"),
        ({"flops": 0.5}, {}, "got 'flops'.*`estimators`"),
        ({"macs": 0.0}, {}, "positive"),
        ({"macs": float("nan")}, {}, "positive"),
        ({"macs": float("inf")}, {}, "positive"),
        ({"macs": "0.5"}, {}, r"`targets\['macs'\]` must be positive, got '0.5'"),
        ({"macs": "5ms"}, {}, "absolute number above 1"),
        ({"latency_ms": "fast"}, {}, 'milliseconds such as "0.8ms"'),
        ({"latency_ms": "-1ms"}, {}, "positive"),
        ({"macs": 0.5}, {"params": energy}, "names of their own, got params"),
        ({"energy": 0.5}, {"energy": lambda model, inputs: 0.0}, "estimator of 'energy' must return a positive number"),
        ({"energy": 0.5}, {"energy": lambda model, inputs: float("nan")}, "positive number, got nan"),
    ],
)
def test_bad_targets_are_refused(targets: Any, estimators: Any, message: str) -> None:
    model, example = build("residual")
    with pytest.raises(ValueError, match=message):
        prune(model, example, targets, estimators=estimators)


@pytest.mark.parametrize("outlier", [0, 1, 2])
def test_one_disturbed_measurement_of_three_does_not_make_a_miss(outlier: int) -> None:
    asked: list[float] = []

    def shaken(model: nn.Module) -> tuple[float, float]:
        asked.append(model.size * (1.3 if len(asked) == outlier else 1.0))  # type: ignore[operator, arg-type]
        return 1000.0, asked[-1]

    aim = Measured("latency_ms", 500.0, False, shaken)
    assert aim.settle(Sized(490.0)).met and len(asked) == (3 if outlier == 0 else 1)
    asked.clear()
    assert not aim.settle(Sized(510.0)).met and len(asked) == 3


def test_a_result_that_is_disturbed_once_keeps_its_channels() -> None:
    model, example = build("residual")
    undisturbed = prune(model, example, {"energy": 0.7}, estimators={"energy": energy})
    calls = iter(range(1000))

    def last_disturbed(model: nn.Module, inputs: Any) -> float:
        return energy(model, inputs) * (2.0 if next(calls) == last else 1.0)

    last = 1000
    prune(model, example, {"energy": 0.7}, estimators={"energy": last_disturbed})
    last, calls = next(calls) - 1, iter(range(1000))
    found = prune(model, example, {"energy": 0.7}, estimators={"energy": last_disturbed})
    assert next(calls) == last + 3
    assert found.summary.after == undisturbed.summary.after


def test_the_search_takes_few_measurements() -> None:
    (aim,) = measured_targets({"energy": 0.5}, {"energy": lambda m, x: float(m.size)}, Sized(1000.0), (), {})
    built: list[float] = []

    def smaller(budget: float) -> nn.Module:
        built.append(budget)
        return Sized(budget)

    budget, readings = search(smaller, [aim], 10.0, 1000.0)
    assert 499 < budget <= 500 and readings["energy"].value == budget and len(built) <= 14


class Sized(nn.Module):
    def __init__(self, size: float) -> None:
        super().__init__()
        self.size = size
