"""A graph in a file as a module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from nas.graphs.calls import Call, calls, results
from nas.graphs.check import check_names, check_sizes, check_weights
from nas.graphs.description import Description, unpacked


class _Graph(NamedTuple):
    """What a network carries out, the shape of an input without the batch, and which step gives the output."""

    steps: list[Call]
    shape: tuple[int, ...]
    output: int


class GraphNetwork(nn.Module):
    """A network whose operators are called one by one; parameters are trainable, under the names of the network it was taken from.

    Batch norms and dropout follow `train` and `eval`. It takes one tensor (N, …) of the shape that it was exported for, with any N.
    """

    def __init__(self, graph: _Graph) -> None:
        super().__init__()
        self._graph = graph

    def forward(self, x: Tensor) -> Tensor:
        """Inputs (N, …) to outputs.

        Raises:
            ValueError: inputs of another shape.
        """
        steps, shape, output = self._graph
        if tuple(x.shape[1:]) != shape:
            wanted = "x".join(map(str, ("N", *shape)))
            raise ValueError(f"the network must get inputs {wanted}, got {'x'.join(map(str, x.shape))}; resize them")
        tensors: dict[str, Tensor] = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        found: Any = None
        for number, value in enumerate(results(steps, tensors, x, self.training), start=1):
            if number == output:
                found = value
        return found


def build_graph(graph: Description, weights: Mapping[str, Tensor]) -> GraphNetwork:
    """The network of a graph, in evaluation mode, with the given tensors as its own; all is checked before anything is made.

    Args:
        graph: its description.
        weights: the tensors of its weights file.

    Raises:
        ValueError: they do not fit together, a step cannot be carried out, or one example would take too much memory.
    """
    check_names((*graph.tensors, *graph.constants))
    check_weights(graph, weights)
    steps = calls(graph)
    constants = {name: unpacked(constant) for name, constant in graph.constants.items()}
    check_sizes(graph, steps, {**weights, **constants})
    network = GraphNetwork(_Graph(steps, tuple(graph.input.shape), graph.output))
    for name, held in graph.tensors.items():
        where, _, last = name.rpartition(".")
        tensor = weights[name]
        if held.kind == "parameter":
            _module(network, where).register_parameter(last, nn.Parameter(tensor, tensor.is_floating_point()))
        else:
            _module(network, where).register_buffer(last, tensor)
    for name, tensor in constants.items():
        where, _, last = name.rpartition(".")
        _module(network, where).register_buffer(last, tensor, persistent=False)
    return network.eval()


def _module(network: nn.Module, name: str) -> nn.Module:
    """The module of that name, made with those above it where it is not there."""
    for part in name.split(".") if name else ():
        if part not in network._modules:
            network.add_module(part, nn.Module())
        network = network.get_submodule(part)
    return network
