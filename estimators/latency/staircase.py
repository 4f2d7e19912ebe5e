"""In which multiples of channels a machine computes.

Kernels take channels in blocks, so that time over width is a staircase, or has teeth: in ONNX Runtime a convolution of 57 channels
takes longer than one of 64. A smaller network is a faster one where its widths lie at the ends of steps. How wide steps are
depends on the processor, the runtime and the kind of layer; so they are measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from estimators.latency.measure import compare_latency
from estimators.latency.runtimes import check_onnx, on_cpu_only, onnx_session
from search_spaces.core import unknown_name

MULTIPLES = (1, 2, 4, 8, 16)
LEEWAY = 0.02  # of the time that a multiple may lose to the best one, so that noise does not make it a larger one
ROUNDS = 3  # of which each width is given its quickest
RUNS = 10
MAX_SECONDS = 0.5  # of a round, for all widths of a kind of layer together
ON_ACCELERATORS = 64  # examples at a time, where one would take as long as none


class Layer(NamedTuple):
    """A kind of layer, of representative size: two of them with a ReLU between, as wide at both ends.

    Attributes:
        first: the smallest width; sixteen more are measured.
        shape: of its input without the width: the spatial sizes of an image, or the number of rows.
    """

    first: int
    shape: tuple[int, ...]


LAYERS: dict[str, Layer] = {"conv": Layer(32, (14, 14)), "linear": Layer(48, (128,))}


def smallest_multiple(times: Mapping[int, float]) -> int:
    """The smallest multiple whose widths lie on the steps of a staircase.

    A width that is rounded up to a multiple takes longer and has more channels, which are worth what they cost along the straight
    line between the ends. So the time of the rounded width above this line is lost; the smallest multiple that loses hardly more
    than the best one is taken.

    Args:
        times: width to time, of all widths between two that all `MULTIPLES` divide.
    """
    first, last = min(times), max(times)
    widths = np.arange(first + 1, last + 1)
    at = np.array([times[width] for width in range(first, last + 1)])
    above = at - np.linspace(at[0], at[-1], len(at))
    lost = {multiple: above[-(-widths // multiple) * multiple - first].mean() for multiple in MULTIPLES}
    return min(multiple for multiple in MULTIPLES if lost[multiple] <= min(lost.values()) + LEEWAY * at.mean())


def alignment(kind: str, device: torch.device | str = "cpu", runtime: str = "eager") -> int:
    """The multiple of channels that a kind of layer is computed in: 1, 2, 4, 8 or 16.

    Seventeen widths, made anew, take turns in a few rounds, each is given its lowest lower quartile, as other work only adds. Takes
    about half a second once in a process for each kind, device, runtime and number of torch's threads.

    Args:
        kind: conv (3x3, two dimensions) or linear.
        device: where to run.
        runtime: eager, or onnxruntime, on the CPU only.

    Raises:
        ValueError: no such kind or runtime, or it cannot be measured there.
    """
    if kind not in LAYERS:
        raise unknown_name("kind of layer", kind, LAYERS)
    if runtime not in MAKERS:
        raise unknown_name("runtime", runtime, MAKERS)
    return _measured(kind, str(device), runtime, torch.get_num_threads())


@cache
def _measured(kind: str, device: str, runtime: str, threads: int) -> int:
    layer = LAYERS[kind]
    widths = range(layer.first, layer.first + max(MULTIPLES) + 1)

    def made() -> dict[int, nn.Module]:
        with torch.random.fork_rng(devices=[]):
            return {width: MAKERS[runtime](kind, layer.shape, torch.device(device), width) for width in widths}

    rounds = [
        compare_latency(
            made(),
            (1,),
            device=device,
            threads=threads,
            warmup_s=MAX_SECONDS / 100,
            runs=RUNS,
            max_seconds=MAX_SECONDS / len(widths),
        )
        for _ in range(ROUNDS)
    ]
    return smallest_multiple({width: min(found[width].p25_ms for found in rounds) for width in widths})


class _Eager(nn.Module):
    """Two layers of one width in PyTorch."""

    def __init__(self, kind: str, shape: tuple[int, ...], device: torch.device, width: int) -> None:
        super().__init__()
        shown = (1 if device.type == "cpu" else ON_ACCELERATORS, *_sizes(kind, shape, width))
        make = partial(nn.Conv2d, kernel_size=3, padding=1) if kind == "conv" else nn.Linear
        self.layers = nn.Sequential(make(width, width), nn.ReLU(), make(width, width)).to(device).requires_grad_(False)
        self.x = torch.ones(shown, device=device)

    def forward(self, _: Tensor) -> Tensor:
        """What the layers return."""
        out: Tensor = self.layers(self.x)
        return out


class _OnnxRuntime(nn.Module):
    """The same in ONNX Runtime; the graph is written by hand, as seventeen exports take seconds."""

    def __init__(self, kind: str, shape: tuple[int, ...], device: torch.device, width: int) -> None:
        super().__init__()
        check_onnx()
        on_cpu_only(device)
        self.x = np.ones((1, *_sizes(kind, shape, width)), dtype=np.float32)
        self.session = onnx_session(_graph(kind, self.x.shape, width), torch.get_num_threads())

    def forward(self, _: Tensor) -> Any:
        """What the layers return."""
        return self.session.run(None, {"x": self.x})


def _sizes(kind: str, shape: tuple[int, ...], width: int) -> tuple[int, ...]:
    return (width, *shape) if kind == "conv" else (*shape, width)


def _graph(kind: str, shape: tuple[int, ...], width: int) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    weight = np.full((width, width, 3, 3) if kind == "conv" else (width, width), 0.01, dtype=np.float32)
    operator = "Conv" if kind == "conv" else "MatMul"
    more: dict[str, Any] = {"pads": [1, 1, 1, 1]} if kind == "conv" else {}
    nodes = [
        helper.make_node(operator, ["x", "w"], ["a"], **more),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node(operator, ["b", "w"], ["y"], **more),
    ]
    given, returned = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y"))
    graph = helper.make_graph(nodes, "layers", [given], [returned], [numpy_helper.from_array(weight, "w")])
    opset = [helper.make_opsetid("", 17)]
    return bytes(helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString())


MAKERS: dict[str, Any] = {"eager": _Eager, "onnxruntime": _OnnxRuntime}
