"""One network through different runtimes: eager PyTorch, `torch.compile`, ONNX Runtime."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces.core import first_line, quiet, unknown_name

Run = Callable[[Tensor], object]


def prepare(module: nn.Module, images: Tensor, runtime: str, threads: int) -> Run:
    """A function that runs a module, in evaluation mode already, on such images.

    Args:
        module: on the images' device.
        images: one batch; a compiled or exported network is made for its shape.
        runtime: eager, compile or onnxruntime. The last one runs on the CPU, with copies of nothing but the result.
        threads: of ONNX Runtime within operators; torch's own are set by the caller.

    Raises:
        ValueError: no such runtime, its packages are missing, it does not run on this device, or the network cannot be exported.
    """
    if runtime not in RUNTIMES:
        raise unknown_name("runtime", runtime, RUNTIMES)
    return RUNTIMES[runtime](module, images, threads)


def _eager(module: nn.Module, images: Tensor, threads: int) -> Run:
    return module


def _compiled(module: nn.Module, images: Tensor, threads: int) -> Run:
    compiled: Run = torch.compile(module, dynamic=False)
    return compiled


def _onnxruntime(module: nn.Module, images: Tensor, threads: int) -> Run:
    check_onnx()
    on_cpu_only(images.device)
    try:
        with quiet():
            program: Any = torch.onnx.export(module, (images,), input_names=["images"], dynamo=True)
    except Exception as error:
        raise ValueError(
            f"{type(module).__name__} cannot be exported to ONNX: {first_line(error)}; measure it eager"
        ) from error
    session = onnx_session(program.model_proto.SerializeToString(), threads)
    return lambda given: session.run(None, {"images": given.numpy()})


def check_onnx() -> None:
    """Refuse ONNX Runtime where one of its packages is missing.

    Raises:
        ValueError: with the one that is.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f'runtime onnxruntime needs a package that is missing ({error}); pip install "nas-toolkit[onnx]"'
        ) from error


def on_cpu_only(device: torch.device) -> None:
    """Refuse ONNX Runtime for tensors of another device than the CPU."""
    if device.type != "cpu":
        raise ValueError(f"runtime onnxruntime is measured on the CPU, got device {str(device)!r}; use 'cpu'")


def onnx_session(model: bytes, threads: int) -> Any:
    """A session of ONNX Runtime on the CPU.

    Args:
        model: a serialised ONNX model.
        threads: within operators.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@contextmanager
def compiling_each() -> Iterator[None]:
    """Let `torch.compile` compile as many networks of one class as there are; by default it runs all but the first few eagerly."""
    import torch._dynamo.config as dynamo  # a quarter of what `import nas` takes, and few need it

    with dynamo.patch(
        recompile_limit=sys.maxsize, accumulated_recompile_limit=sys.maxsize, fail_on_recompile_limit_hit=True
    ):
        yield


RUNTIMES: dict[str, Callable[[nn.Module, Tensor, int], Run]] = {
    "eager": _eager,
    "compile": _compiled,
    "onnxruntime": _onnxruntime,
}
