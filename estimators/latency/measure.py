"""How long a network takes on this machine, never without its spread.

Every network is warmed up until its times are steady. Then all of them take turns, in alternating order, so that a machine that
slows down or speeds up does so for all of them. Each is given the median and the quartiles of its runs. In ONNX Runtime every turn
has a session of its own.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from estimators.counting import Inputs, device_of, dtype_of, example, is_shape
from estimators.latency.runtimes import Args, Kwargs, Run, compiling_each, prepare, renew
from search_spaces.core import first_line

Name = TypeVar("Name")
TURN = 5
WINDOW = 5
STEADY = 0.05
Given = tuple[Args, Kwargs]
WARMUP_S, RUNS, MAX_SECONDS = 1.0, 25, 5.0  # of a comparison on examples


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
    inputs: Inputs,
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
        inputs,
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
    inputs: Inputs,
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
        inputs: the shape of one sample, without the batch, of random floats of each network's own kind; or the networks' own inputs (a
            tensor, a tuple of positional or a mapping of keyword arguments, of any structure), which are taken as they are.
        batch_size: samples at a time, of a shape.
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
    if not is_shape(inputs) and batch_size != 1:
        raise ValueError(f"`batch_size` is for the shape of a sample, got {batch_size} beside inputs; leave it out")
    try:
        device = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"`device` must be one that torch knows, got {device!r}; use 'cpu' or 'cuda'") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"`device` must be one that torch can use, got {str(device)!r} without CUDA; use 'cpu'")
    placed = {name: _placed(module, device) for name, module in modules.items()}
    given = _given(placed, inputs, batch_size, device)
    return _compared(placed, given, device, runtime, batch_size, used, warmup_s, runs, max_seconds)


def compare_on_example(
    models: Mapping[Name, nn.Module],
    args: Args,
    kwargs: Kwargs,
    runtime: str = "eager",
    *,
    runs: int = RUNS,
    max_seconds: float = MAX_SECONDS,
) -> dict[Name, Latency]:
    """Latency of models that take turns on the same example inputs, where the first of these is, in a few seconds.

    Args:
        models: each takes the inputs; left in the modes that they were in.
        args: positional inputs.
        kwargs: keyword inputs.
        runtime, runs, max_seconds: see `compare_latency`.

    Raises:
        ValueError: as `compare_latency`.
    """
    tensors = [x for x in tree_leaves((args, dict(kwargs))) if isinstance(x, Tensor)]
    device = tensors[0].device if tensors else torch.device("cpu")
    given = dict.fromkeys(models, (args, kwargs))
    return _compared(models, given, device, runtime, 1, torch.get_num_threads(), WARMUP_S, runs, max_seconds)


def onnxruntime_ms(model: nn.Module, inputs: Inputs) -> float:
    """Milliseconds of a model in ONNX Runtime on this machine's CPU, the lower quartile, as the target of that name of `pruners.prune`.

    Args:
        model: on the CPU.
        inputs: a tensor, a tuple of positional or a dict of keyword inputs; or the shape of one sample.

    Raises:
        ValueError: the extra `onnx` is missing, or the model cannot be exported.
    """
    args, kwargs = example(model, inputs, device_of(model))
    return compare_on_example({"model": model}, args, kwargs, "onnxruntime")["model"].p25_ms


def _compared(
    modules: Mapping[Name, nn.Module],
    given: Mapping[Name, Given],
    device: torch.device,
    runtime: str,
    batch_size: int,
    threads: int,
    warmup_s: float,
    runs: int,
    max_seconds: float,
) -> dict[Name, Latency]:
    """See `compare_latency`; modules and inputs are on the device."""
    with _threads(threads), evaluating(modules.values()), compiling_each():
        runs_of = {name: prepare(module, *given[name], runtime, threads) for name, module in modules.items()}
        with torch.inference_mode():
            warmups = {name: _warm_up(name, run, given[name], device, warmup_s) for name, run in runs_of.items()}
            times = _take_turns(runs_of, device, runs, max_seconds * len(modules))
    return {
        name: Latency(
            *_quartiles(times[name]),
            runs=len(times[name]),
            warmup_runs=warmups[name][0],
            steady=warmups[name][1],
            batch_size=batch_size,
            threads=threads,
            device=_described(device),
            torch_version=str(torch.__version__),
            runtime=runtime,
        )
        for name in modules
    }


def _given(
    modules: Mapping[Name, nn.Module], inputs: Inputs, batch_size: int, device: torch.device
) -> dict[Name, Given]:
    """Positional and keyword inputs of each network on the device."""
    if not is_shape(inputs):
        return {name: example(module, inputs, device) for name, module in modules.items()}
    noise = torch.randn(batch_size, *inputs, generator=torch.Generator().manual_seed(0)).to(device)
    return {name: ((noise.to(dtype_of(module)),), {}) for name, module in modules.items()}


def _take_turns(
    runs_of: Mapping[Name, Run], device: torch.device, runs: int, seconds: float
) -> dict[Name, list[float]]:
    """Milliseconds of each run of each network."""
    times: dict[Name, list[float]] = {name: [] for name in runs_of}
    order = list(runs_of)
    deadline = time.perf_counter() + seconds
    for done in range(0, runs, TURN):
        if done and time.perf_counter() > deadline:
            break
        for name in order:
            if done:
                renew(runs_of[name])
            _once(runs_of[name], device)
            times[name] += [_once(runs_of[name], device) for _ in range(TURN)]
        order.reverse()
    return times


def _warm_up(name: object, run: Run, given: Given, device: torch.device, seconds: float) -> tuple[int, bool]:
    """Run until the times are steady or `seconds` are over; how often it ran, and whether they are."""
    try:
        times = [_once(run, device)]
    except Exception as error:
        shapes = ", ".join(str(tuple(x.shape)) for x in tree_leaves(given) if isinstance(x, Tensor))
        raise ValueError(
            f"network {name!r} must run on a batch of shape {shapes or 'none'}, and does not: {first_line(error)}; "
            "give the shape of one sample that it takes, or its own inputs"
        ) from error
    deadline = time.perf_counter() + seconds
    while True:
        times += [_once(run, device) for _ in range(WINDOW)]
        if len(times) <= 2 * WINDOW:
            continue
        before, last = statistics.median(times[-2 * WINDOW : -WINDOW]), statistics.median(times[-WINDOW:])
        if abs(before - last) <= STEADY * last:
            return len(times), True
        if time.perf_counter() > deadline:
            return len(times), False


def _once(run: Run, device: torch.device) -> float:
    """Milliseconds of one forward pass."""
    _wait(device)
    started = time.perf_counter()
    run()
    _wait(device)
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
