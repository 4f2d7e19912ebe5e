"""Models through `torch.export`, with as many free sizes as they allow."""

from __future__ import annotations

import functools
import inspect
import io
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager, nullcontext, redirect_stderr
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributions import Distribution
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind
from torch.nn.modules import transformer
from torch.utils import _pytree as pytree

from pruners.errors import fitting
from pruners.operators import BATCH, SomethingChosen, TooSlow, Within, routing, sizes_of
from pruners.operators import sizes as free_sizes
from pruners.tracing.functional import drop_assertions, functional
from pruners.untouched import untouched
from search_spaces.core import first_line

SMALL = 64  # entries of a buffer whose values are known while a model is traced
CHOOSING = "choosing"  # a graph's note that rows are chosen by their values


def export(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], every_size: bool, seconds: float = math.inf
) -> tuple[ExportedProgram, frozenset[int], int]:
    """Export a model as a functional graph.

    Beside the graph it returns which inputs have a dynamic first dimension, and with how many copies of the example it
    was traced.

    Args:
        model: left untouched; it runs in eval mode.
        args: example positional inputs.
        kwargs: example keyword inputs.
        every_size: free every dimension of the inputs that the model allows, not the first only, but for those of size 1.
        seconds: that tracing with every size free may take.

    Raises:
        ValueError: if the example inputs do not fit the model, or `torch.export` cannot trace it.
        TooSlow: if it takes longer than it may.
    """
    size, free = _batch(args, kwargs)
    copies = 2 if size == 1 else 1
    refused: list[Exception] = []
    with _quiet(), torch.no_grad(), _named_inputs(model, kwargs), Within(seconds) if every_size else nullcontext():
        # the strict exporter reads the model's code, and so knows the values of constants
        for strict in (False,) if every_size else (False, True):
            program = _export_batched(model, args, kwargs, free, copies, every_size, strict) if free else None
            if program is not None:
                return program, free, copies
            try:
                shapes = _free_shapes(model, args, kwargs, frozenset(), every_size) if every_size else None
                return _export(model, args, kwargs, shapes, strict), frozenset(), 1
            except TooSlow:
                raise
            except Exception as error:
                refused.append(error)
                if not strict:
                    with untouched(model), fitting(args, kwargs):
                        model(*args, **kwargs)
    raise ValueError(_untraceable(refused[0])) from refused[0]


