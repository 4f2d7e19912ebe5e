"""The most activation memory that a network holds at once, over the best order of its operators.

Counted are tensors that an operator reads or makes, inputs and outputs of the network included; not counted are weights, and what an
operator needs for itself while it runs (workspaces). Views take no memory of their own.
"""

from __future__ import annotations

import operator
import warnings
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from estimators.counting import Inputs, example, standing_in
from estimators.memory.ordering import Operation, best_order, given_order
from search_spaces.core import first_line

aten = torch.ops.aten
ALIASES = frozenset((aten._unsafe_view.default, aten.detach.default, aten.alias.default))
ELEMENTWISE = frozenset((aten._native_batch_norm_legit_no_training.default, aten.hardswish.default, aten.prelu.default))


@dataclass(frozen=True)
class PeakMemory:
    """Bytes of activations that are alive at once.

    Attributes:
        peak_bytes: with the operators in their best order.
        written_bytes: with the operators in the order of the model's code.
        operator: where the peak of the best order is, with the module that it belongs to.
        order: names of the operators in the best order.
        exact: whether no order needs less. False for graphs with too many parallel branches, where a beam search was used.
    """

    peak_bytes: int
    written_bytes: int
    operator: str
    order: tuple[str, ...]
    exact: bool


def peak_memory(
    module: nn.Module,
    inputs: Inputs,
    *,
    element_bytes: int | None = None,
    in_place: bool = True,
    keep_inputs: bool = False,
) -> PeakMemory:
    """Peak activation memory of one forward pass in evaluation mode.

    Args:
        module: one that `torch.export` can trace; it is left as it was.
        inputs: as for `count`: the shape of one sample without the batch, or the module's own inputs.
        element_bytes: size of every element; 1 for a network that will run in int8. By default that of its dtype.
        in_place: element-wise operators, batch norm and depthwise convolutions write over an input that nobody needs any more,
            as inference engines for small devices let them. False: every operator makes a tensor, as in eager
            PyTorch without `inplace=True`.
        keep_inputs: the caller holds on to the inputs, as in PyTorch.

    Raises:
        ValueError: `torch.export` cannot trace the module on these inputs, or `element_bytes` is not positive.

    Reference: Lin et al., "MCUNetV2: Memory-Efficient Patch-based Inference for Tiny Deep Learning", NeurIPS 2021 (the memory of one
    operator: its inputs, its outputs and what is kept for later).
    """
    graph = memory_graph(exported(module, inputs), element_bytes, in_place)
    kept = graph.outputs | (graph.inputs if keep_inputs else frozenset())
    schedule = best_order(graph.operations, graph.sizes, kept)
    written = given_order(graph.operations, graph.sizes, kept)
    names = [operation.name for operation in graph.operations]
    return PeakMemory(
        schedule.peak,
        written.peak,
        names[schedule.at] if names else "",
        tuple(names[at] for at in schedule.order),
        schedule.exact,
    )


@dataclass(frozen=True)
class MemoryGraph:
    """An exported graph as operations on buffers; `nodes` are the operations' nodes."""

    operations: tuple[Operation, ...]
    nodes: tuple[Node, ...]
    sizes: tuple[int, ...]
    inputs: frozenset[int]
    outputs: frozenset[int]


def exported(module: nn.Module, inputs: Inputs) -> ExportedProgram:
    """The module's graph in evaluation mode, without in-place operators.

    Raises:
        ValueError: `torch.export` cannot trace it on these inputs.
    """
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        args, kwargs = example(module, inputs, torch.device("cpu"))
        try:
            own = standing_in(module, torch.device("cpu"))
            return torch.export.export(own, args, kwargs, strict=False).run_decompositions({})
        except Exception as error:
            raise ValueError(
                f"peak memory needs a module that `torch.export` can trace on its inputs, and cannot trace "
                f"{type(module).__name__}: {first_line(error)}; give the shape of one sample without the batch, or the module's own "
                "inputs, and replace branches on tensor values"
            ) from error


