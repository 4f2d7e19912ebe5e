"""A network as a chain of blocks, each of which reads a few columns of an encoded architecture.

A block looks only at its input and at its *local* choice. Everything that is shared rests on this: a block's cost is remembered
per (block, local, input shape), two subnets that start with the same locals compute the same activations, and a subnet of a
supernet is cut out block by block. Networks of several paths and with skip connections are chains too, see
`search_spaces.core.paths` and `search_spaces.core.skips`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from search_spaces.core.choices import Value
from search_spaces.core.paths import Flow, FlowShape, advance, seen, sequence, shape_after

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
        alike: local choice -> what costs and output shape depend on besides the input shape, where that is less than the local choice;
            of local choices with an equal answer one is counted for all.
    """

    name: str
    columns: tuple[str, ...]
    read: Callable[..., Local]
    alone: Callable[[Local, Shape], nn.Module]
    shared: Callable[[], nn.Module]
    alike: Callable[[Local], Hashable] | None = None
    _first: dict[Hashable, Local] = field(default_factory=dict, init=False, repr=False)

    def stand_in(self, local: Local) -> Local:
        """The local choice that is counted in place of this one: the first of those that are alike."""
        return local if self.alike is None else self._first.setdefault(self.alike(local), local)


@dataclass(frozen=True, eq=False)
class Network:
    """The chain of blocks of a search space, from an image of `input_shape` (channels, height, width) to `num_classes` logits.

    Other inputs will do, such as a signal (channels, length), and so will other outputs: what is said of logits (batch, classes)
    holds for values, and for logits of every pixel (batch, classes, height, width).

    With more than one head, networks put out the logits of each in training, (batch, heads, classes).
    """

    blocks: tuple[Block, ...]
    input_shape: Shape
    num_classes: int
    heads: int = field(default=1, kw_only=True)

    @property
    def inputs(self) -> Any:
        """What networks are measured on: the shape of one example, without the batch, or example inputs of their own."""
        return self.input_shape

    def locals(self, columns: Mapping[str, Value]) -> tuple[Local, ...]:
        """The local choice of each block under the given column values."""
        return tuple(block.read(*(columns[name] for name in block.columns)) for block in self.blocks)

    def build(self, locals: Sequence[Local], seed: int = 0) -> nn.Module:
        """A network of its own, initialised from `seed`, with the submodules named after the blocks."""
        parts = list(self.parts(locals))
        with seeded(seed):
            return sequence((part.block.name, part.local, part.block.alone(*part.seen)) for part in parts)

    def parts(self, locals: Sequence[Local]) -> Iterator[Part]:
        """The blocks that run."""
        for block, local, shape in zip(self.blocks, locals, self.input_shapes(locals), strict=True):
            if (own := seen(local, shape)) is not None:
                yield Part(block, local, own)

    def input_shapes(self, locals: Sequence[Local]) -> Iterator[FlowShape]:
        """The shape (without the batch) that comes to each block, found on the meta device."""
        shape: FlowShape = self.input_shape
        for block, local in zip(self.blocks, locals, strict=True):
            yield shape
            shape = output_shape(block, local, shape)


class Part(NamedTuple):
    """A block in a network: its local choice there, and the local choice and input shape that it sees itself."""

    block: Block
    local: Local
    seen: tuple[Local, Shape]


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
        """Logits (batch, classes) of images (batch, channels, height, width) under the subnet of `locals`.

        A network of several heads has log-probabilities, and in training logits (batch, heads, classes).
        """
        flow: Flow = x
        for block, local in zip(self.blocks.values(), locals, strict=True):
            flow = advance(block, flow, local)
        return cast(Tensor, flow)

    def extract(self, locals: Sequence[Local]) -> nn.Sequential:
        """The subnet of `locals` as a module of its own, with copies of its slice of the weights."""
        subnet = sequence(
            (block.name, local, cast(SharedBlock, self.blocks[block.name]).extract(*seen))
            for block, local, seen in self.network.parts(locals)
        )
        return subnet.train(self.training)


def output_shape(block: Block, local: Local, in_shape: FlowShape) -> FlowShape:
    """The shape (without the batch) that a block passes on, measured on the meta device and remembered.

    Blocks that are made by the same function are measured once.
    """
    own = seen(local, in_shape)
    if own is None:
        return in_shape
    return shape_after(local, in_shape, _measured(block.alone, block.stand_in(own[0]), own[1])[0])


def is_left_out(block: Block, local: Local, in_shape: Shape) -> bool:
    """Whether the stand-alone block does nothing at all."""
    return _measured(block.alone, local, in_shape)[1]


@lru_cache(maxsize=2**16)
def _measured(alone: Callable[[Local, Shape], nn.Module], local: Local, in_shape: Shape) -> tuple[Shape, bool]:
    module = blueprint(alone, local, in_shape)
    with torch.device("meta"), torch.no_grad():
        return tuple(module(torch.empty(1, *in_shape)).shape[1:]), isinstance(module, nn.Identity)


DRAWING = {Tensor.normal_, Tensor.uniform_}


@lru_cache(maxsize=1)  # who counts a block asks for its shape next
def blueprint(alone: Callable[[Local, Shape], nn.Module], local: Local, in_shape: Shape) -> nn.Module:
    """A stand-alone block on the meta device, in evaluation mode, to be looked at and not to be changed."""
    with torch.device("meta"), _Undrawn():
        return alone(local, in_shape).eval()


class _Undrawn(TorchFunctionMode):
    """Weights stay as they were made: on the meta device they have no values, and drawing them takes a third of the time."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func in DRAWING else func(*args, **(kwargs or {}))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Initialise weights (made on the CPU) from `seed` and leave torch's own generators, those of GPUs too, as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every GPU as well
        yield
