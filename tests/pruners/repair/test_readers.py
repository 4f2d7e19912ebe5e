"""Every layer that is solved is a product of matrices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pruners.groups import tie_axes
from pruners.repair.readers import FORMS, Reader, reader
from pruners.surgery import GraphModel, Removal, rewrite
from pruners.tracing import trace


class Turned(nn.Module):
    """A linear layer whose weights stand the other way around."""

    def __init__(self, bias: bool, operator: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 4))
        self.bias = nn.Parameter(torch.randn(4)) if bias else None
        self.operator = operator

    def forward(self, x: Tensor) -> Tensor:
        if self.bias is not None:
            return torch.addmm(self.bias, x, self.weight)
        return getattr(torch, self.operator)(x, self.weight)


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x


LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(6, 5), (2, 3, 6)),
    "turned": (Turned(True, "addmm"), (3, 6)),
    "product": (Turned(False, "mm"), (3, 6)),
    "product of more": (Turned(False, "matmul"), (2, 3, 6)),
    "convolution 1": (nn.Conv1d(6, 4, 3, 2, 1, 2), (2, 6, 11)),
    "convolution 2": (nn.Conv2d(6, 4, (3, 2), (2, 1), (1, 0), (1, 2)), (2, 6, 9, 8)),
    "convolution 3": (nn.Conv3d(6, 4, (1, 3, 2), (1, 2, 1), (0, 1, 1)), (2, 6, 3, 5, 4)),
    "same padding": (nn.Conv1d(6, 4, 4, padding="same", dilation=3), (2, 6, 13)),
    "no padding": (nn.Conv2d(6, 4, 3, padding="valid"), (2, 6, 5, 4)),
    "groups": (nn.Conv2d(6, 9, 3, 2, 1, groups=3), (2, 6, 7, 6)),
    "depthwise": (nn.Conv1d(6, 6, 3, groups=6), (2, 6, 7)),
    "transposed 1": (nn.ConvTranspose1d(6, 4, 4, 3, 1, 2), (2, 6, 5)),
    "transposed 2": (nn.ConvTranspose2d(6, 4, (3, 2), (2, 1), (2, 1), (1, 0), 1, True, (2, 1)), (2, 6, 5, 4)),
    "transposed 3": (nn.ConvTranspose3d(6, 4, (1, 3, 2), (1, 2, 2)), (2, 6, 2, 3, 2)),
    "transposed groups": (nn.ConvTranspose2d(6, 9, 3, 2, 1, groups=3), (2, 6, 4, 3)),
    "layer norm": (nn.LayerNorm(6), (2, 3, 6)),
    "root norm": (nn.RMSNorm(6), (2, 3, 6)),
    "group norm": (nn.GroupNorm(3, 6), (2, 6, 4, 3)),
    "scale": (Scale(), (2, 3, 6)),
}


def graph_of(model: nn.Module, *args: Tensor) -> GraphModel:
    return rewrite(Removal(tie_axes(trace(model.eval(), args)), {}))


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_a_product_of_matrices(name: str) -> None:
    torch.manual_seed(0)
    layer, shape = LAYERS[name]
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(shape)
    found, weight, bias = read(graph_of(layer, x))
    with torch.no_grad():
        rows = found.rows(layer(x), weight)
        product = found.matrix(weight) @ found.columns(x, weight)
        if bias is not None:
            product = product + bias.view(*product.shape[:2], 1)
        torch.testing.assert_close(product, rows, rtol=1e-4, atol=1e-4)
    assert torch.equal(found.weights(found.matrix(weight), weight.shape), weight)


def read(graph: GraphModel) -> tuple[Reader, Tensor, Tensor | None]:
    """The one layer of a graph with its weights and bias."""
    (found,) = [layer for node in graph.graph.nodes if (layer := reader(node)) is not None]
    bias = None if found.bias is None else graph.get_parameter(str(found.bias.target))
    return found, graph.get_parameter(str(found.weight.target)), bias


def test_every_form_is_tested() -> None:
    seen = {read(graph_of(layer, torch.randn(shape)))[0].node.target for layer, shape in LAYERS.values()}
    assert {str(target) for target in FORMS} - {str(target) for target in seen} <= {"aten.conv3d.padding"}
