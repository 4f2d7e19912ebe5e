"""What every rule works with: the walk that knows the axes, and how operands broadcast."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from torch.fx import Node

from pruners.operators.axes import Axis, tie

Dims = list[Axis]
Arguments = Mapping[str, Any]


class Walk(Protocol):
    """What a rule may ask."""

    def dims(self, value: Any) -> Dims:
        """Axes of a node that is one tensor; an empty list for numbers."""

    def shape(self, node: Node) -> list[Any]:
        """Shape of the node's output, or a list of shapes."""

    def statistic(self, node: Node) -> None:
        """Note that the operator's result depends on how many indices some axis has, as a normalisation does."""


Rule = Callable[[Walk, Node, Arguments], Any]


def frozen(shape: Sequence[int], reason: str) -> Dims:
    """New axes that nothing may be removed from."""
    return [Axis(size, reason) for size in shape]


def broadcast(*operands: Dims) -> Dims:
    """Tie operands aligned at their last dimension; a dimension of size 1 stretches and ties nothing."""
    result: Dims = []
    for position in range(-max(map(len, operands), default=0), 0):
        axes = [dims[position] for dims in operands if len(dims) >= -position]
        wide = [axis for axis in axes if axis.size != 1]
        for other in wide[1:]:
            tie(wide[0], other)
        result.append((wide or axes)[0])
    return result


def tie_vectors(walk: Walk, axis: Axis, *vectors: Any) -> None:
    """Tie biases, scales and running statistics, where given, to the dimension they run along."""
    for vector in vectors:
        if isinstance(vector, Node):
            tie(axis, walk.dims(vector)[0])
