"""A repair as a whole is judged by outputs on held-out examples."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from pruners.groups.dependency import tie_axes
from pruners.repair import closer, least_squares, least_squares_
from pruners.repair.lanes import Lane, lanes
from pruners.surgery import GraphModel, Removal, rewrite
from pruners.tracing import like_example
from pruners.tracing.trace import trace
from tests.pruners.plain import prune


def given(samples: int) -> tuple[Removal, GraphModel, list[Lane]]:
    torch.manual_seed(0)
    removal = Removal(tie_axes(trace(nn.Linear(4, 3).eval(), (torch.randn(2, 4),))), {})
    found = removal.graph.trace
    return removal, rewrite(removal), lanes(like_example([torch.randn(samples, 4)], found), found)


def off(graph: GraphModel, by: float) -> GraphModel:
    """The same graph with weights that are off."""
    other = copy.deepcopy(graph)
    with torch.no_grad():
        for p in other.parameters():
            p += by
    return other


@pytest.mark.parametrize("samples", [5, 45, 65, 85])  # 1, 9, 13 and 17 of them held out
def test_nearer_outputs_are_told_from_farther_ones(samples: int) -> None:
    removal, graph, found = given(samples)
    assert closer.is_closer(removal, off(graph, 0.1), off(graph, 0.2), found)
    assert not closer.is_closer(removal, off(graph, 0.2), off(graph, 0.1), found)
    assert not closer.is_closer(removal, off(graph, torch.nan), off(graph, 0.1), found)


def test_only_examples_held_out_judge() -> None:
    removal, graph, found = given(45)
    for lane in found:
        if lane.held is False:
            lane.inputs[0].fill_(torch.nan)
    assert not closer.is_closer(removal, off(graph, 0.2), off(graph, 0.1), found)
    assert closer.is_closer(removal, off(graph, 0.1), off(graph, 0.2), found)


def test_a_repair_that_comes_no_nearer_is_taken_back_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)).eval(), torch.randn(100, 6)
    result = prune(model, x[:2], {"macs": 0.5})
    before: dict[str, Tensor] = {name: value.clone() for name, value in result.model.state_dict().items()}
    monkeypatch.setattr(least_squares, "is_closer", lambda *given: False)
    done = least_squares_(result.model, model, result.plan, [x])
    assert done.solved == 0 and "all other layers (the model's outputs are no better" in done.left_out[-1]
    assert all(torch.equal(value, before[name]) for name, value in result.model.state_dict().items())
