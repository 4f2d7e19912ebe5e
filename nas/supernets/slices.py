"""Which part of a supernet's parameters a subnet uses.

It is found once for a block under a local choice, on a copy of the block.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from search_spaces import Block, Supernet
from search_spaces.core import Local, Shape, seeded

FEWEST, MOST = 2, 64
PIXELS = 4096
REMEMBERED = 2**14


@dataclass(frozen=True)
class Box:
    """The elements between two corners of a tensor: `start[d] <= index[d] < stop[d]`."""

    start: tuple[int, ...]
    stop: tuple[int, ...]

    @property
    def slices(self) -> tuple[slice, ...]:
        return tuple(map(slice, self.start, self.stop))


@dataclass(frozen=True, eq=False)
class Scattered:
    """The elements where a mask of the tensor's shape is true."""

    mask: Tensor


Part = Box | Scattered


class Slices:
    """The parts of one supernet's parameters that subnets use."""

    def __init__(self, supernet: Supernet) -> None:
        self.network = supernet.network
        self._parameters = {name: dict(block.named_parameters()) for name, block in supernet.blocks.items()}
        self._parts = lru_cache(maxsize=REMEMBERED)(self._parts_of_one)

    def partial(self, subnets: Iterable[Sequence[Local]]) -> dict[nn.Parameter, Part]:
        """The parameters that the subnets of these local choices together use in part, with that part."""
        parts: dict[nn.Parameter, set[Part]] = {}
        for locals in subnets:
            for parameter, part in self._parts(tuple(locals)):
                parts.setdefault(parameter, set()).add(part)
        united = {parameter: union(tuple(parameter.shape), frozenset(found)) for parameter, found in parts.items()}
        return {parameter: part for parameter, part in united.items() if part != whole(tuple(parameter.shape))}

    def _parts_of_one(self, locals: tuple[Local, ...]) -> list[tuple[nn.Parameter, Part]]:
        return [
            (self._parameters[block.name][name], part)
            for block, _, seen in self.network.parts(locals)
            for name, part in used(block, *seen).items()
        ]


@lru_cache(maxsize=REMEMBERED)
def used(block: Block, local: Local, in_shape: Shape) -> Mapping[str, Part]:
    """The part of each parameter of a shared block, by name, on which its output depends; remembered.

    It is where the gradient is not zero. Weights and inputs are positive and near 1, and batch statistics are off, so
    no activation function blocks the gradient. Parameters of no influence are left out.
    """
    with seeded(0), torch.enable_grad():
        module = block.shared().eval()
        for parameter in module.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 2
            nn.init.uniform_(parameter, 0.5 / fan_in, 1.5 / fan_in)
        for layer in module.modules():
            if isinstance(layer, _BatchNorm) and layer.running_mean is None:
                layer.running_mean, layer.running_var = torch.zeros(layer.num_features), torch.ones(layer.num_features)
        probes = min(MOST, max(FEWEST, PIXELS // math.prod(in_shape[1:])))
        out = module(torch.rand(probes, *in_shape) + 0.5, local)
        if not out.requires_grad:
            return {}
        out.backward(torch.randn_like(out))
    found = {name: _part(p.grad != 0) for name, p in module.named_parameters() if p.grad is not None}
    return {name: part for name, part in found.items() if part is not None}


@lru_cache(maxsize=REMEMBERED)
def union(shape: tuple[int, ...], parts: frozenset[Part]) -> Part:
    """The part of a tensor of that shape that at least one of `parts` covers; remembered."""
    if len(parts) == 1:
        return next(iter(parts))
    mask = torch.zeros(shape, dtype=torch.bool)
    for part in parts:
        if isinstance(part, Box):
            mask[part.slices] = True
        else:
            mask |= part.mask
    united = _part(mask)
    assert united is not None
    return united


def whole(shape: tuple[int, ...]) -> Box:
    """All elements of a tensor of that shape."""
    return Box((0,) * len(shape), shape)


def _part(mask: Tensor) -> Part | None:
    """The true elements of a mask; None if there are none."""
    places = mask.nonzero()
    if not len(places):
        return None
    box = Box(tuple(places.amin(0).tolist()), tuple((places.amax(0) + 1).tolist()))
    return box if bool(mask[box.slices].all()) else Scattered(mask)
