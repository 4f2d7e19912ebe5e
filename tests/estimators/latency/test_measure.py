"""Latency on a clock that the test turns, so that every figure is known; nothing here depends on how fast the machine is."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count as naturals

import pytest
import torch
import torch._dynamo
from torch import Tensor, nn

from estimators import Latency, compare_latency, measure_latency
from estimators.latency import measure as latency
from estimators.latency import runtimes

GOOD = {
    "median_ms": 2.0,
    "p25_ms": 1.5,
    "p75_ms": 3.0,
    "runs": 30,
    "warmup_runs": 10,
    "steady": True,
    "batch_size": 4,
    "threads": 2,
    "device": "cpu",
    "torch_version": "2.6.0",
}


class Clock:
    """Stands still except while a network runs."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def perf_counter(self) -> float:
        return self.now


class Timed(nn.Module):
    """Takes the next of its milliseconds at each run, and writes down what it sees."""

    def __init__(self, clock: Clock, name: str, milliseconds: Iterator[float]) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.clock, self.name, self.milliseconds = clock, name, milliseconds
        self.modes: set[tuple[bool, bool, bool, int]] = set()
        self.shapes: set[tuple[int, ...]] = set()

    def forward(self, x: Tensor) -> Tensor:
        self.modes.add((self.training, self.norm.training, torch.is_inference_mode_enabled(), torch.get_num_threads()))
        self.shapes.add(tuple(x.shape))
        self.clock.log.append(self.name)
        self.clock.now += next(self.milliseconds) / 1e3
        return self.norm(x)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(latency, "time", made)
    return made


def always(milliseconds: float) -> Iterator[float]:
    return (milliseconds for _ in naturals())


def test_median_and_quartiles_are_of_the_timed_runs(clock: Clock) -> None:
    warm = [9.0] * 11
    timed = [float(n) for run in range(4) for n in (99, *range(5 * run + 1, 5 * run + 6))]
    found = measure_latency(Timed(clock, "a", iter(warm + timed)), (3,), runs=20)
    assert (found.runs, found.warmup_runs, found.steady) == (20, 11, True)
    assert (found.p25_ms, found.median_ms, found.p75_ms) == pytest.approx((5.75, 10.5, 15.25))


@pytest.mark.parametrize(
    ("milliseconds", "warmup_runs", "steady"),
    [
        (lambda: always(10.0), 11, True),
        (lambda: (max(100.0 - 10 * n, 20.0) for n in naturals()), 16, True),
        (lambda: (10.0 * 1.1**n for n in naturals()), 26, False),
    ],
    ids=["at once", "after a while", "never"],
)
def test_warm_up_ends_when_steady_or_over_time(
    clock: Clock, milliseconds: Callable[[], Iterator[float]], warmup_runs: int, steady: bool
) -> None:
    found = measure_latency(Timed(clock, "a", milliseconds()), (3,), warmup_s=1.0, runs=5)
    assert (found.warmup_runs, found.steady) == (warmup_runs, steady)
    assert ("not steady" in str(found)) is not steady


def test_networks_take_turns_in_alternating_order(clock: Clock) -> None:
    modules = {name: Timed(clock, name, always(ms)) for name, ms in (("a", 1.0), ("b", 2.0), ("c", 4.0))}
    found = compare_latency(modules, (3,), runs=11)
    assert "".join(clock.log) == "a" * 11 + "b" * 11 + "c" * 11 + "".join(6 * turn for turn in "abccbaabc")
    assert {name: (each.median_ms, each.runs) for name, each in found.items()} == {
        "a": (pytest.approx(1), 15),
        "b": (pytest.approx(2), 15),
        "c": (pytest.approx(4), 15),
    }


def test_slow_networks_are_run_less_often_but_never_once(clock: Clock) -> None:
    slow = {name: Timed(clock, name, always(2000)) for name in "ab"}
    assert {each.runs for each in compare_latency(slow, (3,), runs=30, max_seconds=1.0).values()} == {5}
    assert {each.runs for each in compare_latency(slow, (3,), runs=30, max_seconds=13.0).values()} == {10}


def test_modes_and_threads_are_set_and_put_back(clock: Clock) -> None:
    module = Timed(clock, "a", always(1.0)).train()
    module.norm.eval()
    before = torch.get_num_threads()
    found = measure_latency(module, (3,), batch_size=4, threads=before + 1, runs=5)
    assert module.modes == {(False, False, True, before + 1)}
    assert module.shapes == {(4, 3)}
    assert (module.training, module.norm.training, torch.get_num_threads()) == (True, False, before)
    assert (found.batch_size, found.threads, found.device) == (4, before + 1, "cpu")
    assert measure_latency(module, (3,), runs=5).threads == before
    assert int(module.norm.num_batches_tracked) == 0