def memory_graph(program: ExportedProgram, element_bytes: int | None, in_place: bool) -> MemoryGraph:
    """What each operator of an exported program reads and makes."""
    if element_bytes is not None and element_bytes < 1:
        raise ValueError(f"`element_bytes` must be positive, got {element_bytes}; 1 is int8")
    sizes: list[int] = []
    values: dict[Node, Any] = {}
    operations, nodes = [], []
    inputs: frozenset[int] = frozenset()
    outputs: frozenset[int] = frozenset()

    def new(value: object) -> int | None:
        if not isinstance(value, Tensor):
            return None
        sizes.append(value.numel() * (element_bytes or value.element_size()))
        return len(sizes) - 1

    for node in program.graph.nodes:
        read = frozenset(buffer for used in node.all_input_nodes for buffer in _buffers(values[used]))
        if node.op == "placeholder":
            given = node.name in program.graph_signature.user_inputs
            values[node] = new(node.meta["val"]) if given else None
            inputs |= frozenset(_buffers(values[node]))
        elif node.op == "output":
            outputs = read
        elif node.target is operator.getitem:
            held = values[node.args[0]]
            values[node] = held[node.args[1]] if isinstance(held, (list, tuple)) else held
        elif _is_view(node):
            values[node] = values[node.all_input_nodes[0]]
        elif node.op == "call_function":
            values[node] = tree_map(new, node.meta.get("val"))
            written = tuple(_buffers(values[node]))
            operations.append(Operation(_named(node), read, written, in_place and _overwrites(node)))
            nodes.append(node)
        else:
            values[node] = None
    return MemoryGraph(tuple(operations), tuple(nodes), tuple(sizes), inputs, outputs)


def allocated_peak(module: nn.Module, inputs: Inputs, device: torch.device | str = "cpu") -> int:
    """Bytes of activations alive at once while the module really runs, inputs included, weights and workspaces on the CPU not.

    On the CPU every storage that an operator makes is watched until it is freed. On a GPU it is what torch's allocator reports, which
    rounds each tensor up to 512 bytes and includes the workspaces of libraries.
    """
    device = torch.device(device)
    own = standing_in(module, device)
    args, kwargs = example(module, inputs, device)
    held = sum(leaf.untyped_storage().nbytes() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
    with torch.no_grad():
        if device.type == "cuda":
            before = torch.cuda.memory_allocated(device)
            torch.cuda.reset_peak_memory_stats(device)
            own(*args, **kwargs)
            return held + torch.cuda.max_memory_allocated(device) - before
        with Watch() as watch:
            own(*args, **kwargs)
    return held + watch.peak


class Watch(TorchDispatchMode):
    """Adds up the storages that operators make, until they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self.seen: weakref.WeakSet[Any] = weakref.WeakSet()
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        taken = {_place(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and _place(leaf) not in taken | self.known and leaf.numel():
                place, size = _place(leaf), leaf.untyped_storage().nbytes()
                self.known.add(place)
                self.alive += size
                weakref.finalize(leaf.untyped_storage(), self._freed, place, size)
        self.peak = max(self.peak, self.alive)
        return out

    def _freed(self, place: int, size: int) -> None:
        self.known.discard(place)
        self.alive -= size


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _buffers(value: Any) -> list[int]:
    return [leaf for leaf in tree_leaves(value) if leaf is not None]


def _is_view(node: Node) -> bool:
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and (target.is_view or target in ALIASES)


def is_elementwise(node: Node) -> bool:
    """Whether an operator is elementwise: each output element depends on one element of each map that it reads, and on weights."""
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and (torch.Tag.pointwise in target.tags or target in ELEMENTWISE)


def _overwrites(node: Node) -> bool:
    return is_elementwise(node) or (node.target is aten.conv2d.default and node.args[6:] == node.meta["val"].shape[1:2])


def _named(node: Node) -> str:
    """`conv2d of layer1.0.conv1`, or the node's own name where no submodule runs it."""
    stack: Mapping[str, tuple[str, Any]] = node.meta.get("nn_module_stack") or {}
    owners: Sequence[str] = [name for name, _ in stack.values()]
    return f"{node.name} of {owners[-1]}" if owners and owners[-1] else str(node.name)
