"""How long a network takes on this machine, never without its spread.

Every network is warmed up until its times are steady. Then all of them take turns, in alternating order, so that a machine that
slows down or speeds up does so for all of them. Each is given the median and the quartiles of its runs.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from estimators.counting import dtype_of
from estimators.latency.runtimes import Run, compiling_each, prepare
from search_spaces.core import first_line

Name = TypeVar("Name")
TURN = 5
WINDOW = 5
STEADY = 0.05


@dataclass(frozen=True)
class Latency:
    """Milliseconds for one batch, and how they were measured: in evaluation mode, without gradients, data already on the device.

    Attributes:
        median_ms, p25_ms, p75_ms: the middle of the runs and the range of their middle half.
        runs, warmup_runs: how many are behind these figures, and how many came before them.
        steady: whether the warm-up ended because times were steady, not because its time was over.
        batch_size: samples in each run.
        threads: torch's threads within operators.
        device: where, with the name of a GPU.
        torch_version: which torch.
        runtime: eager, compile (`torch.compile`) or onnxruntime.
    """

    median_ms: float
    p25_ms: float
    p75_ms: float
    runs: int
    warmup_runs: int
    steady: bool
    batch_size: int
    threads: int
    device: str
    torch_version: str
    runtime: str = "eager"

    def __post_init__(self) -> None:
        if not (self.runs >= TURN and self.p25_ms <= self.median_ms <= self.p75_ms):
            raise ValueError(
                f"a latency must be the median of at least {TURN} runs between their quartiles, got {self.median_ms} between "
                f"{self.p25_ms} and {self.p75_ms} of {self.runs}; measure it with `measure_latency`"
            )

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' if self.threads != 1 else ''}"
        warning = "" if self.steady else ", not steady after warm-up"
        return (
            f"{self.median_ms:.3g} ms (middle half {self.p25_ms:.3g} to {self.p75_ms:.3g}, {self.runs} runs{warning}, "
            f"batch {self.batch_size}, {threads}, {self.device}, torch {self.torch_version}, {self.runtime})"
        )


def measure_latency(
    module: nn.Module,
    input_shape: Sequence[int],
    *,
    batch_size: int = 1,
    device: torch.device | str = "cpu",
    threads: int | None = None,
    warmup_s: float = 2.0,
    runs: int = 30,
    max_seconds: float = 10.0,
    runtime: str = "eager",
) -> Latency:
    """Latency of one network; arguments and errors are those of `compare_latency`."""
    found = compare_latency(
        {type(module).__name__: module},
        input_shape,
        batch_size=batch_size,
        device=device,
        threads=threads,
        warmup_s=warmup_s,
        runs=runs,
        max_seconds=max_seconds,
        runtime=runtime,
    )
    return found[type(module).__name__]


def compare_latency(
    modules: Mapping[Name, nn.Module],
    input_shape: Sequence[int],
    *,
    batch_size: int = 1,
    device: torch.device | str = "cpu",
    threads: int | None = None,
    warmup_s: float = 2.0,
    runs: int = 30,
    max_seconds: float = 10.0,
    runtime: str = "eager",
) -> dict[Name, Latency]:
    """Latency of several networks that take turns, in evaluation mode and without gradients.

    A turn is one run without timing, which brings a network's weights into the cache, and five timed runs.

    Args:
        modules: left as they were; copied where they are not on `device`.
        input_shape: of one sample, without the batch; floats of each network's own kind.
        batch_size: samples at a time.
        device: where to run.
        threads: torch's threads for the while; its own setting by default.
        warmup_s: most seconds of warm-up for each network. It ends earlier when the medians of the last two windows of five runs
            differ by at most 5 %, and never before ten runs.
        runs: timed runs of each network, rounded up to whole turns.
        max_seconds: most seconds of timed runs, for each network on average; fewer runs are made then, but at least five.
        runtime: eager, compile or onnxruntime; see `estimators.latency.runtimes`. Compiling and exporting are not timed.

    Raises:
        ValueError: a number that is not positive, no modules, a device that is not there, or a module that does not run on
            such a batch or in such a runtime.
    """
    used = torch.get_num_threads() if threads is None else threads
    _check_positive(batch_size=batch_size, threads=used, warmup_s=warmup_s, runs=runs, max_seconds=max_seconds)
    if not modules:
        raise ValueError("`modules` must hold at least one network, got none")
    try:
        device = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"`device` must be one that torch knows, got {device!r}; use 'cpu' or 'cuda'") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"`device` must be one that torch can use, got {str(device)!r} without CUDA; use 'cpu'")
    noise = torch.randn(batch_size, *input_shape, generator=torch.Generator().manual_seed(0)).to(device)
    placed = {name: _placed(module, device) for name, module in modules.items()}
    images = {name: noise.to(dtype_of(module)) for name, module in placed.items()}
    with _threads(used), evaluating(placed.values()), compiling_each():
        runs_of = {name: prepare(module, images[name], runtime, used) for name, module in placed.items()}
        with torch.inference_mode():
            warmups = {name: _warm_up(name, run, images[name], warmup_s) for name, run in runs_of.items()}
            times = _take_turns(runs_of, images, runs, max_seconds * len(placed))
    return {
        name: Latency(
            *_quartiles(times[name]),
            runs=len(times[name]),
            warmup_runs=warmups[name][0],
            steady=warmups[name][1],
            batch_size=batch_size,
            threads=used,
            device=_described(device),
            torch_version=str(torch.__version__),
            runtime=runtime,
        )
        for name in placed
    }


def _take_turns(
    modules: Mapping[Name, Run], images: Mapping[Name, Tensor], runs: int, seconds: float
) -> dict[Name, list[float]]:
    """Milliseconds of each run of each network."""
    times: dict[Name, list[float]] = {name: [] for name in modules}
    order = list(modules)
    deadline = time.perf_counter() + seconds
    for done in range(0, runs, TURN):
        if done and time.perf_counter() > deadline:
            break
        for name in order:
            _once(modules[name], images[name])
            times[name] += [_once(modules[name], images[name]) for _ in range(TURN)]
        order.reverse()
    return times


def _warm_up(name: object, module: Run, images: Tensor, seconds: float) -> tuple[int, bool]:
    """Run until the times are steady or `seconds` are over; how often it ran, and whether they are."""
    try:
        times = [_once(module, images)]
    except Exception as error:
        raise ValueError(
            f"network {name!r} must run on a batch of shape {tuple(images.shape)}, and does not: {first_line(error)}; "
            "give the shape of one sample that it takes, and wrap a network that needs other inputs"
        ) from error
    deadline = time.perf_counter() + seconds
    while True:
        times += [_once(module, images) for _ in range(WINDOW)]
        if len(times) <= 2 * WINDOW:
            continue
        before, last = statistics.median(times[-2 * WINDOW : -WINDOW]), statistics.median(times[-WINDOW:])
        if abs(before - last) <= STEADY * last:
            return len(times), True
        if time.perf_counter() > deadline:
            return len(times), False


def _once(module: Run, images: Tensor) -> float:
    """Milliseconds of one forward pass."""
    _wait(images.device)
    started = time.perf_counter()
    module(images)
    _wait(images.device)
    return (time.perf_counter() - started) * 1e3


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _quartiles(times: list[float]) -> tuple[float, float, float]:
    """Median, lower and upper quartile."""
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
    return middle, low, high


def _described(device: torch.device) -> str:
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def _placed(module: nn.Module, device: torch.device) -> nn.Module:
    tensors = [*module.parameters(), *module.buffers()]
    return module if all(tensor.device == device for tensor in tensors) else copy.deepcopy(module).to(device)


def _check_positive(**settings: float) -> None:
    for name, value in settings.items():
        if value <= 0:
            raise ValueError(f"`{name}` must be positive, got {value}")


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def evaluating(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Evaluation mode for a while; every submodule gets its own mode back."""
    modes = {part: part.training for module in modules for part in module.modules()}
    for part in modes:
        part.training = False
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
