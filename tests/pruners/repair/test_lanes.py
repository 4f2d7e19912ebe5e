"""Batches in pieces, some held out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pruners.repair.lanes import APART, CHUNK, InStep, Lane, lanes, outputs
from pruners.tracing import as_batch, trace
from tests.pruners.repair.test_readers import graph_of

MODEL = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()


def rows(found: list[Lane], held: bool | None) -> Tensor:
    return torch.cat([lane.inputs[0] for lane in found if lane.held is held] or [torch.zeros(0, 3)])


@pytest.mark.parametrize("sizes", [(2, 3), (1, 1), (7, 1, 200), (64, 64)])
def test_every_sample_is_there_once_and_every_fifth_is_held_out(sizes: tuple[int, ...]) -> None:
    total = sum(sizes)
    x = torch.arange(3 * total).view(total, 3).float()
    found = lanes(map(as_batch, x.split(list(sizes))), trace(MODEL, (x[:2],)))
    assert all(2 <= len(lane.inputs[0]) <= CHUNK for lane in found)  # one alone comes twice
    seen = torch.cat([rows(found, False), rows(found, True)]).unique(dim=0)
    assert torch.equal(seen, x)
    assert len(rows(found, True).unique(dim=0)) == (max(1, total // APART))


def test_of_one_sample_positions_are_held_out() -> None:
    (lane,) = lanes([as_batch(torch.ones(1, 3))], trace(MODEL, (torch.ones(2, 3),)))
    assert lane.held is None and lane.inputs[0].shape == (2, 3)


def test_one_sample_of_so_many() -> None:
    x = torch.arange(60).view(20, 3).float()
    found = lanes([as_batch(x)], trace(MODEL, (x[:2],)), every=4)
    assert torch.equal(torch.cat([rows(found, False), rows(found, True)]).unique(dim=0), x[::4])


def test_in_step_is_one_by_one_and_frees_what_is_used() -> None:
    x = torch.randn(5, 3)
    graph = graph_of(MODEL, x)
    (name,) = [node.name for node in graph.graph.nodes if node.op == "placeholder"]
    run = InStep(graph, [{name: x}, {name: 2 * x}])
    for node in run.advance():
        if node.op == "output":
            found = run.values(node)
    assert [len(env) for env in run.envs] == [1, 1]
    for (given,), want in zip(found, (x, 2 * x), strict=True):
        torch.testing.assert_close(given, MODEL(want))
    torch.testing.assert_close(outputs(graph, {name: x}), [MODEL(x)])
