"""Counting what a module computes, by running it once on tensors that hold no data.

Conventions, used everywhere in the toolkit:
    macs          multiply-accumulates of convolutions, linear layers and matrix products (attention: both of its products, masks
                  save nothing), for one sample. `flops` is 2 x macs, always.
    params        elements of all parameters, each parameter once however often it is used, and of weights that quantised layers keep
                  packed. Buffers are not parameters.
    activations   elements that those same operators put out, for one sample.
    weight_bytes  bytes of all parameters at their own dtype.
Everything else (biases, normalisation, activation functions, pooling, additions, moving data) counts nothing, as in most of the
literature. docs/counting.md compares this with other counters.
"""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator
from torch.nn.attention import flex_attention
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from estimators.counting.operators import activations_of, counts_nothing, has_formula, macs_of
from search_spaces.core import first_line

META = torch.device("meta")
Inputs = Sequence[int] | Tensor | tuple[Any, ...] | Mapping[str, Any]
AnyTally = TypeVar("AnyTally", bound="Tally")


@dataclass(frozen=True)
class Cost:
    """What one network costs for one sample; see the conventions of this module."""

    macs: int = 0
    params: int = 0
    activations: int = 0
    weight_bytes: int = 0

    @property
    def flops(self) -> int:
        """2 x macs."""
        return 2 * self.macs

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.macs + other.macs,
            self.params + other.params,
            self.activations + other.activations,
            self.weight_bytes + other.weight_bytes,
        )


@dataclass(frozen=True)
class Profile:
    """The cost of a module and where it comes from.

    Attributes:
        total: of the whole module.
        modules: cost of each submodule by qualified name, its own submodules included; `""` is the whole. A submodule that
            never ran as one (whose weights its parent uses directly) has parameters and no macs of its own; parameters that
            several submodules share are in each of them, and once in what holds them all.
        operators: macs by operator, in torch's words.
        unsupported: operators that are neither counted nor known to multiply nothing, and how often each ran.
    """

    total: Cost
    modules: Mapping[str, Cost]
    operators: Mapping[str, int]
    unsupported: Mapping[str, int]


def count(module: nn.Module, inputs: Inputs) -> Profile:
    """Count one forward pass in evaluation mode.

    A copy of the module runs on the meta device, which computes nothing, or where that is not possible (the module looks at
    values) on the module's own device. The module is left as it was; forward hooks run with the copy.

    Args:
        module: any module that `copy.deepcopy` can copy.
        inputs: the shape of one sample, without the batch, of floats of the module's own kind (float32, bfloat16 and so on); or the
            module's own inputs (a tensor, a tuple of positional or a mapping of keyword arguments), which are counted as they are,
            batch included.

    Raises:
        ValueError: the module does not run on these inputs.

    Example:
        >>> count(nn.Conv2d(3, 8, 3), (3, 32, 32)).total.macs
        194400
    """
    tally = run_with(Tally, module, inputs)
    modules = {
        name: Cost(tally.macs[name], _params(part), tally.activations[name], _weight_bytes(part))
        for name, part in module.named_modules()
    }
    return Profile(modules[""], modules, dict(tally.operators), dict(tally.unsupported))


class Tally(TorchDispatchMode):
    """Adds up what every operator costs, in the name of each module that it runs in."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.running: list[tuple[str, ...]] = [("",)]
        self.macs: Counter[str] = Counter()
        self.activations: Counter[str] = Counter()
        self.operators: Counter[str] = Counter()
        self.unsupported: Counter[str] = Counter()

    def watch(self, module: nn.Module) -> None:
        """Put hooks on a module's submodules that tell which of them are running; lists run with what they hold."""
        parts = {name: part for name, part in module.named_modules() if not isinstance(part, torch.jit.ScriptModule)}
        lists = {name for name, part in parts.items() if name and type(part).forward is nn.Module.forward}
        for name, part in parts.items():
            if name:
                names = [name]
                while (holder := names[-1].rpartition(".")[0]) in lists:
                    names.append(holder)
                part.register_forward_pre_hook(partial(self._enter, tuple(names)), prepend=True)
                part.register_forward_hook(self._leave, always_call=True)

    def _enter(self, names: tuple[str, ...], *_: object) -> None:
        self.running.append(names)

    def _leave(self, *_: object) -> None:
        self.running.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, HigherOrderOperator):
            return self._whole(func, args, kwargs)
        operator = func._overloadpacket
        if not has_formula(operator):
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        macs = macs_of(operator, args, kwargs, out)
        if macs is not None:
            self.add(operator, macs, args, kwargs, out)
        elif not counts_nothing(func):
            self.unsupported[str(operator)] += 1
        return out

    def _whole(self, operator: HigherOrderOperator, args: Any, kwargs: Any) -> Any:
        """One call of an operator that takes functions, such as flex_attention: by its formula, or not counted and named."""
        out = operator(*args, **kwargs)
        macs = macs_of(operator, args, kwargs, out)
        if macs is None:
            self.unsupported[operator.name()] += 1
        else:
            self.add(operator, macs, args, kwargs, out)
        return out

    def add(self, operator: Any, macs: int, args: Any, kwargs: Any, out: Any) -> None:
        """One call of an operator that multiplies and accumulates."""
        activations = activations_of(operator, args, kwargs, out)
        self.operators[str(operator).removeprefix("aten.")] += macs
        for name in set().union(*self.running):
            self.macs[name] += macs
            self.activations[name] += activations


