"""A model as a graph of tensor operators, each with the module that owns it."""

from __future__ import annotations

import functools
import inspect
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from pruners import routing
from pruners import sizes as free_sizes
from pruners.functional import drop_assertions, functional
from pruners.routing import SomethingChosen, is_chosen, pretended
from pruners.sizes import FewConditions, Sizes, TooManyConditions, sizes_of, value_of

MOMENTUM = 0.1  # torch's default for batch norms
CHOOSING = "choosing"  # a graph's note that rows are chosen by their values


@dataclass(frozen=True)
class Trace:
    """A functional graph (no in-place operators) of a model in eval mode.

    Attributes:
        program: the exported program that owns the graph; its tensors are the model's own.
        args: example positional inputs.
        kwargs: example keyword inputs, likewise.
        copies: how many copies of the given example the graph was traced with (2 where a batch of 1 was given).
        tensors: placeholder name to the tensor's name in the model (parameter, buffer or constant).
        constants: names in `tensors` that are in no state_dict of the model.
        free: which inputs, counted one by one, have a first dimension that is free in the graph: the batch.
        sizes: what tensors the graph takes.
    """

    program: ExportedProgram
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    tensors: Mapping[str, str]
    constants: frozenset[str] = field(default_factory=frozenset)
    free: frozenset[int] = frozenset()
    copies: int = 1
    sizes: Sizes = field(default_factory=Sizes)

    @property
    def batched(self) -> bool:
        """Whether the graph takes batches of any size."""
        return bool(self.free)

    @property
    def graph_module(self) -> GraphModule:
        return self.program.graph_module

    @property
    def choosing(self) -> bool:
        """Whether the model chooses rows by their values; in the graph something is chosen everywhere."""
        return bool(self.graph_module.meta.get(CHOOSING))

    @property
    def nodes(self) -> Sequence[Node]:
        """The nodes in order of execution."""
        return list(self.program.graph.nodes)

    def returned(self, outputs: Sequence[Any]) -> list[Any]:
        """Of the graph's outputs those that the model returns; the others are what it writes to its own buffers."""
        specs = self.program.graph_signature.output_specs
        return [x for x, spec in zip(outputs, specs, strict=True) if spec.kind == OutputKind.USER_OUTPUT]

    def tensor(self, name: str) -> torch.Tensor:
        """The parameter, buffer or constant called `name`."""
        if name in self.program.state_dict:
            return self.program.state_dict[name]
        constant = self.program.constants[name]
        assert isinstance(constant, torch.Tensor)
        return constant

    def enlarged(self) -> Trace:
        """The same trace with an example of the size that it was traced with."""
        args, kwargs = _repeated(self.args, dict(self.kwargs), self.free, self.copies)
        return replace(self, args=args, kwargs=kwargs, copies=1)

    def resized(self, sizes: Mapping[str, int]) -> Trace:
        """The same trace with an example of other free sizes, by name, in which the given one is repeated or cut."""
        leaves, spec = pytree.tree_flatten((self.args, dict(self.kwargs)))
        names = [node.name for node in self.nodes if node.op == "placeholder" and node.name not in self.tensors]
        for place, name in enumerate(names):
            for dim, size in enumerate(self.sizes.shapes.get(name, ())):
                if isinstance(size, str):
                    leaves[place] = of_size(leaves[place], dim, sizes[size])
        args, kwargs = pytree.tree_unflatten(leaves, spec)
        return replace(self, args=args, kwargs=kwargs, copies=1)

    def values(self) -> dict[str, Any]:
        """Placeholder name to the value it takes on the example inputs."""
        user = iter(pytree.tree_leaves((self.args, dict(self.kwargs))))
        return {
            node.name: self.tensor(self.tensors[node.name]) if node.name in self.tensors else next(user)
            for node in self.program.graph.nodes
            if node.op == "placeholder"
        }


