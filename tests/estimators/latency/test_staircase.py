"""Multiples of channels, from staircases that are known and from layers on a clock that the test sets."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
import torch
from torch import nn

from estimators import Latency
from estimators.latency import alignment, staircase
from estimators.latency.staircase import LAYERS, MAKERS, MULTIPLES, smallest_multiple

WIDTHS = range(32, 49)


def noisy(times: Mapping[int, float], seed: int, size: float = 0.01) -> dict[int, float]:
    noise = np.random.default_rng(seed).exponential(size, len(times))
    return {width: time * (1 + more) for (width, time), more in zip(times.items(), noise, strict=True)}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("step", "overhead"), [(4, 0), (8, 0), (8, 5), (16, 5)])
def test_a_staircase_has_the_multiple_of_its_steps(step: int, overhead: int, seed: int) -> None:
    assert smallest_multiple(noisy({w: -(-w // step) * step + overhead for w in WIDTHS}, seed, 0.005)) == step


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("step", MULTIPLES[1:])
def test_teeth_have_the_multiple_of_what_is_quick(step: int, seed: int) -> None:
    assert smallest_multiple(noisy({w: w * (1.0 if w % step == 0 else 1.6) for w in WIDTHS}, seed)) == step


@pytest.mark.parametrize("power", [0, 1, 2])
@pytest.mark.parametrize("seed", range(5))
def test_where_every_channel_counts_nothing_is_aligned(power: int, seed: int) -> None:
    assert smallest_multiple(noisy({w: float(w**power) for w in WIDTHS}, seed)) == 1


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What is measured, by a machine that computes in eights; nothing is remembered before and after."""
    seen: list[str] = []

    def compare(modules: Mapping[int, nn.Module], shape: object, *, device: str, **_: object) -> dict[int, Latency]:
        seen.append(f"{next(iter(modules.values()))!r:.12} {device}")
        times = {width: float(-(-width // 8)) for width in modules}
        return {w: Latency(2 * t, t, 3 * t, 5, 0, True, 1, 1, device, "") for w, t in times.items()}

    staircase._measured.cache_clear()
    monkeypatch.setattr(staircase, "compare_latency", compare)
    yield seen
    staircase._measured.cache_clear()


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("runtime", MAKERS)
def test_each_kind_and_runtime_is_measured_once_and_random_state_stays(
    kind: str, runtime: str, measured: list[str]
) -> None:
    state = torch.get_rng_state()
    assert alignment(kind, "cpu", runtime) == 8
    once = len(measured)
    assert alignment(kind, torch.device("cpu"), runtime) == 8
    assert len(measured) == once == staircase.ROUNDS
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("kind", LAYERS)
def test_both_runtimes_compute_as_many_channels(kind: str) -> None:
    shape = {"conv": (1, 50, 14, 14), "linear": (1, 128, 50)}[kind]
    for make in MAKERS.values():
        found = make(kind, LAYERS[kind].shape, torch.device("cpu"), 50)(torch.zeros(1))
        (out,) = found if isinstance(found, list) else (found,)
        assert tuple(out.shape) == shape


def test_a_real_measurement_is_one_of_the_multiples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staircase, "MAX_SECONDS", 1e-3)
    staircase._measured.cache_clear()
    assert alignment("linear") in MULTIPLES
    staircase._measured.cache_clear()


def test_what_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="no kind of layer is named 'convs'; did you mean conv"):
        alignment("convs")
    with pytest.raises(ValueError, match="no runtime is named 'onnx'; did you mean onnxruntime"):
        alignment("conv", runtime="onnx")
    staircase._measured.cache_clear()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=r"needs a package that is missing .*nas-toolkit\[onnx\]"):
        alignment("conv", runtime="onnxruntime")