def repeated(
    args: tuple[Any, ...], kwargs: dict[str, Any], free: frozenset[int], copies: int
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Inputs of which those that are free hold several copies of themselves."""
    leaves, spec = pytree.tree_flatten((args, kwargs))
    return pytree.tree_unflatten(
        [torch.cat([x] * copies) if place in free and copies > 1 else x for place, x in enumerate(leaves)], spec
    )


def _batch(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int | None, frozenset[int]]:
    """The first dimension of the first tensor that has one, and which of all inputs share it."""
    sizes = [
        x.shape[0] if isinstance(x, torch.Tensor) and x.dim() else None for x in pytree.tree_leaves((args, kwargs))
    ]
    size = next((size for size in sizes if size is not None), None)
    return size, frozenset(place for place, other in enumerate(sizes) if other == size and size is not None)


def _export_batched(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    free: frozenset[int],
    copies: int,
    every_size: bool,
    strict: bool,
) -> ExportedProgram | None:
    """Export with a dynamic batch. None if the model does not allow one, or treats one sample in another way than several."""
    args, kwargs = repeated(args, kwargs, free, copies)
    try:
        program = _export(model, args, kwargs, _free_shapes(model, args, kwargs, free, every_size), strict)
    except TooSlow:
        raise
    except Exception:  # whatever a model says of a size that is no number
        return None
    placeholders = (node for node in program.graph.nodes if node.op == "placeholder")
    specs = zip(placeholders, program.graph_signature.input_specs, strict=True)
    users = [node for node, spec in specs if spec.kind == InputKind.USER_INPUT]
    sizes = sizes_of(users, free)
    if any(sizes.shapes[users[place].name][0] != BATCH for place in free):
        return None
    return program if copies == 1 or sizes.allow({**sizes.traced, BATCH: 1}) else None


def _export(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dynamic: Any, strict: bool, known: bool = True
) -> ExportedProgram:
    args, kwargs = _unmarked(args, kwargs)
    seen = model if known else nn.Module()
    with untouched(model, ()):
        if strict:
            with _nothing_to_do():
                program = torch.export.export(model, args, kwargs, dynamic_shapes=dynamic, strict=True)
            _refuse_stand_ins(program)
            return functional(program)
        with SomethingChosen() as choices, _nothing_to_do(), _known_buffers(seen) as names:
            program = torch.export.export(model, args, kwargs, dynamic_shapes=dynamic, strict=False)
        program = functional(program)
    if names & set(program.graph_signature.buffers_to_mutate.values()):  # what they hold is not for good
        return _export(model, args, kwargs, dynamic, strict, known=False)
    if choices.asked:
        drop_assertions(program)
        program.graph_module.meta[CHOOSING] = True
    return program


def _refuse_stand_ins(program: ExportedProgram) -> None:
    """Refuse a program whose constants hold no values, which crashes whoever runs it."""
    for name, value in program.constants.items():
        if isinstance(value, FakeTensor):
            raise ValueError(f"The exporter lost the values of {name!r}, which the model's code makes.")


@contextmanager
def _known_buffers(model: nn.Module) -> Iterator[Set[str]]:
    """Let the exporter see what small buffers hold, such as the stride that a model computes lengths with; gives their names.

    Only those that are not saved with the weights: every instance of a model has the same.
    """
    saved = model.state_dict(keep_vars=True).keys()
    small = {name: x for name, x in model.named_buffers() if x.numel() <= SMALL and name not in saved}
    held = {name: x.detach().clone() for name, x in small.items()}

    def tell(*_: Any) -> None:
        for name, x in model.named_buffers():
            if name in held and isinstance(x, FakeTensor):
                x.constant = held[name]

    handle = model.register_forward_pre_hook(tell)
    try:
        yield held.keys()
    finally:
        handle.remove()


@contextmanager
def _nothing_to_do() -> Iterator[None]:
    """Skip three things without effect that the exporter stops at: moving a module to the dtype that it has, argument checks of
    distributions, and looking whether a mask of torch's transformers is the causal one, which only chooses a faster way.
    """
    move, checks, detect = nn.Module.to, Distribution._validate_args, transformer._detect_is_causal_mask

    def to(self: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
        stay = all(
            device in (None, x.device) and (dtype in (None, x.dtype) or not x.is_floating_point())
            for x in (*self.parameters(), *self.buffers())
        )
        return self if stay else move(self, *args, **kwargs)

    nn.Module.to = to  # type: ignore[method-assign, assignment]
    transformer._detect_is_causal_mask = lambda mask, is_causal=None, size=None: bool(is_causal)
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        nn.Module.to = move  # type: ignore[method-assign]
        transformer._detect_is_causal_mask = detect
        Distribution.set_default_validate_args(checks)


def _unmarked(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same inputs as new tensors: the exporter marks dynamic sizes on its inputs, and leaves the marks behind if it fails."""
    leaves, spec = pytree.tree_flatten((args, kwargs))
    others = {id(x): x.detach() for x in leaves if isinstance(x, torch.Tensor)}
    return pytree.tree_unflatten([others.get(id(x), x) for x in leaves], spec)


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


def _untraceable(error: Exception) -> str:
    return (
        f"the model cannot be traced by `torch.export`: {first_line(error)}\n{_user_frame(error)}"
        "Ways out: replace branches on tensor values by torch.where; pass numbers that do not change as "
        "attributes; leave out inputs that the model branches on, such as masks of ones; loop over all experts, not over those that "
        "occur; return tensors, tuples, lists or dicts (a "
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


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's warnings, logs and the graphs that it prints out of the caller's terminal."""
    names = ("torch.export", "torch._export", "torch._dynamo", "torch.fx", "torch._subclasses")
    loggers = [logging.getLogger(name) for name in names]
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
