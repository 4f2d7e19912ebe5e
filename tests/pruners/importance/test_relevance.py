"""Relevance is conserved, is input times gradient where nothing bends, and finds what a decision rests on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pruners.groups.dependency import dependency_groups, tie_axes
from pruners.importance.relevance import Relevance, reads_weight, relevance
from pruners.surgery.rewrite import GraphModel, Removal, rewrite
from pruners.tracing.batches import as_batch
from pruners.tracing.trace import trace
from tests.pruners.plain import prune


def graph_of(model: nn.Module, x: Tensor) -> GraphModel:
    return rewrite(Removal(tie_axes(trace(model.eval(), (x,))), {}))


def flow(model: nn.Module, x: Tensor, label: int, **rules: float) -> tuple[list[Tensor], Tensor]:
    """Relevance of each weighted layer's output and of the input, and the logit."""
    run = Relevance(graph_of(model, x), **rules)  # type: ignore[arg-type]
    x = x.clone().requires_grad_()
    values, result = [x], x
    for node, result in run.steps([x]):
        if reads_weight(node):
            values.append(result)
    logit = result[0][:, label].sum()
    gradients = torch.autograd.grad(logit, values)
    return [(value * gradient).detach() for value, gradient in zip(values, gradients, strict=True)], logit.detach()


def test_a_network_of_relus_without_biases_conserves_relevance() -> None:
    torch.manual_seed(0)
    sizes = [6, 8, 7, 4]
    layers = [[nn.Linear(a, b, bias=False), nn.ReLU()] for a, b in zip(sizes, sizes[1:], strict=False)]
    model = nn.Sequential(*[layer for pair in layers for layer in pair][:-1])
    relevances, logit = flow(model, torch.randn(5, 6), 2, epsilon=0.0)
    assert len(relevances) == 4
    for part in relevances:
        torch.testing.assert_close(part.sum(), logit)


class Mixed(nn.Module):
    """Convolutions, a norm without shift, a shortcut and two poolings, without biases."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.inner = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.head = nn.Linear(8, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = nn.functional.max_pool2d(x + self.inner(x).relu(), 2)
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("positive", [False, True])
def test_a_convolutional_network_conserves_relevance(positive: bool) -> None:
    torch.manual_seed(1)
    x = torch.randn(4, 3, 8, 8)
    relevances, logit = flow(Mixed(), x, 1, positive=positive, epsilon=0.0)
    x_part, stem, _, head = relevances
    for part in (x_part, stem, head):  # the inner layer is beside a shortcut, which takes its share
        torch.testing.assert_close(part.sum(), logit, rtol=1e-3, atol=1e-4)


def test_rules_leave_results_as_they_are_and_differ_in_relevance() -> None:
    torch.manual_seed(2)
    model, x = Mixed().eval(), torch.randn(4, 3, 8, 8)
    for positive in (False, True):
        *_, (_, outputs) = Relevance(graph_of(model, x), positive).steps([x])
        torch.testing.assert_close(outputs[0], model(x))
    plain, positive_only = (flow(model, x, 0, positive=p)[0] for p in (False, True))
    assert not torch.allclose(plain[0], positive_only[0], rtol=0.1)


def test_a_linear_network_gets_input_times_gradient() -> None:
    torch.manual_seed(3)
    model, x = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 3)), torch.randn(4, 5)
    (found, *_), _ = flow(model, x, 1, epsilon=0.0)
    slope = (model[1].weight @ model[0].weight)[1]
    torch.testing.assert_close(found, x * slope)


def test_epsilon_damps() -> None:
    torch.manual_seed(4)
    model, x = nn.Sequential(nn.Linear(5, 6, bias=False), nn.ReLU(), nn.Linear(6, 3, bias=False)), torch.randn(4, 5)
    sums = [float(flow(model, x, 1, epsilon=epsilon)[0][0].abs().sum()) for epsilon in (0.0, 0.1, 1.0)]
    assert sums[0] > sums[1] > sums[2] > 0


def test_gates_pass_relevance_whole() -> None:
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(5, 6, bias=False), nn.GELU(), nn.Linear(6, 3, bias=False))
    relevances, logit = flow(model, torch.randn(4, 5), 1, epsilon=0.0)
    for part in relevances:
        torch.testing.assert_close(part.sum(), logit)


def test_scores_of_a_channel_are_the_sum_of_absolute_relevance_of_samples() -> None:
    torch.manual_seed(6)
    model, x = Mixed().eval(), torch.randn(4, 3, 8, 8)
    graph = tie_axes(trace(model, (x,)))
    free = [group for group in dependency_groups(graph) if not group.protected]
    found = relevance(
        Removal(graph, {}), free, rewrite(Removal(graph, {})), [as_batch((x, torch.full((4,), 2)))], epsilon=0.0
    )
    (stem, inner) = found["stem.weight:0"]
    _, *layers = flow(model, x, 2, epsilon=0.0)[0]
    torch.testing.assert_close(stem, layers[0].sum((2, 3)).abs().sum(0))
    torch.testing.assert_close(inner, layers[1].sum((2, 3)).abs().sum(0))


@pytest.mark.parametrize("importance", ["lrp", "lrp_zplus"])
def test_channels_that_the_decision_does_not_rest_on_go_first(importance: str) -> None:
    """Large weights that nothing reads: magnitude would keep them."""
    torch.manual_seed(7)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()
    with torch.no_grad():
        model[0].weight[[1, 4, 6]] *= 100
        model[4].weight[:, [1, 4, 6]] = 0
    batches = [(torch.randn(6, 3, 8, 8), torch.arange(6) % 4)]
    plan = prune(model, batches[0][0], {"macs": 5.2 / 8}, importance=importance, batches=batches).plan
    assert list(plan.removed["0.weight:0"]) == [1, 4, 6]