def trace(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None, every_size: bool = False
) -> Trace:
    """Trace a model in eval mode with `torch.export`.

    A batch norm that averages over all batches (`momentum=None`), which a graph cannot count, is traced with torch's 0.1.

    The first dimension of the inputs is traced as free where the model allows it, but for inputs whose first dimension is not as
    large as that of the first: a time, positions that all samples share. A batch of 1, which cannot be told from a dimension
    that broadcasts, is traced as two copies of itself.

    Args:
        model: any module; its mode and weights are left as they are.
        args: example positional inputs.
        kwargs: example keyword inputs.
        every_size: trace as free every dimension of the inputs that the model allows, not the first only, but for those of size 1.

    Raises:
        ValueError: if the example inputs do not fit the model, or `torch.export` cannot trace it.
    """
    args, kwargs = tuple(args), dict(kwargs or {})
    with evaluating(model), _quiet(), torch.no_grad(), _named_inputs(model, kwargs), FewConditions():
        size, free = _batch(args, kwargs)
        copies = 2 if size == 1 else 1
        program = _export_batched(model, *_repeated(args, kwargs, free, copies), free, every_size) if free else None
        if program is None:
            free, copies = frozenset(), 1
            try:
                shapes = _free_shapes(model, args, kwargs, free, every_size) if every_size else None
                program = _export(model, args, kwargs, shapes)
            except Exception as error:
                with fitting(args, kwargs):
                    model(*args, **kwargs)
                raise ValueError(_untraceable(error)) from error
    _refuse_untieable(program)
    _give_momenta(program, model)
    signature = program.graph_signature
    constants = dict(signature.inputs_to_lifted_tensor_constants)
    tensors = {**signature.inputs_to_parameters, **signature.inputs_to_buffers, **constants}
    known = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    first_name = {id(tensor): name for name, tensor in (*model.named_buffers(), *model.named_parameters())}
    for placeholder, name in tensors.items():  # tied weights go by their first name
        tensors[placeholder] = first_name.get(id(program.state_dict.get(name)), name)
    inputs = [node for node in program.graph.nodes if node.op == "placeholder" and node.name not in tensors]
    sizes = sizes_of(inputs, free)
    return Trace(program, args, kwargs, tensors, frozenset(set(tensors.values()) - known), free, copies, sizes)


@contextmanager
def fitting(args: tuple[Any, ...], kwargs: Mapping[str, Any], given_as: str = "example_inputs") -> Iterator[None]:
    """Say of what a model raises that its inputs do not fit, and which argument they were given as."""
    try:
        yield
    except Exception as error:
        shapes = [tuple(x.shape) if isinstance(x, torch.Tensor) else x for x in (*args, *kwargs.values())]
        raise ValueError(f"`{given_as}` must fit the model, got {shapes}: {first_line(error)}") from error


def owner(node: Node) -> str:
    """Name of the innermost module whose forward ran this operator, "" for the model itself."""
    stack = node.meta.get("nn_module_stack") or {}
    names = [name for name, _ in stack.values()]
    return names[-1].split("@")[0] if names else ""


def operator(node: Node) -> str:
    """Name of a node's operator, as "aten.conv2d.default"."""
    target = node.target
    return str(target) if isinstance(target, torch._ops.OpOverload) else getattr(target, "__name__", str(target))


def arguments(node: Node) -> dict[str, Any]:
    """Argument name to value (a node, a number, a list), the schema's defaults included."""
    values = dict(node.kwargs)
    if isinstance(node.target, torch._ops.OpOverload):
        for position, argument in enumerate(node.target._schema.arguments):
            if position < len(node.args):
                values[argument.name] = node.args[position]
            else:
                values.setdefault(argument.name, argument.default_value)
    return values


