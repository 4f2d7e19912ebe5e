"""The first layers of a network as a graph of maps: which region of each map a tile of the output depends on, and running one tile."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.fx import Node
from torch.fx.node import map_arg

from estimators.counting import Inputs
from estimators.memory.peak import exported, is_elementwise, memory_graph

aten = torch.ops.aten
Region = tuple[tuple[int, int], tuple[int, int]]
PADDING = {aten.conv2d.default: 4, aten.max_pool2d.default: 3, aten.avg_pool2d.default: 3}
"""Operators with windows, and where their padding stands among the arguments."""


class Stage:
    """An exported graph of convolutions, pooling windows, batch norms and element-wise operators.

    Args:
        program: of one image.

    Raises:
        ValueError: an operator needs more of its input than a window around each pixel.
    """

    def __init__(self, program: ExportedProgram) -> None:
        signature = program.graph_signature
        names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        names |= signature.inputs_to_lifted_tensor_constants
        held: Mapping[str, Any] = {**program.state_dict, **program.constants}
        nodes = list(program.graph.nodes)
        self.graph = memory_graph(program, None, in_place=True)
        self.tensors = {node: held[names[node.name]] for node in nodes if node.name in names}
        self.image, *_ = (node for node in nodes if node.op == "placeholder" and node not in self.tensors)
        self.nodes: list[Node] = []
        self.sides = {self.image: _sides(self.image)}
        for node in nodes:
            maps = self.sources(node)
            if node.op == "output":
                (self.output,) = maps
            elif maps:
                self._check(node, maps)
                self.nodes.append(node)
                self.sides[node] = _sides(node)

    @classmethod
    def of(cls, module: nn.Module, inputs: Inputs) -> Stage:
        """The stage that a module is, which is left as it was; inputs as for `peak_memory`."""
        return cls(exported(module, inputs))

    def sources(self, node: Node) -> list[Node]:
        """The maps that an operator reads."""
        return [used for used in node.all_input_nodes if used in self.sides]

    def regions(self, tile: Region, clipped: bool = True) -> dict[Node, Region]:
        """Rows and columns [first, last) of each map that a tile of the output depends on, cut at the map's border if `clipped`."""
        found = {self.output: tile}
        for node in reversed(self.nodes):
            if node not in found:
                continue
            for source in self.sources(node):
                region = needed(node, found[node])
                if clipped:
                    region = _each(lambda span, side: (max(0, span[0]), min(span[1], side)), region, self.sides[source])
                if source in found:
                    region = _each(lambda a, b: (min(a[0], b[0]), max(a[1], b[1])), region, found[source])
                found[source] = region
        return found

    def run(self, images: Tensor, tile: Region) -> Tensor:
        """One tile of the output, (batch, channels, height, width), with zeros padded at the borders of the whole maps only."""
        regions = self.regions(tile)
        (top, bottom), (left, right) = regions[self.image]
        values: dict[Node, Any] = {**self.tensors, self.image: images[..., top:bottom, left:right]}
        for node in self.nodes:
            if node.target is operator.getitem:
                _, at = node.args
                values[node] = values[self.sources(node)[0]][at]
                continue
            region, call = needed(node, regions[node]), cast(OpOverload, node.target)

            def value(used: Node, region: Region = region, node: Node = node) -> Any:
                return self._cut(values[used], regions[used], region, node) if used in self.sides else values[used]

            args, kwargs = cast(Any, map_arg)((node.args, dict(node.kwargs)), value)
            padding = PADDING.get(call, len(args))
            args = [*args[:padding], *([0, 0] for _ in args[padding : padding + 1]), *args[padding + 1 :]]
            values[node] = call(*args, **kwargs)
        return values[self.output]

    def _cut(self, computed: Tensor, held: Region, wanted: Region, reader: Node) -> Tensor:
        """The part of a map that an operator reads, of which `held` is computed; padded where it lies outside of the map."""
        pads: list[int] = []
        for axis, ((first, last), (low, high)) in enumerate(zip(held, wanted, strict=True)):
            inside = max(low, first), min(high, last)
            computed = computed.narrow(axis + 2, inside[0] - first, inside[1] - inside[0])
            pads = [max(0, first - low), max(0, high - last), *pads]
        filler = float("-inf") if reader.target is aten.max_pool2d.default else 0.0
        return F.pad(computed, pads, value=filler) if any(pads) else computed

    def _check(self, node: Node, maps: list[Node]) -> None:
        target = node.target
        local = target is operator.getitem or (target is aten.cat.default and node.args[1:] in ((1,), (-3,)))
        local |= is_elementwise(node)
        same = len({_sides(each) for each in (*maps, node)}) == 1
        windowed = target in PADDING and _plain(node)
        if not (windowed or (local and same)):
            raise ValueError(
                "a stage that runs patch by patch must be made of convolutions, pooling windows, batch norms and element-wise "
                f"operators on maps, got {node.name} ({target}); end the stage before it"
            )


def needed(node: Node, region: Region) -> Region:
    """The region of its input that an operator reads for a region of its output; it may reach over the border."""
    if node.target not in PADDING:
        return region
    kernel, stride, padding, dilation = _window(node)
    return _each(
        lambda span, window: (
            span[0] * window[1] - window[2],
            (span[1] - 1) * window[1] - window[2] + window[3] * (window[0] - 1) + 1,
        ),
        region,
        tuple(zip(kernel, stride, padding, dilation, strict=True)),
    )


def _window(node: Node) -> tuple[tuple[int, int], ...]:
    """Kernel, stride, padding and dilation, each for rows and columns."""
    given = dict(enumerate(node.args))
    if node.target is aten.conv2d.default:
        kernel = node.args[1].meta["val"].shape[2:]  # type: ignore[union-attr]
        stride, padding, dilation = given.get(3, 1), given.get(4, 0), given.get(5, 1)
    else:
        kernel, padding = given[1], given.get(3, 0)
        stride = given.get(2) or kernel
        dilation = given.get(4, 1) if node.target is aten.max_pool2d.default else 1
    return tuple(_pair(each) for each in (kernel, stride, padding, dilation))


def _plain(node: Node) -> bool:
    """Whether a windowed operator reads what `_window` says: no ceil_mode, no average that leaves padding out."""
    if node.target is aten.max_pool2d.default:
        return not any(node.args[5:])
    if node.target is aten.avg_pool2d.default:
        return not any(node.args[4:5]) and all(node.args[5:6]) and node.args[6:] in ((), (None,))
    return True


def _sides(node: Node) -> tuple[int, ...]:
    value = node.meta["val"]
    value = value[0] if isinstance(value, (tuple, list)) else value
    return tuple(value.shape[2:])


def _pair(value: Any) -> tuple[int, int]:
    values = list(value) if isinstance(value, (list, tuple, torch.Size)) else [value]
    return int(values[0]), int(values[-1])


def _each(combine: Any, left: Any, right: Any) -> Region:
    rows, columns = (combine(a, b) for a, b in zip(left, right, strict=True))
    return rows, columns