def test_all_is_put_back_when_a_network_fails() -> None:
    module, before = nn.Sequential(nn.Linear(3, 4)).train(), torch.get_num_threads()
    with pytest.raises(
        ValueError, match=r"network 'Sequential' must run on a batch of shape \(2, 5\), and does not: .*3x4"
    ):
        measure_latency(module, (5,), batch_size=2, threads=before + 1)
    assert (module.training, module[0].training, torch.get_num_threads()) == (True, True, before)


def test_a_real_network() -> None:
    module, random = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), torch.get_rng_state()
    found = measure_latency(module, (3, 8, 8), warmup_s=0.1, max_seconds=1e-9)
    assert found.runs == 5
    assert 0 < found.p25_ms <= found.median_ms <= found.p75_ms
    assert found.torch_version == torch.__version__
    assert torch.equal(random, torch.get_rng_state())


def test_no_figure_without_its_spread() -> None:
    text = str(Latency(**GOOD))
    assert text == "2 ms (middle half 1.5 to 3, 30 runs, batch 4, 2 threads, cpu, torch 2.6.0, eager)"
    assert f"{Latency(**GOOD | {'threads': 1})}" == text.replace("2 threads", "1 thread")
    for wrong in ({"runs": 1}, {"p25_ms": 2.5}, {"p75_ms": float("nan")}, {"median_ms": float("nan")}):
        with pytest.raises(ValueError, match="median of at least 5 runs between their quartiles"):
            Latency(**GOOD | wrong)


@pytest.mark.parametrize("setting", ["batch_size", "threads", "warmup_s", "runs", "max_seconds"])
def test_settings_must_be_positive(setting: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"`{setting}` must be positive, got 0")):
        measure_latency(nn.Linear(3, 4), (3,), **{setting: 0})


def test_nothing_to_measure_or_nowhere() -> None:
    with pytest.raises(ValueError, match="at least one network"):
        compare_latency({}, (3,))
    with pytest.raises(ValueError, match="`device` must be one that torch knows, got 'gpu'; use 'cpu' or 'cuda'"):
        measure_latency(nn.Linear(3, 4), (3,), device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="'cuda' without CUDA; use 'cpu'"):
            measure_latency(nn.Linear(3, 4), (3,), device="cuda")


def test_onnx_runtime_runs_the_same_network() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    images = torch.randn(2, 3, 8, 8)
    (computed,) = runtimes.prepare(module, (images,), {}, "onnxruntime", 1)()
    torch.testing.assert_close(torch.from_numpy(computed), module(images), rtol=1e-5, atol=1e-5)
    found = measure_latency(module, (3, 8, 8), runs=5, warmup_s=0.1, runtime="onnxruntime")
    assert found.median_ms > 0
    assert str(found).endswith(", onnxruntime)")


@pytest.mark.slow
def test_a_compiled_network() -> None:
    found = measure_latency(nn.Linear(3, 4), (3,), runs=5, warmup_s=0.1, runtime="compile")
    assert found.runtime == "compile"
    assert found.median_ms > 0


class Broken(nn.Module):
    """Two pieces to compile."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(3, features)

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        torch._dynamo.graph_break()
        return x.relu()


def test_each_of_many_networks_of_one_class_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[object] = []

    def backend(graph: torch.fx.GraphModule, example: object) -> Callable[..., object]:
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    networks = {features: Broken(features) for features in range(1, 13)}
    compare_latency(networks, (3,), runtime="compile", runs=5, warmup_s=1e-3, max_seconds=1e-3)
    assert len(compiled) == 2 * len(networks)


def test_runtimes_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="no runtime is named 'onnx'; did you mean onnxruntime"):
        measure_latency(nn.Linear(3, 4), (3,), runtime="onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=r"onnxruntime needs a package that is missing .*nas-toolkit\[onnx\]"):
        measure_latency(nn.Linear(3, 4), (3,), runtime="onnxruntime")


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    module = nn.Linear(3, 4)
    found = measure_latency(module, (3,), device="cuda", runs=10)
    assert torch.cuda.get_device_name() in found.device
    assert found.median_ms > 0
    assert module.weight.device.type == "cpu"
