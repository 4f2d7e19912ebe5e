"""Latency as a cost: tables of operators that no clock measures, against the costs that they were made from and brute force."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from estimators import count
from pruners.allocation.allocate import ALLOCATIONS, Limits, fewest_kept
from pruners.allocation.costs import CostModel, Part
from pruners.allocation.greedy import within
from pruners.allocation.latency import OperatorLatency
from pruners.allocation.program import Item, Program
from pruners.allocation.targets import Measured, approach
from pruners.allocation.timing import Alone, Call, measured_ms
from pruners.groups.dependency import dependency_groups, tie_axes
from pruners.groups.graph import AxisGraph, Group
from pruners.operators.axes import Axis
from pruners.tracing.trace import trace
from tests.pruners.allocation.test_knapsack import Branches, kept_importance
from tests.pruners.networks import NETWORKS, build
from tests.pruners.plain import allocate, prune
from tests.pruners.test_invariants import random_removal

CPU = torch.device("cpu")
NOT_MULTILINEAR = (
    "grouped and shuffled", "grouped queries by operator", "recurrent", "rows written in turn", "shared", "state space",
    "zero padded shortcut",
)  # fmt: skip
Clock = Callable[[Sequence[Call], torch.device], list[float]]


def macs_ms(calls: Sequence[Call], device: torch.device) -> list[float]:
    """A machine that takes a millisecond for each multiply-accumulate."""

    def macs(call: Call) -> float:
        leaves = enumerate(pytree.tree_leaves(call.named))
        memory = {i: torch.zeros(x.numel(), dtype=x.dtype) for i, x in leaves if isinstance(x, Tensor)}
        return float(count(Alone(call, memory), (torch.zeros(1),)).total.macs)

    return [macs(call) for call in calls]


def stairs_ms(calls: Sequence[Call], device: torch.device) -> list[float]:
    """A machine that computes output channels in blocks of 16, and does the rest for nothing."""
    weights = [call.named.get("weight") for call in calls]
    return [-(-w.shape[0] // 16) * 16 * w.shape[1] if w is not None and w.dim() > 1 else 0.0 for w in weights]


def slow_layer(features: int, times: float) -> Clock:
    """A machine that takes a microsecond per parameter, and some times as long for layers of so many input features."""

    def measure(calls: Sequence[Call], device: torch.device) -> list[float]:
        weights = [call.named.get("weight") for call in calls]
        return [0.0 if w is None else 1e-3 * w.numel() * (times if w.shape[1] == features else 1) for w in weights]

    return measure


def analysed(model: nn.Module, *inputs: Tensor) -> tuple[AxisGraph, list[Group]]:
    graph = tie_axes(trace(model.eval(), inputs))
    return graph, [group for group in dependency_groups(graph) if not group.protected]


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_a_machine_that_counts_macs_gives_their_number(name: str) -> None:
    """Every operator runs by itself, and macs, products of sizes, are interpolated exactly: a removal saves as many.

    What is squared (one group on both sides of a layer) or has more than three sizes is near.
    """
    model, example = build(name)
    graph, free = analysed(model, *example)
    if graph.trace.choosing:
        pytest.skip("rows are chosen by their values")
    cost = CostModel(graph, model)
    latency = OperatorLatency(graph, fewest_kept(free, Limits(max_ratio=1)), macs_ms)
    assert latency.left_out == []
    for seed in range(3):
        kept = {axis: int(keep.sum(-1).max()) for axis, keep in random_removal(graph, seed).items()}
        near = 0.1 if name in NOT_MULTILINEAR else 1e-6
        assert latency({}) - latency(kept) == pytest.approx(cost.macs({}) - cost.macs(kept), rel=near)


@pytest.mark.parametrize("name", ["residual", "grouped and shuffled", "fused qkv", "dense"])
def test_the_part_about_a_group_changes_as_the_whole_cost_does(name: str) -> None:
    model, example = build(name)
    graph, free = analysed(model, *example)
    latency = OperatorLatency(graph, fewest_kept(free, Limits()), macs_ms)
    cost = CostModel(graph, model).predicting("latency_ms", latency)
    around = {group.axis: group.size - 1 for group in free}
    for group, target in product(free, cost.names):
        fewer = {**around, group.axis: 2}
        whole, part = cost.of(target), cost.about(target, group.axis)
        assert part(around) - part(fewer) == pytest.approx(whole(around) - whole(fewer))


def test_a_batch_of_one_is_measured_as_one() -> None:
    """It is traced as two copies."""
    model, example = build("fused qkv and softmax")
    graph, free = analysed(model, *(x[:1] for x in example))
    assert graph.trace.copies == 2
    latency = OperatorLatency(graph, fewest_kept(free, Limits()), macs_ms)
    half = {group.axis: group.size // 2 for group in free}
    cost = CostModel(graph, model)
    assert latency({}) - latency(half) == pytest.approx(cost.macs({}) - cost.macs(half))


def test_stairs_are_seen_between_measured_widths() -> None:
    model = nn.Sequential(nn.Linear(4, 160), nn.ReLU(), nn.Linear(160, 3))
    graph, (group,) = analysed(model, torch.randn(2, 4))
    latency = OperatorLatency(graph, fewest_kept([group], Limits()), stairs_ms)
    for kept in (17, 23, 32, 33, 100, 112, 113, 160):
        assert latency({group.axis: kept}) == pytest.approx(-(-kept // 16) * 16 * 4 + 16 * kept)


def test_the_optimum_keeps_whole_blocks() -> None:
    model = nn.Sequential(nn.Linear(4, 160), nn.ReLU(), nn.Linear(160, 96), nn.ReLU(), nn.Linear(96, 3))
    graph, free = analysed(model, torch.randn(2, 4))
    latency = OperatorLatency(graph, fewest_kept(free, Limits()), stairs_ms)
    cost = CostModel(graph, model).predicting("latency_ms", latency)
    generator = torch.Generator().manual_seed(0)
    scores = {group.name: torch.rand(group.size, generator=generator) for group in free}
    for part in (0.2, 0.4, 0.6):
        budget = part * latency({})
        keep = allocate(free, scores, cost, {"latency_ms": budget}, "optimal")
        kept = {g.axis: int(keep[g.axis].sum()) if g.axis in keep else g.size for g in free}
        assert kept[free[1].axis] % 16 == 0
        assert latency(kept) <= budget


@pytest.mark.parametrize("widths", [(4, 5), (6, 3, 5)])
def test_the_allocation_is_the_best_within_a_latency(widths: tuple[int, ...]) -> None:
    model = Branches(widths)
    graph, free = analysed(model, torch.randn(2, 4))
    latency = OperatorLatency(graph, fewest_kept(free, Limits(max_ratio=1)), slow_layer(2, 10.0))
    cost = CostModel(graph, model).predicting("latency_ms", latency)
    every = [
        dict(zip((g.axis for g in free), counts, strict=True))
        for counts in product(*(range(1, g.size + 1) for g in free))
    ]
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        scores = {group.name: torch.rand(group.size, generator=generator) for group in free}
        budgets = {"latency_ms": latency(every[0]) + (seed + 1) / 22 * (latency({}) - latency(every[0]))}
        if seed % 2:
            budgets["macs"] = cost.macs(every[0]) + 0.7 * (cost.macs({}) - cost.macs(every[0]))
        keep = allocate(free, scores, cost, budgets, "optimal", Limits(max_ratio=1))
        counts = {g.axis: int(keep[g.axis].sum()) if g.axis in keep else g.size for g in free}
        assert all(cost.of(name)(counts) <= budget for name, budget in budgets.items())
        fits = [kept for kept in every if all(cost.of(name)(kept) <= budget for name, budget in budgets.items())]
        best, found = (max(kept_importance(free, scores, kept) for kept in which) for which in (fits, [counts]))
        assert found == pytest.approx(best) if len(budgets) == 1 else found >= 0.9 * best


def test_a_slow_layer_goes_first() -> None:
    """Two branches of the same parameters and importance, the first of which takes ten times as long."""
    model = Branches((16, 16))
    graph, free = analysed(model, torch.randn(2, 4))
    latency = OperatorLatency(graph, fewest_kept(free, Limits()), slow_layer(2, 10.0))
    cost = CostModel(graph, model).predicting("latency_ms", latency)
    keep = allocate(free, {g.name: torch.ones(16) for g in free}, cost, {"latency_ms": 0.6 * latency({})}, "optimal")
    slow, fast = (group.axis for group in free)
    assert fast not in keep and keep[slow].sum() < 12


def test_operators_that_are_alike_are_measured_once() -> None:
    layers = [layer for _ in range(4) for layer in (nn.Linear(12, 12), nn.ReLU())]
    model = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), *layers, nn.Linear(12, 3))
    graph, free = analysed(model, torch.randn(2, 4))
    seen: list[str] = []

    def measure(calls: Sequence[Call], device: torch.device) -> list[float]:
        seen.append(str(calls[-1]))
        return macs_ms(calls, device)

    latency = OperatorLatency(graph, fewest_kept(free, Limits()), measure)
    assert len(seen) == len(set(seen)) == 4  # the first layer, those within, the last one, and ReLU
    assert latency({}) == 2 * (4 * 12 + 4 * 12 * 12 + 12 * 3)


def test_noise_makes_nothing_faster_for_being_larger() -> None:
    model = nn.Sequential(nn.Linear(4, 160), nn.ReLU(), nn.Linear(160, 3))
    graph, (group,) = analysed(model, torch.randn(2, 4))
    generator = torch.Generator().manual_seed(0)

    def noisy(calls: Sequence[Call], device: torch.device) -> list[float]:
        return [ms * float(1 + 9 * torch.rand(1, generator=generator)) for ms in macs_ms(calls, device)]

    latency = OperatorLatency(graph, fewest_kept([group], Limits()), noisy)
    line = [latency({group.axis: kept}) for kept in range(16, 161)]
    assert all(a <= b + 1e-9 for a, b in zip(line, line[1:], strict=False)) and line[0] < line[-1]


def test_an_operator_that_does_not_run_by_itself_is_named_and_counts_nothing() -> None:
    model = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 3))
    graph, free = analysed(model, torch.randn(2, 4))

    def refusing(calls: Sequence[Call], device: torch.device) -> list[float]:
        if "relu" in str(calls[0]):
            raise ValueError("no")
        return macs_ms(calls, device)

    latency = OperatorLatency(graph, fewest_kept(free, Limits()), refusing)
    assert [name.split()[0] for name in latency.left_out] == ["aten.relu.default"]
    assert latency({}) == 2 * (4 * 12 + 12 * 3)


def test_a_repair_finds_the_next_step_down() -> None:
    """Two groups on stairs, where no single index saves anything, and the second is worth next to nothing."""
    model = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))
    graph, free = analysed(model, torch.randn(2, 4))

    class Blocks:
        def __call__(self, counts: Any) -> Any:
            return sum(-(-counts.get(group.axis, 64) // 16) for group in free)

        def about(self, axis: Axis) -> Part:
            return Part(self, frozenset(group.axis for group in free))

    cost = CostModel(graph, model).predicting("latency_ms", Blocks())
    levels = {group.name: list(range(64)) for group in free}
    damages = {
        group.name: worth * torch.arange(64).double().numpy() for group, worth in zip(free, (1, 1e-3), strict=True)
    }
    items = [Item(group.name, group.axis, group.size) for group in free]
    program = Program(items, damages, levels, cost, {"latency_ms": 6.0})
    assert within(program, {group.name: 8 for group in free}) == {free[0].name: 0, free[1].name: 32}


def test_the_clock_measures_calls_of_one_operator() -> None:
    model, example = build("residual")
    graph, free = analysed(model, *example)
    times: list[float] = []

    def measure(calls: Sequence[Call], device: torch.device) -> list[float]:
        times.extend(found := measured_ms(calls[:2], device))
        return [found[0]] * len(calls)

    assert not OperatorLatency(graph, fewest_kept(free, Limits()), measure).left_out
    assert len(times) > 8 and all(0 < ms < 1000 for ms in times)


def test_an_operator_that_the_clock_cannot_run_is_refused() -> None:
    call = Call(
        torch.ops.aten.mm.default, {"self": torch.empty(2, 3, device="meta"), "mat2": torch.empty(2, 3, device="meta")}
    )
    with pytest.raises(ValueError, match="must run"):
        measured_ms([call], CPU)


# --- the whole call ------------------------------------------------------------------------------------------------------


def branch_ms(model: nn.Module) -> float:
    """What `slow_layer(2, 10)` takes for a whole model of branches, plus what no table knows of."""
    layers = [m for m in model.modules() if isinstance(m, nn.Linear)]
    return 0.02 + 1.3e-3 * sum(m.weight.numel() * (10 if m.in_features == 2 else 1) for m in layers)


@pytest.fixture
def known_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a slow layer, whose clock is right."""
    monkeypatch.setattr(sys.modules["pruners.prune"], "measured_ms", slow_layer(2, 10.0))
    monkeypatch.setattr(
        "pruners.allocation.targets._timed",
        lambda model, args, kwargs, runtime: lambda smaller: (branch_ms(model), branch_ms(smaller)),
    )
    monkeypatch.setattr("pruners.allocation.alignment.alignment", lambda *_: 1)