def number(value: Any) -> int:
    """An integer argument, which may be a symbol: a free size counts as in the example or as supposed, what depends on values as
    a number of its own."""
    if isinstance(value, Node):
        value = value.meta["val"]
    if is_chosen(value):
        return pretended(value)
    return value_of(value) if isinstance(value, torch.SymInt) else int(value)


def of_size(tensor: torch.Tensor, dim: int, size: int) -> torch.Tensor:
    """A tensor with a dimension of another size: cut, or begun again where it ends."""
    return tensor.index_select(dim, torch.arange(size, device=tensor.device) % tensor.shape[dim])


def several(value: Any) -> Sequence[Any]:
    """What an operator returns as a sequence, also if it is one value."""
    return value if isinstance(value, (tuple, list)) else [value]


def tensors_in(value: Any) -> list[torch.Tensor]:
    """The tensors in a tuple, list or dict of whatever depth, in order."""
    return [x for x in pytree.tree_leaves(value) if isinstance(x, torch.Tensor)]


def is_random(node: Node) -> bool:
    """Whether an operator draws random numbers, as dropout does in training only."""
    if not isinstance(node.target, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded not in node.target.tags:
        return False
    a = arguments(node)
    return bool(a.get("train", a.get("training", a.get("dropout_p", True))))


@contextmanager
def seeded() -> Iterator[None]:
    """Draw the same random numbers every time, and leave the caller's generators as they were."""
    cuda = torch.cuda.is_initialized()
    with torch.random.fork_rng(range(torch.cuda.device_count()) if cuda else ()):
        torch.default_generator.manual_seed(0)
        if cuda:
            torch.cuda.manual_seed_all(0)
        yield


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in eval mode; give every submodule its own mode back."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _export(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dynamic: Any) -> ExportedProgram:
    args, kwargs = _unmarked(args, kwargs)
    with SomethingChosen() as choices:
        program = torch.export.export(model, args, kwargs, dynamic_shapes=dynamic, strict=False)
    program = functional(program)
    if choices.asked:
        drop_assertions(program)
        program.graph_module.meta[CHOOSING] = True
    return program


def _unmarked(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same inputs as other tensors: the exporter marks sizes on those that it gets, and leaves the marks where it fails."""
    leaves, spec = pytree.tree_flatten((args, kwargs))
    others = {id(x): x.detach() for x in leaves if isinstance(x, torch.Tensor)}
    return pytree.tree_unflatten([others.get(id(x), x) for x in leaves], spec)


def _give_momenta(program: ExportedProgram, model: nn.Module) -> None:
    modules = dict(model.named_modules())
    for node in program.graph.nodes:
        is_norm = node.op == "call_function" and "batch_norm" in operator(node)
        if is_norm and getattr(modules.get(owner(node)), "momentum", MOMENTUM) is None:
            place = [argument.name for argument in node.target._schema.arguments].index("momentum")
            node.update_arg(place, MOMENTUM)


def _batch(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int | None, frozenset[int]]:
    """The first dimension of the first tensor that has one, and which of all inputs share it."""
    sizes = [
        x.shape[0] if isinstance(x, torch.Tensor) and x.dim() else None for x in pytree.tree_leaves((args, kwargs))
    ]
    size = next((size for size in sizes if size is not None), None)
    return size, frozenset(place for place, other in enumerate(sizes) if other == size and size is not None)


def _repeated(
    args: tuple[Any, ...], kwargs: dict[str, Any], free: frozenset[int], copies: int
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    leaves, spec = pytree.tree_flatten((args, kwargs))
    return pytree.tree_unflatten(
        [torch.cat([x] * copies) if place in free and copies > 1 else x for place, x in enumerate(leaves)], spec
    )


def _export_batched(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], free: frozenset[int], every_size: bool
) -> ExportedProgram | None:
    """Export with a free first dimension of some inputs, or None where the model does not allow it."""
    try:
        program = _export(model, args, kwargs, _free_shapes(model, args, kwargs, free, every_size))
    except Exception as error:  # whatever a model says of a size that is no number
        if every_size and isinstance(error, TooManyConditions):
            raise
        return None
    placeholders = (node for node in program.graph.nodes if node.op == "placeholder")
    specs = zip(placeholders, program.graph_signature.input_specs, strict=True)
    users = [node for node, spec in specs if spec.kind == InputKind.USER_INPUT]
    return program if all(isinstance(users[place].meta["val"].shape[0], torch.SymInt) for place in free) else None


def _free_shapes(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], free: frozenset[int], every_size: bool
) -> dict[str, Any]:
    """Dynamic shapes under the names of the forward's parameters, those collected in `*args` as one, as `torch.export` wants them."""
    leaves, spec = pytree.tree_flatten((args, kwargs))
    shapes = []
    for place, leaf in enumerate(leaves):
        sizes = leaf.shape if every_size and isinstance(leaf, torch.Tensor) else ()
        dims = {dim for dim, size in enumerate(sizes) if size > 1} | ({0} if place in free else set())
        shapes.append(dict.fromkeys(dims, Dim.AUTO) or None)
    args, kwargs = pytree.tree_unflatten(shapes, spec)
    return inspect.signature(model.forward).bind(*args, **kwargs).arguments


@contextmanager
def _named_inputs(model: nn.Module, kwargs: Mapping[str, Any]) -> Iterator[None]:
    """Give keyword inputs that a forward collects in `**kwargs` a name in its signature, without which the exporter confuses
    their dynamic shapes."""
    forward = model.forward
    signature = inspect.signature(forward)
    extra = [name for name in kwargs if name not in signature.parameters]
    if not extra:
        yield
        return

    @functools.wraps(forward)
    def named(*args: Any, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)

    known = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    collected = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in extra]
    named.__signature__ = signature.replace(parameters=known + collected)  # type: ignore[attr-defined]
    had = model.__dict__.get("forward")
    model.__dict__["forward"] = named
    try:
        yield
    finally:
        del model.__dict__["forward"]
        if had is not None:
            model.__dict__["forward"] = had


def _refuse_untieable(program: ExportedProgram) -> None:
    for node in program.graph.nodes:
        place = f"{operator(node)} of module {owner(node)!r}"
        if "vmap" in operator(node):
            raise ValueError(
                f"a model must not call torch.vmap in its forward, got {place}; write the batch dimension out."
            )
        if node.op == "get_attr":
            raise ValueError(
                f"what a model computes must not depend on values, got a branch or a loop of its own, {node.name} in module "
                f"{owner(node)!r}; choose between results by torch.where, and write loops out."
            )


def _untraceable(error: Exception) -> str:
    return (
        f"the model cannot be traced by `torch.export`: {first_line(error)}\n{_user_frame(error)}"
        "Ways out: replace branches on tensor values by torch.where; pass numbers that do not change as "
        "attributes; loop over all experts, not over those that occur; return tensors, tuples, lists or dicts (a "
        "transformers model with `use_cache=False`); prune the traceable submodules one by one."
    )


def _user_frame(error: BaseException) -> str:
    """The innermost line of the traceback that is neither torch's nor ours."""
    lines, walk = [], error.__traceback__
    while walk is not None:
        file, line = walk.tb_frame.f_code.co_filename, walk.tb_lineno
        if (
            not file.startswith("<")
            and not {"torch", "sympy"} & set(Path(file).parts)
            and file not in (__file__, routing.__file__, free_sizes.__file__)
        ):
            lines.append(f"  at {file}:{line} in {walk.tb_frame.f_code.co_name}\n")
        walk = walk.tb_next
    return lines[-1] if lines else ""


def first_line(error: BaseException) -> str:
    """What an error says first, or its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's warnings, logs and the graphs that it prints out of the caller's terminal."""
    loggers = [logging.getLogger(name) for name in ("torch.export", "torch._export", "torch.fx", "torch._subclasses")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
