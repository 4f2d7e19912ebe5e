"""Repair without training: statistics of batch norms, and noise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pruners import noise, recalibrate_
from tests.pruners.networks import build
from tests.pruners.plain import prune


def data(n: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return list(torch.randn(n, 3, 8, 8, generator=generator).split(n // 2))


def test_statistics_are_the_average_over_batches() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3)).eval()
    batches = [torch.randn(4, 3, 5, 5) + 3, torch.randn(4, 3, 5, 5) * 2]
    recalibrate_(model, batches)
    torch.testing.assert_close(model[0].running_mean, torch.stack([x.mean((0, 2, 3)) for x in batches]).mean(0))
    torch.testing.assert_close(model[0].running_var, torch.stack([x.var((0, 2, 3)) for x in batches]).mean(0))
    assert model[0].momentum == 0.1 and not model.training


def test_a_rewritten_graph_is_recalibrated() -> None:
    model, example = build("zero padded shortcut")
    graph_form = prune(model, example, {"macs": 0.5})
    assert graph_form.summary.form == "graph"
    recalibrate_(graph_form.model, data(8))
    state = graph_form.model.state_dict()
    weight, bias = state["block.0.weight"], state["block.0.bias"]
    means = []
    for batch in data(8):
        stem = nn.functional.conv2d(batch, state["stem.weight"], state["stem.bias"], padding=1).relu()
        means.append(nn.functional.conv2d(stem, weight, bias, stride=2, padding=1).mean((0, 2, 3)))
    torch.testing.assert_close(state["block.1.running_mean"], torch.stack(means).mean(0), rtol=1e-4, atol=1e-5)


def batch_norms(graph: nn.Module) -> list[tuple[object, ...]]:
    return [node.args[5:7] for node in graph.graph.nodes if "batch_norm" in str(node.target)]


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("spoilt", [True, False])
def test_momentum_and_mode_stay(mode: bool, spoilt: bool) -> None:
    """Of a graph and of a module, also where a batch is refused half-way."""
    model, example = build("zero padded shortcut")
    model.block[1].momentum = 0.01
    graph = prune(model, example, {"macs": 0.5}).model.train(mode)
    batches = [*data(8), torch.randn(1, 4, 8, 8)] if spoilt else data(8)
    for repaired in (graph, model.train(mode)):
        before = [(module, module.training, getattr(module, "momentum", None)) for module in repaired.modules()]
        arguments = [node.args for node in graph.graph.nodes]
        if spoilt:
            with pytest.raises(ValueError, match=r"`batches` must fit the model, got \[\(1, 4, 8, 8\)\]"):
                recalibrate_(repaired, batches)
        else:
            recalibrate_(repaired, batches)
        assert before == [(module, module.training, getattr(module, "momentum", None)) for module in repaired.modules()]
        assert arguments == [node.args for node in graph.graph.nodes] and batch_norms(graph) == [(mode, 0.01)]


def test_a_graph_without_momentum_gets_torchs_own() -> None:
    """A graph cannot count batches; the exporter would write 0, which never moves the statistics."""
    model, example = build("zero padded shortcut")
    model.block[1].momentum = None
    graph = prune(model, example, {"macs": 0.5}).model
    assert batch_norms(graph) == [(False, nn.BatchNorm2d(1).momentum)]


def test_no_batches_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one batch"):
        recalibrate_(nn.BatchNorm1d(3), [])


def test_noise_is_no_substitute_for_tokens() -> None:
    with pytest.raises(ValueError, match="real numbers, got torch.int64"):
        noise(torch.zeros(1, 8, dtype=torch.int64))
