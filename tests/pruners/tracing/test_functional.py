"""Graphs without in-place operators return what the model returns, however memory is shared."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruners.surgery.rewrite import GraphModel
from pruners.tracing.functional import functional


class Calls(nn.Module):
    """A function of a linear layer's result."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 6)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.layer(x))


def view_seen_later(x: Tensor) -> Tensor:
    rows = x.view(-1, 2)
    return x.mul_(3).sum() + rows.exp().sum()


def parts_written(x: Tensor) -> Tensor:
    before = x.exp()
    x[:, 1:3].mul_(2)
    x[1:, :2] = 7
    x[:1, 4:] = before[:1, :2]
    return x.exp() + before


def column_written(x: Tensor) -> Tensor:
    x[:, 1].mul_(2)
    return x.exp()


def part_seen_later(x: Tensor) -> Tensor:
    part = x[:, 1:3]
    part.mul_(2)
    return x.sum() + part.exp().sum()


def part_seen_through_another(x: Tensor) -> Tensor:
    other = x[:, 2:]
    x[:, 1:3].mul_(2)
    return x.sum() + other.exp().sum()


def rows_of_a_view_written(x: Tensor) -> Tensor:
    pairs = x.view(-1, 2)
    pairs[0] = 0
    return pairs.exp().sum() + x.sum()


def one_after_another(x: Tensor) -> Tensor:
    y = x.relu_()
    z = x.add_(1)
    return x + y * z


def written_and_kept(x: Tensor) -> Tensor:
    before = x.exp()
    x.sigmoid_()
    return before + x


def entries_put(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, [0, 2]] = x[:, [1, 3]] * 5
    return x


def empty_filled(x: Tensor) -> Tensor:
    y = x.new_empty(x.shape[0], 9)
    y[:, :6] = x
    y[:, 6:] = 2 * x[:, :3]
    return y


def flat_written(x: Tensor) -> Tensor:
    flat = x.reshape(-1, 2, 3).flatten(1)
    flat.mul_(2)
    return F.dropout(flat, 0.5, False, True) + flat


def flat_seen_through_another(x: Tensor) -> Tensor:
    cubes = x.reshape(-1, 2, 3)
    flat = cubes.flatten(1)
    flat.mul_(2)
    return cubes.exp().sum() + flat.sum()


def input_seen_through_another(x: Tensor) -> Tensor:
    y = x.sigmoid()
    rows = y.reshape(-1, 2).flatten()
    rows.mul_(2)
    return y.sum() + rows.sigmoid().sum()


EASY = {
    "flat": flat_written,
    "relu": lambda x: F.relu(x, True) * 2,
    "kept": written_and_kept,
    "parts": parts_written,
    "column": column_written,
    "empty": empty_filled,
}
HARD = {
    f.__name__: f
    for f in (
        view_seen_later,
        flat_seen_through_another,
        input_seen_through_another,
        rows_of_a_view_written,
        part_seen_later,
        part_seen_through_another,
        one_after_another,
        entries_put,
    )
}


@pytest.mark.parametrize("name", [*EASY, *HARD])
def test_values_stay(name: str) -> None:
    model, x = Calls({**EASY, **HARD}[name]).eval(), torch.randn(3, 4)
    program = torch.export.export(model, (x,), strict=False)
    result = functional(program)
    assert not any(
        node.target._schema.is_mutable for node in result.graph.nodes if isinstance(node.target, torch._ops.OpOverload)
    )
    with torch.no_grad():
        torch.testing.assert_close(result.module()(x), model(x))
    if name in EASY:
        assert result is program  # not traced a second time


def test_a_graph_model_switches_dropout() -> None:
    graph = torch.export.export(nn.Dropout(0.5).eval(), (torch.ones(100),)).graph_module
    model = GraphModel(graph, graph.graph).eval()
    x = torch.ones(100)
    assert torch.equal(model(x)[0], x)
    assert not torch.equal(model.train()(x)[0], x)
    assert torch.equal(model.eval()(x)[0], x)