def standing_in(module: nn.Module, device: torch.device) -> nn.Module:
    """A copy in evaluation mode whose parameters, buffers and other tensors are on `device`; on the meta device it holds no data."""

    def moved(tensor: Tensor) -> Tensor:
        data = (
            torch.empty_like(tensor, device=device) if device.type == "meta" else tensor.detach().to(device, copy=True)
        )
        return nn.Parameter(data, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else data

    tensors = {
        id(leaf): leaf for part in module.modules() for leaf in tree_leaves(vars(part)) if isinstance(leaf, Tensor)
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`isinstance.treespec", FutureWarning)  # torch's, about its own graph modules
        return copy.deepcopy(module, {key: moved(tensor) for key, tensor in tensors.items()}).eval()


def device_of(module: nn.Module) -> torch.device:
    """Where the module's first parameter or buffer is; the CPU for a module without any."""
    return next((tensor.device for tensor in [*module.parameters(), *module.buffers()]), torch.device("cpu"))


def run_with(make: Callable[[], AnyTally], module: nn.Module, inputs: Inputs) -> AnyTally:
    """Let a new tally watch one forward pass, as `count` describes; its errors are those of `count`."""
    given = _arguments(module, inputs)
    try:
        return _run(make(), module, *given, META)
    except Exception:
        try:
            return _run(make(), module, *given, device_of(module))
        except Exception as error:
            raise ValueError(_explained(module, *given, error)) from error


def _run(
    tally: AnyTally, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], device: torch.device
) -> AnyTally:
    own = standing_in(module, device)
    tally.watch(own)
    given = tree_map(lambda value: _moved(value, device), (args, kwargs))
    with torch.no_grad(), _without_fused_layers(), tally:
        own(*given[0], **given[1])
    return tally


@contextmanager
def _without_fused_layers() -> Iterator[None]:
    """Switch off what hides operators: torch's fast paths, for recurrent layers too, and flex_attention's own compiler."""
    before = torch.backends.mkldnn.enabled
    compiles = flex_attention._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    flex_attention._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG = True
    try:
        with without_fused_attention():
            yield
    finally:
        torch.backends.mkldnn.enabled = before
        flex_attention._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG = compiles


@contextmanager
def without_fused_attention() -> Iterator[None]:
    """Switch off the fast path of torch's transformer layers: it runs a whole layer as one operator, which cannot be counted."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def dtype_of(module: nn.Module) -> torch.dtype:
    """That of the module's first floating-point parameter or buffer; float32 for a module without any."""
    tensors = [*module.parameters(), *module.buffers()]
    return next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), torch.float32)


def example(module: nn.Module, inputs: Inputs, device: torch.device) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments on `device`: the module's own inputs, or zeros of one sample's shape with a batch of 1."""
    args, kwargs = _arguments(module, inputs)
    return tree_map(lambda value: _moved(value, device), (args, kwargs))


def is_shape(inputs: Inputs) -> bool:
    """Whether inputs are the shape of one sample, not a module's own."""
    return not isinstance(inputs, (Tensor, Mapping)) and all(isinstance(size, Integral) for size in inputs)


def _arguments(module: nn.Module, inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Tensor):
        return (inputs,), {}
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if not is_shape(inputs):
        return tuple(inputs), {}
    if not all(size > 0 for size in inputs):
        raise ValueError(f"`inputs` must be a shape of positive sizes, got {tuple(inputs)}; leave the batch out")
    return (torch.empty(1, *inputs, dtype=dtype_of(module), device=META),), {}


def _moved(value: Any, device: torch.device) -> Any:
    if not isinstance(value, Tensor):
        return value
    return torch.zeros(value.shape, dtype=value.dtype, device=device) if value.is_meta else value.to(device)


def _explained(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception) -> str:
    shapes = [str(tuple(leaf.shape)) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    return (
        f"`inputs` must suit the module: a copy of {type(module).__name__} does not run on {', '.join(shapes) or 'them'}: "
        f"{first_line(error)}; give the shape of one sample without the batch, or the module's own inputs as a tensor, a tuple or a "
        "mapping"
    )


def _weights(module: nn.Module) -> Iterator[Tensor]:
    """All parameters, and weights and biases that quantised layers keep packed."""
    yield from module.parameters()
    for part in module.modules():
        packed = getattr(part, "_packed_params", None)
        if isinstance(packed, torch.ScriptObject):
            yield from (tensor for tensor in packed.unpack() if tensor is not None)  # type: ignore[attr-defined]


def _params(module: nn.Module) -> int:
    return sum(weight.numel() for weight in _weights(module))


def _weight_bytes(module: nn.Module) -> int:
    return sum(weight.numel() * weight.element_size() for weight in _weights(module))
