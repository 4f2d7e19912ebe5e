"""A block written once, with elastic layers, that serves as shared block, as its own subnets and as blocks trained alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from search_spaces.core import Block, Local, Shape, Value
from search_spaces.layers.elastic import Elastic, ElasticBatchNorm, ElasticLayerNorm, ElasticLinear, initialise_

REMEMBERED = 2**16
Widths = Callable[[Local, Shape], Mapping[str, int]]


def elastic_block(
    name: str,
    columns: tuple[str, ...],
    make: Callable[[], nn.Module],
    read: Callable[..., Local] | None = None,
) -> Block:
    """A block of a network from a module in its largest form.

    Args:
        name: name of the block's module in every network built from it.
        columns: the columns that the block reads.
        make: a module, freshly initialised, whose `forward` takes the input alone. Its elastic layers are sliced, of the
            modules in an `nn.ModuleDict` only those stay that are called, and all else in it is as it is. Unless its local
            choice is always `()`, it has a method `choose_(local, in_shape)` that sets its layers and itself to a local choice
            on inputs of `in_shape` (without the batch).
        read: values of the columns -> local choice, where None leaves the block out. Default: the tuple of the values, and None
            where one of them is of a choice that does not exist.
    """
    widths = lru_cache(maxsize=REMEMBERED)(partial(_input_widths, make))
    return Block(
        name,
        columns,
        read or _present,
        alone=lambda local, shape: _alone(make, widths, local, shape),
        shared=lambda: Shared(make(), widths),
    )


def _present(*values: Value) -> Local:
    return None if None in values else values


class Shared(nn.Module):
    """A block whose weights serve every local choice; `None` passes the input on.

    Args:
        body: the module in its largest form, see `elastic_block`.
        widths: the input width of each elastic layer that a local choice calls on inputs of a shape.
    """

    def __init__(self, body: nn.Module, widths: Widths) -> None:
        super().__init__()
        self.body, self.widths = body, widths

    def forward(self, x: Tensor, local: Local) -> Tensor:
        if local is None:
            return x
        _choose(self.body, local, tuple(x.shape[1:]))
        return self.body(x)

    def extract(self, local: Local, in_shape: Shape) -> nn.Module:
        """A copy of the body with plain layers in place of the elastic ones, and without those that `local` does not use."""
        if local is None:
            return nn.Identity()
        _choose(self.body, local, in_shape)
        body = copy.deepcopy(self.body)
        _cut_(body, self.widths(local, in_shape))
        return body


def _alone(make: Callable[[], nn.Module], widths: Widths, local: Local, in_shape: Shape) -> nn.Module:
    """A block of its own: its form under `local`, newly initialised at its own size."""
    if local is None:
        return nn.Identity()
    body = make()
    _choose(body, local, in_shape)
    for layer in _cut_(body, widths(local, in_shape)):
        initialise_(layer)
    return body


def _choose(body: nn.Module, local: Local, in_shape: Shape) -> None:
    if local != ():
        cast(Any, body).choose_(local, in_shape)


def _cut_(body: nn.Module, widths: Mapping[str, int]) -> list[nn.Module]:
    """Put plain layers, which it returns, in place of elastic ones, and remove those that the chosen form does not call."""
    for name in _alternatives(body) - set(widths):
        _remove_(body, name)
    cut: list[nn.Module] = []
    for name, layer in [(name, layer) for name, layer in body.named_modules() if isinstance(layer, Elastic)]:
        if name in widths:
            cut.append(layer.extract(widths[name]))
            body.set_submodule(name, cut[-1])
        else:
            _remove_(body, name)
    return cut


def _alternatives(body: nn.Module) -> set[str]:
    """Names of the modules that stand in an `nn.ModuleDict`."""
    return {
        f"{name}.{key}"
        for name, modules in body.named_modules()
        if isinstance(modules, nn.ModuleDict)
        for key in modules
    }


def _remove_(body: nn.Module, name: str) -> None:
    parent, _, leaf = name.rpartition(".")
    delattr(body.get_submodule(parent), leaf)


def _input_widths(make: Callable[[], nn.Module], local: Local, in_shape: Shape) -> Mapping[str, int]:
    """The input width of each elastic layer and each alternative that `local` calls, by name, found on the meta device."""
    widths: dict[str, int] = {}

    def note(layer: nn.Module, inputs: tuple[Tensor], name: str) -> None:
        widths[name] = inputs[0].shape[-1 if isinstance(layer, (ElasticLinear, ElasticLayerNorm)) else 1]

    with torch.device("meta"), torch.no_grad():
        body = make().eval()
        _choose(body, local, in_shape)
        alternatives = _alternatives(body)
        for name, layer in body.named_modules():
            if isinstance(layer, Elastic) or name in alternatives:
                layer.register_forward_pre_hook(partial(note, name=name))
            if isinstance(layer, ElasticBatchNorm):
                layer.forward = _same  # type: ignore[method-assign]  # slow on this device, and only shapes matter
        body(torch.empty(2, *in_shape))
    return widths


def _same(x: Tensor) -> Tensor:
    return x
