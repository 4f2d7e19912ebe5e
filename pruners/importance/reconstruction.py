"""What the layers that read a group can make up for: from second moments of their inputs, in closed form.

A layer with weights W (O, Q) that reads columns X (Q, P) loses the columns M of an index. With the weights that remain solved
again for W X, the squared error is tr(W_M ((X Xᵀ)⁻¹_MM)⁻¹ W_Mᵀ): what optimal brain surgeon says, for blocks. Shapes as in
`pruners.importance.matrix_form`; a last row of ones in X stands for the shift that a bias or a batch norm takes up.

Reference: Hassibi and Stork, Second order derivatives for network pruning: optimal brain surgeon, NeurIPS 1992; Frantar and
    Alistarh, Optimal brain compression, NeurIPS 2022 (blocks, inverse updated); Wang et al., Structurally prune anything, 2024
    (OBSPA: coupled channels).
Differs: the errors of all layers that read a group add up, each relative to the variance of what that layer computes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from pruners.groups import AxisGraph, Group
from pruners.importance.damped import damped_inverse, damped_solve
from pruners.importance.matrix_form import is_product, sampled
from pruners.importance.order import rising_costs
from pruners.operators import Axis, arguments, leaves, operator, owner
from pruners.surgery import Masked, Removal

RIDGE = 1e-4  # of a solution, relative to the mean of the diagonal
WIDEST = 5_000  # columns: beyond, no second moments are kept and nothing is made up for
POSITIONS = 20_000  # per batch
ROUNDING = 1e-5  # of the squares of what a layer computes, up to which its variance is that of products in float32


@dataclass(frozen=True)
class Reader:
    """A layer that multiplies indices of groups by weights of its own.

    Attributes:
        node: a convolution or linear layer of the traced graph.
        weight: placeholder of its weights.
        shift: placeholder that takes up a constant: its bias, or the running mean of the batch norm behind it.
        norm: that batch norm.
    """

    node: Node
    weight: Node
    shift: Node | None
    norm: Node | None


@dataclass(frozen=True)
class Moments:
    """A reader with what its inputs are like.

    Attributes:
        reader: the layer.
        gram: X Xᵀ / P, shape (Q + 1, Q + 1), the last row that of the ones; float64.
        weights: (O, Q + 1) after the norm's scale, with zeros as the last column; float64.
    """

    reader: Reader
    gram: Tensor
    weights: Tensor

    @property
    def solvable(self) -> int:
        """How many rows of `gram` the layer can solve for: all, or all but the ones."""
        return len(self.gram) - (self.reader.shift is None)

    @property
    def scale(self) -> float:
        """One over the variance of what the layer computes, summed over outputs; over its squares where it is constant but for
        rounding; 0 where it is 0.
        """
        mean = self.weights @ self.gram[:, -1]
        size = float(((self.weights @ self.gram) * self.weights).sum())
        variance = size - float(mean.square().sum())
        unit = variance if variance > ROUNDING * size else size
        return 1 / unit if unit > 0 else 0.0


def readers(graph: AxisGraph) -> list[Reader]:
    """Layers that second moments can be kept for, in order of execution."""
    found = []
    for node in graph.trace.nodes:
        if node.op != "call_function" or not is_product(node):
            continue
        a = arguments(node)
        weight = a["weight"]
        if not _is_tensor(graph, weight) or len(weight.users) > 1:
            continue
        norm = _norm(node)
        shift = a["bias"] if a["bias"] is not None else arguments(norm)["running_mean"] if norm else None
        found.append(Reader(node, weight, shift if _is_tensor(graph, shift) else None, norm))
    return found


def too_wide(graph: AxisGraph, reader: Reader) -> bool:
    """Whether a layer reads so many columns that no second moments are kept."""
    return _tensor(graph, reader.weight).shape[1:].numel() > WIDEST


def read_too_wide(graph: AxisGraph, groups: Sequence[Group]) -> list[str]:
    """Names of groups that layers read which are too wide to be looked at."""
    wide = [reader for reader in readers(graph) if too_wide(graph, reader)]
    return [group.name for group in groups if any(_reads(graph, reader, group.axis) for reader in wide)]


def second_moments(base: Removal, inputs: Iterable[Sequence[Any]]) -> dict[Node, Moments]:
    """Run the traced model over data and keep what the inputs of its layers are like.

    Args:
        base: the traced model, and what stays of it.
        inputs: values of all placeholders, for batch after batch.

    Returns:
        Placeholder of the weights to moments, for layers that ran.

    Raises:
        ValueError: if the inputs of a layer are not finite.
    """
    found = [reader for reader in readers(base.graph) if not too_wide(base.graph, reader)]
    totals = _Totals(base, found)
    with torch.no_grad():
        for values in inputs:
            for _ in totals.steps(list(values)):
                pass
    for node, gram in totals.grams.items():
        if not gram.isfinite().all():
            raise ValueError(
                f"`batches` must give layers finite inputs, got NaN or infinity at {owner(node)!r}; look for them in the data."
            )
    return {
        reader.weight: Moments(
            reader, totals.grams[reader.node] / totals.positions[reader.node], _weights(base.graph, reader)
        )
        for reader in found
        if reader.node in totals.grams
    }


def lost_by_group(graph: AxisGraph, group: Group, moments: Mapping[Node, Moments]) -> Tensor | None:
    """The error that losing an index adds, when indices go in the order in which they add least.

    Args:
        graph: the traced model with its axes.
        group: the group whose indices go.
        moments: of the layers that read it.

    Returns:
        Of the group's shape, on the CPU, rising in the order in which the indices go; or None if no layer reads the group.
    """
    layers = [_Layer.of(found, graph, group) for found in moments.values() if _reads(graph, found.reader, group.axis)]
    if not layers:
        return None
    return rising_costs(layers, math.prod(group.shape)).float().view(group.shape)


def made_up_for(removal: Removal, axis: Axis, moments: Mapping[Node, Moments]) -> dict[Node, Tensor]:
    """What the placeholders of the layers that read an axis hold once these have made up for what it loses.

    Args:
        removal: of some indices of one axis, and nothing else.
        axis: that axis.
        moments: of the layers that read it.
    """
    reads = (found for found in moments.values() if _reads(removal.graph, found.reader, axis))
    return {node: tensor for found in reads for node, tensor in made_up(removal, found).items()}


def made_up(removal: Removal, found: Moments) -> dict[Node, Tensor]:
    """What the placeholders of one layer hold, at their full shapes, once it has made up for what it loses of its inputs; if anything.

    Its inputs are taken to be those of the full model, whatever the layers before it lost.
    """
    making = making_up(removal, found)
    if making is None:
        return {}
    full = {node: _tensor(removal.graph, node) for node in making.nodes}
    return {node: x.to(full[node].dtype) for node, x in making.of({n: x.double() for n, x in full.items()}).items()}


@dataclass(frozen=True)
class MakingUp:
    """How a layer makes up for columns that it loses: a linear map of its weights.

    Attributes:
        reader: the layer.
        stays: which columns stay, the ones among them where something takes up the shift; shape (Q + 1,) or (Q,).
        change: what each lost column adds to those that stay, shape (stay, lost).
    """

    reader: Reader
    stays: Tensor
    change: Tensor

    @property
    def nodes(self) -> list[Node]:
        """Placeholders that it changes: of the weights, and of what takes up the shift."""
        return [node for node in (self.reader.weight, self.reader.shift) if node is not None]

    def of(self, full: Mapping[Node, Tensor]) -> dict[Node, Tensor]:
        """What those placeholders hold, at their full shapes, after what they held before; gradients pass through."""
        weight = full[self.reader.weight]
        raw = weight.flatten(1)
        columns = raw.shape[1]
        stays, change = self.stays.to(raw.device), self.change.to(raw)
        moved = raw[:, ~stays[:columns]] @ change.t()
        places = stays.nonzero().flatten()
        inner = places < columns
        new = raw.index_fill(1, (~stays[:columns]).nonzero().flatten(), 0).index_add(1, places[inner], moved[:, inner])
        result = {self.reader.weight: new.view_as(weight)}
        if self.reader.shift is not None:
            shift = full[self.reader.shift]
            result[self.reader.shift] = shift - moved[:, -1] if _is_mean(self.reader) else shift + moved[:, -1]
        return result


def making_up(removal: Removal, found: Moments) -> MakingUp | None:
    """How a layer makes up for what it loses of its inputs; None where it loses nothing."""
    stays = _columns_kept(removal, found.reader)
    if bool(stays.all()):
        return None
    gram = found.gram[: found.solvable, : found.solvable]
    stays = stays[: found.solvable]
    held = _held(gram)[stays]
    return MakingUp(found.reader, stays, damped_solve(gram[stays][:, stays] + torch.diag(held), gram[stays][:, ~stays]))


class _Totals(Masked):
    """Adds up X Xᵀ of every reader while the model runs."""

    def __init__(self, base: Removal, found: Sequence[Reader]) -> None:
        super().__init__(base)
        self.found = {reader.node: reader for reader in found}
        self.grams: dict[Node, Tensor] = {}
        self.positions: dict[Node, int] = {}

    def run_node(self, node: Node) -> Any:
        value = super().run_node(node)
        if node in self.found:
            kernel = self.env[self.found[node].weight].shape[2:]
            for x, _ in sampled(node, self.env[arguments(node)["input"]], kernel, [value], POSITIONS):
                x = torch.cat([x, x.new_ones(1, x.shape[1])])
                total = (x @ x.t()).double()
                self.grams[node] = self.grams[node] + total if node in self.grams else total
                self.positions[node] = self.positions.get(node, 0) + x.shape[1]
        return value


@dataclass
class _Layer:
    """A reader that loses one index of a group after another, its other weights making up for it."""

    weights: Tensor
    inverse: Tensor
    columns: Tensor  # (n, c): the columns of each index
    scale: float

    @classmethod
    def of(cls, found: Moments, graph: AxisGraph, group: Group) -> _Layer:
        gram = found.gram[: found.solvable, : found.solvable]
        index = _index_of_columns(graph, found.reader, group)
        places = (index >= 0).nonzero().flatten()
        columns = places[index[places].argsort(stable=True)].view(math.prod(group.shape), -1)
        weights = found.weights[:, : found.solvable].clone()
        return cls(weights, damped_inverse(gram), columns, found.scale)

    def costs(self, left: Tensor) -> Tensor:
        """Error that each of some indices adds if it goes next."""
        columns = self.columns[left]
        blocks = self.inverse[columns[:, :, None], columns[:, None, :]]  # (n, c, c)
        weights = self.weights[:, columns].transpose(0, 1)  # (n, O, c)
        return self.scale * (weights.transpose(1, 2) * damped_solve(blocks, weights.transpose(1, 2))).sum((1, 2))

    def remove(self, gone: Tensor) -> None:
        columns = self.columns[gone].flatten()
        step = damped_solve(self.inverse[columns][:, columns], self.inverse[columns])
        self.weights -= self.weights[:, columns] @ step
        self.inverse -= self.inverse[:, columns] @ step
        self.weights[:, columns] = 0


def _index_of_columns(graph: AxisGraph, reader: Reader, group: Group) -> Tensor:
    """The index of a group that each column belongs to, or -1; shape (Q,)."""
    kernel = _tensor(graph, reader.weight).shape[2:].numel()
    _, index = Removal(graph, {}).units(graph.dims(reader.weight)[1:2], 0, group)
    return index.repeat_interleave(kernel)


def _columns_kept(removal: Removal, reader: Reader) -> Tensor:
    kernel = _tensor(removal.graph, reader.weight).shape[2:].numel()
    stays = removal.stays(removal.graph.dims(reader.weight)[1]).repeat_interleave(kernel)
    return torch.cat([stays, stays.new_ones(1)])


def _reads(graph: AxisGraph, reader: Reader, axis: Axis) -> bool:
    return axis in leaves(graph.dims(reader.weight)[1])


def _held(gram: Tensor) -> Tensor:
    """What keeps a solution near the weights as they are."""
    return torch.full((len(gram),), RIDGE * float(gram.diagonal().mean()), dtype=gram.dtype, device=gram.device)


def _weights(graph: AxisGraph, reader: Reader) -> Tensor:
    weight = _tensor(graph, reader.weight).detach().double().flatten(1)
    if reader.norm is not None:
        a = arguments(reader.norm)
        scale = (_tensor(graph, a["running_var"]).double() + a["eps"]).rsqrt()
        if a["weight"] is not None:
            scale = scale * _tensor(graph, a["weight"]).detach().double()
        weight = weight * scale[:, None]
    return torch.cat([weight, weight.new_zeros(len(weight), 1)], 1)


def _norm(node: Node) -> Node | None:
    """The batch norm that alone reads a layer's output."""
    user = next(iter(node.users)) if len(node.users) == 1 else None
    return user if user is not None and user.op == "call_function" and "batch_norm" in operator(user) else None


def _is_mean(reader: Reader) -> bool:
    return reader.norm is not None and arguments(reader.norm)["running_mean"] is reader.shift


def _is_tensor(graph: AxisGraph, value: Any) -> bool:
    return isinstance(value, Node) and value.name in graph.trace.tensors


def _tensor(graph: AxisGraph, placeholder: Node) -> Tensor:
    return graph.trace.tensor(graph.trace.tensors[placeholder.name])
