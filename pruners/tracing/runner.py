"""Running a graph node by node."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import fx
from torch.fx import Node


class Runner(fx.Interpreter):
    """Runs a graph operator by operator, freeing what is no longer needed; all of it in float64 where `precise` is set."""

    precise = False

    def steps(self, inputs: list[Any]) -> Iterator[tuple[Node, Any]]:
        """Yield each node with its value; `inputs` are the placeholders' values in order."""
        self.args_iter = iter(map(_widened, inputs) if self.precise else inputs)
        yield from self.onward(self.graph.nodes)

    def onward(self, nodes: Iterable[Node]) -> Iterator[tuple[Node, Any]]:
        """Run some of the nodes, with what is known of those before them."""
        for node in nodes:
            value = self.env[node] = self.run_node(node)
            yield node, value
            for dead in self.user_to_last_uses.get(node, []):
                del self.env[dead]

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Fetch a tensor of the module."""
        value = super().get_attr(target, args, kwargs)
        return _widened(value) if self.precise else value

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Call an operator."""
        if self.precise:
            args, kwargs = (fx.node.map_aggregate(values, _widened) for values in (args, kwargs))
        return super().call_function(target, args, kwargs)


def _widened(value: Any) -> Any:
    """A tensor or a type in float64 where it is in float32."""
    if isinstance(value, torch.Tensor):
        return value.double() if value.dtype == torch.float32 else value
    return torch.float64 if value is torch.float32 else value
