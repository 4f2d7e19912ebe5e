"""Widths that are multiples of what the machine computes in, where nobody says what they are multiples of."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
import torch
from torch import nn

from pruners import Summary, prune
from pruners.allocation import alignment as module
from pruners.allocation.alignment import AlignedLimits, aligned, channels, most_macs
from pruners.allocation.allocate import Limits
from pruners.allocation.costs import CostModel
from pruners.groups import analyse, dependency_groups
from tests.pruners.attention import FusedQkv


def wide() -> nn.Module:
    """Groups of 64, 24 and 6, of which the last is read as 4 entries for each channel."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 6, 3, stride=4),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 5),
    ).eval()  # fmt: skip


VERB = import_module("pruners.prune")
X = torch.ones(1, 3, 16, 16)


def machine(monkeypatch: pytest.MonkeyPatch, **multiples: int) -> list[tuple[str, str]]:
    """A machine of known multiples by runtime; what it is asked for."""
    asked: list[tuple[str, str]] = []

    def alignment(kind: str, device: object = "cpu", runtime: str = "eager") -> int:
        asked.append((kind, runtime))
        if runtime not in multiples:
            raise ValueError("runtime onnxruntime needs a package that is missing")
        return multiples[runtime]

    monkeypatch.setattr(module, "alignment", alignment)
    return asked


def kept(summary: Summary) -> list[int]:
    return [after for _, after in summary.groups.values()]


def test_widths_are_multiples_where_milliseconds_are_wanted_and_less_in_small_groups(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = machine(monkeypatch, eager=1, onnxruntime=8)
    monkeypatch.setattr(VERB, "timed", lambda *_: ({}, []))
    for target in (0.7, 0.5, 0.3):
        result = prune(wide(), X, {"macs": target}, milliseconds=True)
        for size, after in result.summary.groups.values():
            assert after % {64: 8, 24: 4, 6: 1}[size] == 0
        assert result.summary.chosen == {"round_to": "8: conv layers on cpu, 1 in PyTorch, 8 in ONNX Runtime"}
        assert result.summary.notes == ()
    assert set(asked) == {("conv", "eager"), ("conv", "onnxruntime")}


@pytest.mark.parametrize("settings", [{}, {"round_to": 4, "milliseconds": True}])
def test_nothing_is_measured_where_it_is_not_needed(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = machine(monkeypatch, eager=8, onnxruntime=8)
    monkeypatch.setattr(VERB, "timed", lambda *_: ({}, []))
    result = prune(wide(), X, {"macs": 0.5}, importance="random", **settings)
    assert not asked and not result.summary.chosen
    assert all(after % 4 == 0 for after in kept(result.summary) if after > 6) is bool(settings)
    again = prune(wide(), X, {"macs": 0.5}, importance="random", **{"round_to": 1, **settings})
    assert again.summary.groups == result.summary.groups


def test_without_onnx_runtime_the_rest_counts_and_a_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, eager=4)
    monkeypatch.setattr(VERB, "timed", lambda *_: ({}, ["another"]))
    summary = prune(wide(), X, {"macs": 0.5}, milliseconds=True).summary
    assert summary.chosen == {"round_to": "4: conv layers on cpu, 4 in PyTorch"}
    assert summary.notes == (
        "widths are aligned for PyTorch alone: runtime onnxruntime needs a package that is missing", "another",
    )  # fmt: skip


def test_a_target_that_multiples_cannot_meet_is_met_without() -> None:
    model = wide()
    graph = analyse(model, (X,), {})
    groups = [group for group in dependency_groups(graph) if not group.protected]
    cost = CostModel(graph, model)
    least = {group.axis: group.size - Limits(round_to=1).removed(group, group.size) for group in groups}
    with pytest.MonkeyPatch.context() as patch:
        machine(patch, eager=8, onnxruntime=1)
        found = aligned(Limits(), graph, groups, cost, {"macs": cost.macs(least)}, True)
        assert found.limits == Limits(round_to=1)
        assert found.chosen.startswith("1: the targets cannot be met in multiples of 8 (conv layers on cpu, 8 in")
        found = aligned(Limits(min_kept=3), graph, groups, cost, {"macs": cost.macs({}) / 2}, True)
    assert found.limits == AlignedLimits(round_to=8, min_kept=3)


def test_heads_weigh_their_channels_and_need_no_multiple() -> None:
    model = FusedQkv(fused_softmax=True).eval()
    graph = analyse(model, (torch.ones(1, 5, 6),), {})
    found = {channels(group): group for group in dependency_groups(graph) if not group.protected}
    assert found[8].size == 4 and AlignedLimits(round_to=8).step(found[8]) == 1
    assert AlignedLimits(round_to=16).step(found[8]) == 1  # two heads are sixteen channels, but four heads are few
    assert most_macs(graph) == "linear"
    flat = analyse(wide(), (X,), {})
    assert {channels(group) for group in dependency_groups(flat) if not group.protected} == {1}


def test_auto_is_a_word_and_numbers_may_be_text() -> None:
    assert Limits().round_to == "auto" and Limits(round_to="8").round_to == 8  # type: ignore[arg-type]
    for wrong in ("eight", 0, 1.5):
        with pytest.raises(ValueError, match="`round_to` must be a whole number of at least 1, got .*; or auto"):
            Limits(round_to=wrong)  # type: ignore[arg-type]
