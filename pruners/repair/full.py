"""The full model beside the smaller one: what repair aims at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from pruners.operators import arguments
from pruners.repair.lanes import InStep, Lane
from pruners.surgery import Removal


class Full(InStep):
    """Runs the full model as far as it is asked to, and keeps what repair aims at."""

    def __init__(self, removal: Removal, found: Sequence[Lane]) -> None:
        graph = removal.graph.trace
        values = graph.values()
        users = [name for name in values if name not in graph.tensors]
        super().__init__(
            graph.graph_module, [{**values, **dict(zip(users, lane.inputs, strict=True))} for lane in found]
        )
        self.removal = removal
        self.steps_left = self.advance()
        self.wanted: Counter[str] = Counter()
        self.aims: dict[str, list[Tensor]] = {}
        self.reads: Counter[str] = Counter()
        self.read: dict[str, list[dict[str, Any]]] = {}

    def before(self, node: Node) -> None:
        """Keep what an operator reads where that is wanted."""
        if self.reads[node.name]:
            self.read[node.name] = [read(node, env) for env in self.envs]

    def run_all(self, node: Node) -> None:
        """Run one operator, and keep its value where it is wanted."""
        super().run_all(node)
        if self.wanted[node.name]:
            dims = self.removal.graph.results(node)[0]
            values = [value[0] if isinstance(value, (tuple, list)) else value for value in self.values(node)]
            self.aims[node.name] = [self.removal.slice(value, dims) for value in values]

    def aim(self, name: str) -> list[Tensor]:
        """The full model's values at a node, on the channels that stay, for each lane."""
        while name not in self.aims:
            next(self.steps_left)
        return self.aims[name]

    def read_by(self, name: str) -> list[dict[str, Any]]:
        """What an operator of the full model reads, argument by argument, for each lane."""
        while name not in self.read:
            next(self.steps_left)
        return self.read[name]

    def done(self, wanted: Iterable[str], reads: Iterable[str] = ()) -> None:
        """Let go of what one layer wanted."""
        _release(wanted, self.wanted, self.aims)
        _release(reads, self.reads, self.read)


def _release(names: Iterable[str], counts: Counter[str], values: dict[str, Any]) -> None:
    for name in names:
        counts[name] -= 1
        if not counts[name]:
            values.pop(name, None)


def read(node: Node, env: Mapping[Node, Any]) -> dict[str, Any]:
    """Values of an operator's arguments by name."""
    return {name: map_arg(value, env.__getitem__) for name, value in arguments(node).items()}
