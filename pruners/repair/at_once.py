"""Repair of many smaller models of one model, each in a moment: from second moments that one pass over data gave.

Every layer makes up for what it loses of its inputs as if those were the full model's. So a repair needs no pass of its own, and errors
of the layers before add up; `least_squares_` sees them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.fx import Node

from pruners.importance import Moments, made_up, making_up
from pruners.surgery import GraphModel, Removal


def repair_at_once_(smaller: GraphModel, removal: Removal, moments: Mapping[Node, Moments]) -> None:
    """Give each layer the weights, and the bias or the mean of its batch norm, that come nearest to what it computed before.

    Args:
        smaller: what `rewrite` built of `removal`, perhaps without some blocks; changed in place.
        removal: what stays.
        moments: of the inputs of layers in the full model, by `second_moments`.

    Reference: Frantar and Alistarh, Optimal brain compression, NeurIPS 2022 (the update of the weights that stay).
    Differs: all that a layer loses goes at once, biases and batch norms take up the constant.
    """
    graph, own = removal.graph, smaller.state_dict()
    with torch.no_grad():
        for found in moments.values():
            if graph.trace.tensors[found.reader.weight.name] not in own:  # its block is left out
                continue
            for node, tensor in made_up(removal, found).items():
                own[graph.trace.tensors[node.name]].copy_(removal.slice(tensor, graph.dims(node)))


class Shares:
    """The tensors of a smaller model, repaired at once, as a function of the full model's: gradients pass through to what is shared.

    How layers make up for what they lose stays what it was for the weights that the moments were gathered with.

    Args:
        removal: what stays.
        moments: of the inputs of layers in the full model, by `second_moments`; none for slices alone.
    """

    def __init__(self, removal: Removal, moments: Mapping[Node, Moments]) -> None:
        self.removal = removal
        self._nodes = {
            node.name: node for node in removal.graph.trace.nodes if node.name in removal.graph.trace.tensors
        }
        made = (making_up(removal, found) for found in moments.values())
        self._making = [replace(each, change=each.change.float()) for each in made if each is not None]

    def __call__(self, full: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the smaller model's tensors hold, by name.

        Args:
            full: tensors of the full model by name; what is not there is left out.
        """
        graph = self.removal.graph
        named = {node: full[name] for key, node in self._nodes.items() if (name := graph.trace.tensors[key]) in full}
        for making in self._making:
            if all(node in named for node in making.nodes):
                named |= making.of(named)
        return {graph.trace.tensors[node.name]: self.removal.slice(x, graph.dims(node)) for node, x in named.items()}
