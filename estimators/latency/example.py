"""A model on inputs of any kind, in eager PyTorch and in ONNX Runtime, which take turns on this machine."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from estimators.counting import Inputs, device_of, example
from estimators.latency.measure import Latency, compare_latency, evaluating
from estimators.latency.runtimes import check_onnx, on_cpu_only, onnx_session
from search_spaces.core import first_line, quiet, unknown_name

Name = TypeVar("Name")
WARMUP_S = 1.0
RUNS = 25
MAX_SECONDS = 5.0


class OnExample(nn.Module):
    """A model that runs on its own example inputs, whatever it is given."""

    def __init__(self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        super().__init__()
        self.model, self.args, self.kwargs = model, args, kwargs

    def forward(self, _: Tensor) -> Any:
        """What the model returns on the example inputs."""
        return self.model(*self.args, **self.kwargs)


class OnnxExample(nn.Module):
    """The same in ONNX Runtime on the CPU, exported at the sizes of the example inputs.

    The exporter that traces is tried first, as it is many times faster; what it cannot do is left to `torch.export`.

    Args:
        model: on the CPU; it is exported in evaluation mode.
        args: positional example inputs.
        kwargs: keyword example inputs.
        threads: of ONNX Runtime within operators; torch's own number if None.

    Raises:
        ValueError: packages are missing, a tensor is elsewhere, or the model cannot be exported.
    """

    def __init__(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], threads: int | None = None
    ) -> None:
        super().__init__()
        check_onnx()
        flat = _Flat(model, args, kwargs)
        for tensor in flat.tensors:
            on_cpu_only(tensor.device)
        on_cpu_only(device_of(model))
        names = [f"input_{place}" for place in range(len(flat.tensors))]
        try:
            with evaluating([flat]):
                exported = _exported(flat, names)
            self.session = onnx_session(exported, torch.get_num_threads() if threads is None else threads)
            known = {given.name for given in self.session.get_inputs()}
            given = {name: tensor.detach().numpy() for name, tensor in zip(names, flat.tensors, strict=True)}
        except Exception as error:
            raise ValueError(
                f"{type(model).__name__} cannot be exported to ONNX: {first_line(error)}; measure it eager"
            ) from error
        self.feeds = {name: array for name, array in given.items() if name in known}

    def forward(self, _: Tensor) -> Any:
        """Outputs as arrays."""
        return self.session.run(None, self.feeds)


ON_EXAMPLE: dict[str, type[OnExample] | type[OnnxExample]] = {"eager": OnExample, "onnxruntime": OnnxExample}
"""Runtimes that take inputs of any kind."""


def compare_on_example(
    models: Mapping[Name, nn.Module],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    runtime: str = "eager",
    *,
    runs: int = RUNS,
    max_seconds: float = MAX_SECONDS,
) -> dict[Name, Latency]:
    """Milliseconds of models that take turns on the same example inputs.

    Args:
        models: each takes the inputs; left in the modes that they were in.
        args: positional inputs.
        kwargs: keyword inputs.
        runtime: eager or onnxruntime.
        runs, max_seconds: see `compare_latency`.

    Raises:
        ValueError: no such runtime, its packages are missing, or a model cannot be exported.
    """
    if runtime not in ON_EXAMPLE:
        raise unknown_name("runtime", runtime, ON_EXAMPLE)
    tensors = [x for x in pytree.tree_leaves((args, dict(kwargs))) if isinstance(x, Tensor)]
    place = tensors[0].device if tensors else torch.device("cpu")
    with evaluating(models.values()):
        made: dict[Name, nn.Module] = {name: ON_EXAMPLE[runtime](m, args, kwargs) for name, m in models.items()}
        return compare_latency(made, (1,), device=place, warmup_s=WARMUP_S, runs=runs, max_seconds=max_seconds)


def onnxruntime_ms(model: nn.Module, inputs: Inputs) -> float:
    """Median milliseconds of a model in ONNX Runtime on this machine's CPU: an estimator for `pruners.prune`.

    Args:
        model: on the CPU.
        inputs: a tensor, a tuple of positional or a dict of keyword inputs; or the shape of one sample.

    Raises:
        ValueError: the extra `onnx` is missing, or the model cannot be exported.
    """
    args, kwargs = example(model, inputs, device_of(model))
    return compare_on_example({"model": model}, args, kwargs, "onnxruntime")["model"].median_ms


class _Flat(nn.Module):
    """A model as a function of tensors alone, to tensors alone."""

    def __init__(self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        super().__init__()
        self.model = model
        self.leaves, self.spec = pytree.tree_flatten((args, dict(kwargs)))

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
    with quiet(), torch.no_grad():
        try:
            buffer = io.BytesIO()
            torch.onnx.export(flat, flat.tensors, buffer, input_names=names, dynamo=False)  # type: ignore[arg-type]
            return buffer.getvalue()
        except Exception:
            program: Any = torch.onnx.export(flat, flat.tensors, input_names=names, dynamo=True)
            return bytes(program.model_proto.SerializeToString())
