"""One network on its inputs through different runtimes: eager PyTorch, `torch.compile`, ONNX Runtime."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from estimators.counting import device_of
from search_spaces.core import first_line, quiet, unknown_name

Args = tuple[Any, ...]
Kwargs = Mapping[str, Any]
Run = Callable[[], object]


def prepare(module: nn.Module, args: Args, kwargs: Kwargs, runtime: str, threads: int) -> Run:
    """A function that runs a module, in evaluation mode already, on these inputs.

    Args:
        module: on the inputs' device.
        args: positional inputs.
        kwargs: keyword inputs; a compiled or exported network is made for the sizes of these and the others.
        runtime: eager, compile or onnxruntime. The last one runs on the CPU, with copies of nothing but the result, and returns
            the tensors among the outputs as arrays, in order.
        threads: of ONNX Runtime within operators; torch's own are set by the caller.

    Raises:
        ValueError: no such runtime, its packages are missing, it does not run on this device, or the network cannot be exported.
    """
    if runtime not in RUNTIMES:
        raise unknown_name("runtime", runtime, RUNTIMES)
    return RUNTIMES[runtime](module, args, kwargs, threads)


def _eager(module: nn.Module, args: Args, kwargs: Kwargs, threads: int) -> Run:
    return lambda: module(*args, **kwargs)


def _compiled(module: nn.Module, args: Args, kwargs: Kwargs, threads: int) -> Run:
    compiled: Any = torch.compile(module, dynamic=False)
    return lambda: compiled(*args, **kwargs)


def _onnxruntime(module: nn.Module, args: Args, kwargs: Kwargs, threads: int) -> Run:
    check_onnx()
    flat = _Flat(module, args, kwargs)
    for tensor in flat.tensors:
        on_cpu_only(tensor.device)
    on_cpu_only(device_of(module))
    names = [f"input_{place}" for place in range(len(flat.tensors))]
    try:
        session = _Session(_exported(flat, names), threads)
        given = {name: tensor.detach().numpy() for name, tensor in zip(names, flat.tensors, strict=True)}
    except Exception as error:
        raise ValueError(
            f"{type(module).__name__} cannot be exported to ONNX: {first_line(error)}; measure it eager"
        ) from error
    session.feed(given)
    return session


class _Session:
    """A model in ONNX Runtime with what it is run on."""

    def __init__(self, model: bytes, threads: int) -> None:
        self.model, self.threads = model, threads
        self.session = onnx_session(model, threads)
        self.feeds: dict[str, Any] = {}

    def feed(self, given: Mapping[str, Any]) -> None:
        """Take those of the inputs that the exported model has."""
        known = {each.name for each in self.session.get_inputs()}
        self.feeds = {name: array for name, array in given.items() if name in known}

    def renew(self) -> None:
        """Another session in the place of this one."""
        self.session = None
        self.session = onnx_session(self.model, self.threads)
        self()

    def __call__(self) -> Any:
        return self.session.run(None, self.feeds)


def renew(run: Run) -> None:
    """Let the threads that a run brings along be placed anew, where the runtime has some of its own.

    Beside other work, the operating system may put a thread of a session onto the core of the one that waits for it, and leave it
    there: of two sessions of one model, one then takes twice as long as the other for as long as both live.
    """
    if isinstance(run, _Session):
        run.renew()


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
    """A session of ONNX Runtime on the CPU, which leaves the processor to others between its runs.

    By default the threads of a session go on spinning for a while after a run. Sessions that take turns then disturb each other: a
    smaller model that followed a larger one took 1.4 to 2.4 times as long as alone, on two cores. Where threads stop when a run
    ends, both take as long as alone with ONNX Runtime's defaults; without any spinning they took a third longer.

    Args:
        model: a serialised ONNX model.
        threads: within operators.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@contextmanager
def compiling_each() -> Iterator[None]:
    """Let `torch.compile` compile as many networks of one class as there are; by default it runs all but the first few eagerly."""
    import torch._dynamo.config as dynamo  # a quarter of what `import nas` takes, and few need it

    with dynamo.patch(
        recompile_limit=sys.maxsize, accumulated_recompile_limit=sys.maxsize, fail_on_recompile_limit_hit=True
    ):
        yield


class _Flat(nn.Module):
    """A model as a function of tensors alone, to tensors alone."""

    def __init__(self, model: nn.Module, args: Args, kwargs: Kwargs) -> None:
        super().__init__()
        self.model = model
        self.leaves, self.spec = pytree.tree_flatten((args, dict(kwargs)))
        self.train(model.training)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors among the inputs, in order."""
        return tuple(leaf for leaf in self.leaves if isinstance(leaf, Tensor))

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The tensors of what the model returns, in order."""
        given = iter(tensors)
        leaves = [next(given) if isinstance(leaf, Tensor) else leaf for leaf in self.leaves]
        args, kwargs = pytree.tree_unflatten(leaves, self.spec)
        return tuple(x for x in pytree.tree_leaves(self.model(*args, **kwargs)) if isinstance(x, Tensor))


def _exported(flat: _Flat, names: list[str]) -> bytes:
    """By the exporter that traces first, as it is many times faster; what it cannot do is left to `torch.export`."""
    with quiet(), torch.no_grad():
        try:
            buffer = io.BytesIO()
            torch.onnx.export(flat, flat.tensors, buffer, input_names=names, dynamo=False)  # type: ignore[arg-type]
            return buffer.getvalue()
        except Exception:
            program: Any = torch.onnx.export(flat, flat.tensors, input_names=names, dynamo=True)
            return bytes(program.model_proto.SerializeToString())


RUNTIMES: dict[str, Callable[[nn.Module, Args, Kwargs, int], Run]] = {
    "eager": _eager,
    "compile": _compiled,
    "onnxruntime": _onnxruntime,
}
