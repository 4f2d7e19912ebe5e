"""What a removal costs, from the axes alone; `estimators.count` is what it predicts."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from torch.fx import Node
from torch.utils import _pytree as pytree

from pruners.groups import AxisGraph
from pruners.operators import ELEMENTARY, PRODUCT, Axis, arguments, chooses, count, find, leaves, seeded, several
from pruners.surgery import Block
from pruners.tracing import Runner

Counts = Mapping[Axis, int]
Product = tuple[int, tuple[Axis, ...]]  # a constant times the sizes of some axes


@dataclass(frozen=True)
class Part:
    """Some terms of a cost.

    Attributes:
        cost: what they add up to when each axis keeps `counts[axis]` indices, which may be arrays.
        axes: the elementary axes in them.
    """

    cost: Callable[[Counts], Any]
    axes: frozenset[Axis]

    def __call__(self, counts: Counts) -> Any:
        """What they add up to."""
        return self.cost(counts)


class Predicted(Protocol):
    """A cost that is predicted rather than counted; it must not rise as sizes fall."""

    def __call__(self, counts: Counts) -> Any:
        """The cost when each axis keeps `counts[axis]` indices, which may be arrays."""

    def about(self, axis: Axis) -> Part:
        """The terms of the cost that an elementary axis is in."""


class Spared(Protocol):
    """What a layer of low rank takes less, by an axis of its own: nothing where that keeps all of its indices."""

    @property
    def node(self) -> Node:
        """Its operator."""

    @property
    def tensor(self) -> str:
        """Its weight."""

    @property
    def axes(self) -> frozenset[Axis]:
        """The elementary axes that decide what it costs."""

    def factors(self, counts: Counts) -> Any:
        """How many multiply-accumulates for each position, and parameters, it takes more than whole; below 0."""

    def positions(self, counts: Counts) -> Any:
        """How many times the layer is applied."""


class CostModel:
    """Costs as sums of products of axis sizes: exact, and cheap enough to be asked thousands of times.

    Where rows are chosen by their values, as many count as the full model chooses on the example inputs. The rows of an expert that is
    left out, and that its router no longer chooses, count as before: other experts see them.

    Args:
        graph: the traced model with its axes.
        model: the model, for what it holds beyond the graph (heads that only training uses).
    """

    def __init__(self, graph: AxisGraph, model: nn.Module) -> None:
        self.graph, self.copies = graph, graph.trace.copies
        self.chosen = _chosen(graph)
        self.present: dict[Axis, Block] = {}
        self.spared: tuple[Spared, ...] = ()
        self._count()
        held = list(model.parameters())
        self.extra_params = sum(p.numel() for p in held) - _total(self.params_terms, {})
        self.extra_bytes = sum(p.numel() * p.element_size() for p in held) - _total(self.bytes_terms, {})
        self.predicted: dict[str, Predicted] = {}

    def _count(self) -> None:
        self.macs_terms = _merged(self._terms(self.graph.trace.nodes))
        parameters = _distinct(self.graph)
        self.params_terms = _merged(term for name in parameters for term in self._entries(name))
        self.bytes_terms = _merged(
            (n * p.element_size(), axes) for name, p in parameters.items() for n, axes in self._entries(name)
        )

    def _entries(self, tensor: str) -> list[Product]:
        """How many a tensor has; one of experts has the same for each that stays."""
        there = tuple(axis for axis, block in self.present.items() if tensor in block.tensors)
        every, *dims = self.graph.tensors[tensor] or [Axis(1)]
        rows = [axis for axis, block in self.present.items() if tensor in block.rows]
        if not rows:
            return [(1, (*self.graph.tensors[tensor], *there))]
        rest = [(every.size - len(rows), (*dims, *there))] if every.size > len(rows) else []
        return [*((1, (*dims, *there, row)) for row in rows), *rest]

    def with_blocks(self, present: Mapping[Axis, Block]) -> CostModel:
        """The same costs, in which blocks are axes of size 1, of which 0 indices stay where the block is left out."""
        more = copy.copy(self)
        more.present = dict(present)
        more._count()
        return more

    def with_ranks(self, spared: Sequence[Spared]) -> CostModel:
        """The same costs, in which layers may be of low rank."""
        more = copy.copy(self)
        more.spared = tuple(spared)
        return more

    def macs(self, counts: Counts) -> int:
        """Multiply-accumulates on the example inputs when each axis keeps `counts[axis]` indices."""
        counts = {**self.chosen, **counts}
        return (_total(self.macs_terms, counts) + self._more("macs", self.spared, counts)) // self.copies

    def params(self, counts: Counts) -> int:
        """Entries of all parameters."""
        return _total(self.params_terms, counts) + self.extra_params + self._more("params", self.spared, counts)

    def weight_bytes(self, counts: Counts) -> int:
        """Bytes of all parameters at their own types."""
        return _total(self.bytes_terms, counts) + self.extra_bytes + self._more("weight_bytes", self.spared, counts)

    def _more(self, target: str, spared: Iterable[Spared], counts: Counts) -> Any:
        """What layers of low rank add to a cost, below 0, where they are there."""
        total = 0
        for layer in spared:
            more = layer.factors(counts)
            if target == "macs":
                more = more * layer.positions(counts) * (1 if _per_sample(layer.node) else self.copies)
            elif target == "weight_bytes":
                more = more * self.graph.trace.tensor(layer.tensor).element_size()
            for axis in self._around(layer):
                more = more * count(axis, counts)
            total = total + more
        return total

    def _around(self, layer: Spared) -> list[Axis]:
        """Axes of the blocks that a layer goes with."""
        return [axis for axis, block in self.present.items() if layer.tensor in block.tensors]

    def without(self, nodes: Iterable[Node], tensors: Iterable[str]) -> CostModel:
        """The costs when some operators do not run and some tensors are gone."""
        gone = {name: p for name, p in _distinct(self.graph).items() if name in set(tensors)}
        less = copy.copy(self)
        less.macs_terms = self.macs_terms + [(-constant, axes) for constant, axes in self._terms(nodes)]
        entries = [(name, n, axes) for name in gone for n, axes in self._entries(name)]
        less.params_terms = self.params_terms + [(-n, axes) for _, n, axes in entries]
        less.bytes_terms = self.bytes_terms + [(-n * gone[name].element_size(), axes) for name, n, axes in entries]
        return less

    def _terms(self, nodes: Iterable[Node]) -> list[Product]:
        """What operators cost on as many copies of the example as were traced."""
        found: list[Product] = []
        saving = {axis: block for axis, block in self.present.items() if block.route is None}
        for node in nodes:
            there = tuple(axis for axis, block in saving.items() if node in block.nodes)
            found += [
                (constant if _per_sample(node) else constant * self.copies, (*axes, *there))
                for constant, axes in operator_macs(self.graph, node)
            ]
        return found

    def predicting(self, name: str, predicted: Predicted) -> CostModel:
        """The same costs, and one more."""
        more = copy.copy(self)
        more.predicted = {**self.predicted, name: predicted}
        return more

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all costs."""
        return ("macs", "params", "weight_bytes", *self.predicted)

    def of(self, target: str) -> Callable[[Counts], float]:
        """The cost function called `target`; counted ones return whole numbers."""
        if target in self.predicted:
            return self.predicted[target]
        return {"macs": self.macs, "params": self.params, "weight_bytes": self.weight_bytes}[target]

    def about(self, target: str, axis: Axis) -> Part:
        """The terms of a cost that an elementary axis is in: they differ as the cost does where only this axis changes."""
        if target in self.predicted:
            return self.predicted[target].about(axis)
        every = {"macs": self.macs_terms, "params": self.params_terms, "weight_bytes": self.bytes_terms}[target]
        terms = [term for term in every if any(axis in leaves(dim) for dim in term[1])]
        spared = [layer for layer in self.spared if axis in layer.axes or axis in self._around(layer)]
        axes = frozenset(leaf for _, dims in terms for dim in dims for leaf in leaves(dim))
        axes = axes.union(*(layer.axes for layer in spared), *map(self._around, spared))

        def cost(counts: Counts) -> Any:
            return _total(terms, counts) + self._more(target, spared, counts)

        if target != "macs":
            return Part(cost, axes)
        return Part(lambda counts: cost({**self.chosen, **counts}) // self.copies, axes)


def _total(terms: list[Product], counts: Counts) -> int:
    total = 0
    for constant, axes in terms:
        for axis in axes:
            constant *= count(axis, counts)
        total += constant
    return total


def _merged(terms: Iterable[Product]) -> list[Product]:
    """The same sum with one term for each product of elementary axes: layers that are alike cost alike."""
    found: dict[frozenset[tuple[Axis, int]], int] = {}
    for constant, dims in terms:
        flat = Counter(axis for dim in dims for axis in _factors(dim))
        key = frozenset(flat.items())
        found[key] = found.get(key, 0) + constant
    return [(constant, tuple(axis for axis, n in key for _ in range(n))) for key, constant in found.items() if constant]


def _factors(axis: Axis) -> list[Axis]:
    """The elementary axes whose sizes make that of an axis; what joins several is one of these factors itself."""
    axis = find(axis)
    return [leaf for part in axis.parts for leaf in _factors(part)] if axis.kind == PRODUCT else [axis]


def _chosen(graph: AxisGraph) -> dict[Axis, int]:
    """The sizes of axes that depend on values, on as many copies of the example as were traced."""
    if not graph.trace.choosing:
        return {}
    found: dict[Axis, int] = {}
    inputs = list(graph.trace.enlarged().values().values())
    with torch.no_grad(), seeded():
        for node, result in Runner(graph.trace.graph_module).steps(inputs):
            for value, dims in zip(several(result), graph.results(node), strict=False):
                if isinstance(value, torch.Tensor) and chooses(node):
                    sizes = zip(map(find, dims), value.shape, strict=True)
                    found |= {axis: n for axis, n in sizes if axis.kind == ELEMENTARY and axis.frozen}
    return found


def _distinct(graph: AxisGraph) -> dict[str, nn.Parameter]:
    """Parameters of the model in the graph, each once however many names it has."""
    found: dict[int, tuple[str, nn.Parameter]] = {}
    for name in graph.tensors:
        tensor = graph.trace.tensor(name)
        if isinstance(tensor, nn.Parameter):
            found.setdefault(id(tensor), (name, tensor))
    return dict(found.values())


def _per_sample(node: Node) -> bool:
    """Whether a node's value grows with the batch, unlike what is computed from weights alone."""
    tensors = pytree.tree_leaves(node.meta["val"])
    return any(isinstance(size, torch.SymInt) for tensor in tensors for size in tensor.shape)


def operator_macs(graph: AxisGraph, node: Node) -> list[Product]:
    """Terms of one operator, as `estimators.count` counts it; none for operators that it does not count."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return []
    name = node.target._schema.name.split("::")[1]
    out = tuple(graph.dims(node))
    a = arguments(node)
    if name.startswith("conv"):
        weight = graph.dims(a["weight"])
        if "transpose" in name:
            return [(1, (*graph.dims(a["input"]), *weight[1:]))]
        return [(1, (*out, *weight[1:]))]
    if name == "linear":
        return [(1, (*out, graph.dims(a["input"])[-1]))]
    if name in ("mm", "bmm", "matmul", "mv", "dot", "vdot", "addmm", "baddbmm", "addmv"):
        operands = [value for value in a.values() if isinstance(value, Node)][-2:]
        return [(1, (*out, graph.dims(operands[0])[-1]))]
    if name == "addbmm":
        return [(1, (*graph.dims(a["batch1"]), out[-1]))]
    if name == "einsum":
        return _einsum_terms(a["equation"], list(map(graph.dims, a["tensors"])), a["path"])
    if name == "scaled_dot_product_attention":
        query, key = graph.dims(a["query"]), graph.dims(a["key"])
        return [(1, (*out[:-1], query[-1], key[-2])), (1, (*out, key[-2]))]
    if name in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
        matrices = [dims for weight in a["params"] if len(dims := graph.dims(weight)) == 2]
        return [(1, (*graph.dims(a["input"])[:-1], *dims)) for dims in matrices]
    return []


def _einsum_terms(equation: str, operands: list[list[Axis]], path: Sequence[int] | None) -> list[Product]:
    """The products that `torch.einsum` makes of two operands at a time: from left to right, or as its path says.

    What only one of the two has, and nothing later wants, is summed before; without a common sum entries are multiplied,
    which counts nothing.
    """
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    terms = [_by_letter(term, dims) for term, dims in zip(inputs.split(","), operands, strict=True)]
    if not arrow:
        output = "".join(c for c in inputs if inputs.count(c) == 1)
    wanted = {c for c in output if c.isalpha()}
    products = []
    steps = iter(path or ())
    while len(terms) > 1:
        i, j = sorted((next(steps), next(steps))) if path else (0, 1)
        second, first = terms.pop(j), terms.pop(i)
        later = wanted.union(*terms)
        summed = {c for c in first.keys() & second.keys() if not _stays(c, later)}
        both = {c: x for c, x in (first | second).items() if c in summed or _stays(c, later)}
        if summed:
            products.append((1, tuple(both.values())))
        terms.insert(len(terms) if path else 0, {c: x for c, x in both.items() if c not in summed})
    return products


def _by_letter(term: str, dims: list[Axis]) -> dict[str, Axis]:
    """The axes of an operand that are not of size 1 by their letters, those of an ellipsis by their places from its end."""
    before, _, after = term.partition("...")
    dots = [f".{place}" for place in range(len(dims) - len(before) - len(after), 0, -1)]
    return {c: axis for c, axis in zip((*before, *dots, *after), dims, strict=True) if axis.size != 1}


def _stays(letter: str, later: Collection[str]) -> bool:
    return letter in later or letter.startswith(".")
