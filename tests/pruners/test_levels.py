"""How many indices the groups of a trained model's space may keep, where widths are multiples of something."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pruners import PrunableSpace
from pruners.allocation import alignment as module
from pruners.allocation.allocate import Limits

X = torch.ones(1, 3, 16, 16)


def wide() -> nn.Module:
    """Groups of 64, 24 and 6."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 6, 3, stride=4),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 5),
    ).eval()  # fmt: skip


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A machine that computes in eights; what it is asked for."""
    asked: list[str] = []

    def alignment(kind: str, device: object = "cpu", runtime: str = "eager") -> int:
        asked.append(runtime)
        return 8 if runtime == "eager" else 1

    monkeypatch.setattr(module, "alignment", alignment)
    return asked


def kept(space: PrunableSpace) -> dict[int, list[int]]:
    return {group.size: space.levels.kept(group) for group in space.groups}


def test_where_milliseconds_are_searched_for_widths_are_what_the_machine_computes_in(measured: list[str]) -> None:
    free = PrunableSpace(wide(), X, steps=4)
    assert kept(free) == {64: [16, 32, 48, 64], 24: [6, 12, 18, 24], 6: [2, 3, 5, 6]} and not measured
    assert free.levels.recorded == 1
    space = PrunableSpace(wide(), X, steps=8, milliseconds=True)
    assert measured == ["eager", "onnxruntime"] and space.levels.chosen.startswith("8: conv layers on cpu")
    assert kept(space) == {64: [8, 16, 24, 32, 40, 48, 56, 64], 24: [4, 8, 12, 16, 20, 24], 6: [1, 2, 3, 4, 5, 6]}
    measured.clear()
    again = PrunableSpace(wide(), X, steps=8, round_to=space.levels.recorded)
    assert again.space.fingerprint == space.space.fingerprint and not measured


def test_a_multiple_that_is_asked_for_is_kept_also_where_milliseconds_are_searched_for(measured: list[str]) -> None:
    space = PrunableSpace(wide(), X, steps=8, round_to=8, milliseconds=True)
    assert kept(space)[24] == [8, 16, 24] and space.levels.recorded == 8 and not measured


@pytest.mark.parametrize("round_to", [1, 3, 4, "auto:8"])
@pytest.mark.parametrize("steps", [1, 3, 8])
def test_levels_are_limits_of_what_the_choices_say(round_to: int | str, steps: int) -> None:
    space = PrunableSpace(wide(), X, steps=steps, round_to=round_to)
    choices = {choice.name: choice for choice in space.space.choices}
    for group in space.groups:
        values = [choices[group.name].value(i) for i in range(choices[group.name].size)]
        assert values == space.levels.kept(group) and values[-1] == group.size
        assert {group.size - n for n in space.levels.levels(group)} == set(values)
        if isinstance(round_to, int):
            assert all(n % Limits(round_to=round_to).step(group) == 0 for n in values[:-1])


@pytest.mark.parametrize("round_to", [0, -1, "auto:0", "auto:", "auto:x", 1.5])
def test_no_multiple_at_all_is_refused(round_to: object) -> None:
    with pytest.raises(ValueError, match="`round_to` must be a whole number of at least 1, got .*or auto"):
        PrunableSpace(wide(), X, round_to=round_to)