@pytest.mark.parametrize("allocation", [name for name, entry in ALLOCATIONS.items() if entry.knapsack])
def test_pruning_to_a_latency_removes_what_is_slow(known_machine: None, allocation: str) -> None:
    torch.manual_seed(0)
    model, x = Branches((24, 24, 24)), torch.randn(2, 4)
    found = prune(model, x, {"latency_ms": 0.5}, importance="l1", allocation=allocation, batches=[torch.randn(64, 4)])
    report = found.summary.targets["latency_ms"]
    assert report["asked"] == 0.5 * branch_ms(model)
    assert 0.93 * report["asked"] < report["measured"] == branch_ms(found.model) <= report["asked"]
    slow, *others = (branch[0].out_features for branch in found.model.branches)  # type: ignore[union-attr, attr-defined]
    assert slow < min(others)


def test_latency_and_macs_hold_together(known_machine: None) -> None:
    torch.manual_seed(0)
    model, x = Branches((24, 24, 24)), torch.randn(2, 4)
    found = prune(model, x, {"latency_ms": 0.8, "macs": 0.5}, allocation="optimal")
    assert found.summary.targets.keys() == {"latency_ms", "macs"}
    assert all(report["measured"] <= report["asked"] for report in found.summary.targets.values())
    assert (
        found.summary.targets["macs"]["measured"]
        == count(found.model, x).total.macs
        > 0.45 * count(model, x).total.macs
    )


