"""What a result says of time: before and after in each runtime, and a line where it is no faster or cannot be told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from estimators import Latency
from pruners import result
from pruners.result import timed
from tests.pruners.networks import build
from tests.pruners.plain import prune

SMALL = nn.Linear(2, 2)


def clock(monkeypatch: pytest.MonkeyPatch, **times: tuple[float, float]) -> None:
    """A machine that takes known milliseconds by runtime, and has no others."""

    def compare(models: Mapping[str, nn.Module], args: Any, kwargs: Any, runtime: str) -> dict[str, Latency]:
        if runtime not in times:
            raise ValueError("it cannot be exported")
        return {
            name: Latency(9 * ms, ms, 10 * ms, 5, 0, True, 1, 1, "cpu", "")
            for name, ms in zip(models, times[runtime], strict=True)
        }

    monkeypatch.setattr(result, "compare_on_example", compare)


def test_a_smaller_model_that_is_no_faster_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, eager=(4.0, 3.95), onnxruntime=(2.0, 1.0))
    found, notes = timed(SMALL, SMALL, (), {})
    assert found == {"eager": (4.0, 3.95), "onnxruntime": (2.0, 1.0)}
    assert notes == [
        "the smaller model is no faster in PyTorch: 3.95 ms where the given one takes 4 ms; a target of `latency_ms` asks for time "
        "itself"
    ]


def test_what_a_runtime_cannot_do_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, eager=(4.0, 2.0))
    assert timed(SMALL, SMALL, (), {}) == (
        {"eager": (4.0, 2.0)},
        ["no milliseconds in ONNX Runtime: it cannot be exported"],
    )


def test_a_summary_has_milliseconds_where_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, eager=(4.0, 5.0), onnxruntime=(2.0, 1.0))
    model, example = build("residual")
    assert prune(model, example, {"macs": 0.6}).summary.milliseconds == {}
    summary = prune(model, example, {"macs": 0.6}, milliseconds=True, round_to=1).summary
    assert summary.to_dict()["milliseconds"] == {"eager": (4.0, 5.0), "onnxruntime": (2.0, 1.0)}
    assert len(summary.notes) == 1 and summary.notes[0] in summary.to_dict()["notes"]


def test_both_models_run_in_onnx_runtime_and_stay_as_they_are() -> None:
    model, example = build("residual")
    smaller = prune(model, example, {"macs": 0.6}).model
    before = [{name: x.clone() for name, x in each.state_dict().items()} for each in (model, smaller)]
    found, _ = timed(model, smaller, tuple(example), {})
    assert set(found) == {"eager", "onnxruntime"} and all(x > 0 for times in found.values() for x in times)
    for each, state in zip((model, smaller), before, strict=True):
        assert all(torch.equal(x, state[name]) for name, x in each.state_dict().items())
