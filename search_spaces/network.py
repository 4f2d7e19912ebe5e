"""A network as a chain of blocks, each of which reads a few columns of an encoded architecture.

A block looks only at its input and at its *local* choice. Everything that is shared rests on this: a block's cost is remembered
per (block, local, input shape), two subnets that start with the same locals compute the same activations, and a subnet of a
supernet is cut out block by block.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from search_spaces.choices import Value

Local = Hashable
Shape = tuple[int, ...]


class SharedBlock(Protocol):
    """A module whose weights serve every local choice."""

    def __call__(self, x: Tensor, local: Local) -> Tensor: ...

    def extract(self, local: Local, in_shape: Shape) -> nn.Module:
        """A module of its own with the weights that `local` uses on inputs of `in_shape` (without the batch)."""
        ...


@dataclass(frozen=True, eq=False)
class Block:
    """One link of the chain.

    Args:
        name: name of the block's module in every network built from it.
        columns: the columns that the block reads.
        read: values of those columns -> local choice; equal locals mean equal blocks.
        alone: (local, input shape without the batch) -> a freshly initialised block of its own. It is also built on the meta device,
            to count it, so it must not look at the values of its weights. Blocks that share
            this function are counted once.
        shared: a freshly initialised `SharedBlock`.
    """

    name: str
    columns: tuple[str, ...]
    read: Callable[..., Local]
    alone: Callable[[Local, Shape], nn.Module]
    shared: Callable[[], nn.Module]


@dataclass(frozen=True, eq=False)
class Network:
    """The chain of blocks of a search space, from an image of `input_shape` (channels, height, width) to `num_classes` logits."""

    blocks: tuple[Block, ...]
    input_shape: Shape
    num_classes: int

    def locals(self, columns: Mapping[str, Value]) -> tuple[Local, ...]:
        """The local choice of each block under the given column values."""
        return tuple(block.read(*(columns[name] for name in block.columns)) for block in self.blocks)

    def build(self, locals: Sequence[Local], seed: int = 0) -> nn.Module:
        """A network of its own, initialised from `seed`, with the submodules named after the blocks."""
        parts = list(zip(self.blocks, locals, self.input_shapes(locals), strict=True))
        with seeded(seed):
            return nn.Sequential(OrderedDict((block.name, block.alone(local, shape)) for block, local, shape in parts))

    def input_shapes(self, locals: Sequence[Local]) -> Iterator[Shape]:
        """The shape (without the batch) that enters each block, found on the meta device."""
        shape = self.input_shape
        for block, local in zip(self.blocks, locals, strict=True):
            yield shape
            shape = output_shape(block, local, shape)


class Supernet(nn.Module):
    """Every subnet of a network in one set of weights: `supernet(images, locals)`.

    Args:
        network: the chain of blocks.
        seed: initialises the weights.
    """

    def __init__(self, network: Network, seed: int = 0) -> None:
        super().__init__()
        self.network = network
        with seeded(seed):
            self.blocks: nn.ModuleDict = nn.ModuleDict({block.name: block.shared() for block in network.blocks})

    def forward(self, x: Tensor, locals: Sequence[Local]) -> Tensor:
        """Logits (batch, classes) of images (batch, channels, height, width) under the subnet of `locals`."""
        for block, local in zip(self.blocks.values(), locals, strict=True):
            x = block(x, local)
        return x

    def extract(self, locals: Sequence[Local]) -> nn.Sequential:
        """The subnet of `locals` as a module of its own, with copies of its slice of the weights."""
        parts = zip(self.blocks.items(), locals, self.network.input_shapes(locals), strict=True)
        subnet = nn.Sequential(
            OrderedDict((name, cast(SharedBlock, block).extract(local, shape)) for (name, block), local, shape in parts)
        )
        return subnet.train(self.training)


def output_shape(block: Block, local: Local, in_shape: Shape) -> Shape:
    """The shape (without the batch) that leaves a block, measured on the meta device and remembered.

    Blocks that are made by the same function are measured once.
    """
    return _measured(block.alone, local, in_shape)


@lru_cache(maxsize=2**16)
def _measured(alone: Callable[[Local, Shape], nn.Module], local: Local, in_shape: Shape) -> Shape:
    with torch.device("meta"), torch.no_grad():
        return tuple(alone(local, in_shape).eval()(torch.empty(1, *in_shape)).shape[1:])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Initialise weights (made on the CPU) from `seed` and leave torch's own generators, those of GPUs too, as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every GPU as well
        yield