def test_other_allocations_and_own_estimators_of_latency_measure_no_operator(
    known_machine: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(calls: Sequence[Call], device: torch.device) -> list[float]:
        raise AssertionError("measured")

    monkeypatch.setattr(sys.modules["pruners.prune"], "measured_ms", refuse)
    model, x = Branches((24, 24)), torch.randn(2, 4)
    own = {"latency_ms": lambda model, inputs: branch_ms(model)}
    for options in ({"allocation": "global"}, {"allocation": "optimal", "estimators": own}):
        report = prune(model, x, {"latency_ms": 0.6}, **options).summary.targets["latency_ms"]  # type: ignore[arg-type]
        assert report["measured"] <= report["asked"]


class Sized(nn.Module):
    def __init__(self, size: float) -> None:
        super().__init__()
        self.size = size


@pytest.mark.parametrize(("factor", "constant"), [(1.0, 0.0), (2.0, 100.0), (0.3, 300.0)])
def test_a_search_in_predicted_milliseconds_takes_few_measurements(factor: float, constant: float) -> None:
    built: list[float] = []

    def smaller(budget: float) -> nn.Module:
        built.append(budget)
        return Sized(constant + factor * budget)

    limit = constant + factor * 437.0
    aim = Measured("latency_ms", limit, False, lambda model: (constant + factor * 1000, model.size))  # type: ignore[arg-type, return-value]
    budget, readings = approach(smaller, [aim], 10.0, 1000.0)
    assert 0.97 * limit <= readings["latency_ms"].value <= limit and len(built) <= 5
    assert readings["latency_ms"].value == constant + factor * budget


def test_a_disturbed_first_measurement_does_not_leave_the_model_whole() -> None:
    fulls = iter([3000.0])

    def disturbed(model: nn.Module) -> tuple[float, float]:
        return next(fulls, 1000.0), model.size  # type: ignore[return-value]

    budget, readings = approach(Sized, [Measured("latency_ms", 0.5, True, disturbed)], 10.0, 1000.0)
    assert readings["latency_ms"].value == budget and 0.97 * 500 <= budget <= 500
    budget, _ = approach(Sized, [Measured("latency_ms", 1000.0, False, lambda m: (1e4, m.size))], 10.0, 1000.0)  # type: ignore[arg-type, return-value]
    assert budget == 1000


def test_a_search_in_predicted_milliseconds_refuses_with_the_range() -> None:
    aim = Measured("latency_ms", 50.0, False, lambda model: (1100.0, model.size))  # type: ignore[arg-type, return-value]
    with pytest.raises(
        ValueError, match="must be reachable, got latency_ms 50; .* latency_ms from 110 to 1,100, measured"
    ):
        approach(lambda budget: Sized(100 + budget), [aim], 10.0, 1000.0)


def test_a_search_in_predicted_milliseconds_stops_on_stairs() -> None:
    built: list[float] = []

    def smaller(budget: float) -> nn.Module:
        built.append(budget)
        return Sized(budget // 300 * 300)

    aim = Measured("latency_ms", 500.0, False, lambda model: (1000.0, model.size))  # type: ignore[arg-type, return-value]
    budget, readings = approach(smaller, [aim], 10.0, 1000.0)
    assert 300 <= budget < 600 and readings["latency_ms"].value == 300 and len(built) <= 10
