"""Running a graph node by node."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import fx
from torch.fx import Node


class Repeated(NamedTuple):
    """A part of a graph that runs again on its own result: where it starts, and its operators in order, that of the result last."""

    source: Node
    nodes: tuple[Node, ...]


class Runner(fx.Interpreter):
    """Runs a graph operator by operator, freeing what is no longer needed; all of it in float64 where `precise` is set."""

    precise = False
    repeated: Mapping[Node, Repeated] = MappingProxyType({})

    def repeat(self, parts: Iterable[Repeated]) -> None:
        """Let parts run again on their own result, also parts of these."""
        self.repeated = {part.nodes[-1]: part for part in parts}
        held = {
            source
            for part in self.repeated.values()
            for node in part.nodes
            for source in node.all_input_nodes
            if source is not part.source and source not in part.nodes
        }
        self.user_to_last_uses = {
            user: [value for value in uses if value not in held] for user, uses in self.user_to_last_uses.items()
        }

    def steps(self, inputs: list[Any]) -> Iterator[tuple[Node, Any]]:
        """Yield each node with its value; `inputs` are the placeholders' values in order."""
        self.args_iter = iter(map(_widened, inputs) if self.precise else inputs)
        yield from self.onward(self.graph.nodes)

    def onward(self, nodes: Iterable[Node]) -> Iterator[tuple[Node, Any]]:
        """Run some of the nodes, with what is known of those before them."""
        for node in nodes:
            value = self.env[node] = self._run(node)
            yield node, value
            for dead in self.user_to_last_uses.get(node, []):
                del self.env[dead]

    def _run(self, node: Node) -> Any:
        """The value of a node; of the end of a part that runs again, its second one."""
        value = self.run_node(node)
        part = self.repeated.get(node)
        if part is None:
            return value
        before, self.env = self.env, {**self.env, part.source: value}
        for inner in part.nodes:
            self.env[inner] = self.run_node(inner) if inner is node else self._run(inner)
        value, self.env = self.env[node], before
        return value

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
