"""Recurrent layers taken apart, and repaired."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from pruners import least_squares_
from pruners.repair.recurrent import directions, earlier, hidden
from tests.pruners.plain import prune
from tests.pruners.repair.test_least_squares import apart
from tests.pruners.repair.test_readers import graph_of

KINDS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
SETTINGS = [
    {"batch_first": True},
    {"num_layers": 2, "bidirectional": True},
    {"bidirectional": True, "bias": False, "batch_first": True},
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_directions_one_by_one_are_the_layer(kind: str, settings: dict[str, bool]) -> None:
    torch.manual_seed(0)
    layer, x = KINDS[kind](3, 5, **settings), torch.randn(2, 4, 3)
    graph = graph_of(layer, x)
    node = next(node for node in graph.graph.nodes if "input" in str(node.target) and node.op == "call_function")
    whole = layer(x)[0]
    states = 2 * settings.get("num_layers", 1) if settings.get("bidirectional") else 1
    first = torch.zeros(states, x.shape[0] if settings.get("batch_first") else x.shape[1], 5)
    a = {
        "hx": [first, first] if kind == "lstm" else first,
        "params": layer._flat_weights,
        "has_biases": layer.bias,
        "num_layers": layer.num_layers,
        "bidirectional": layer.bidirectional,
    }
    y = x if layer.batch_first else x.transpose(0, 1)
    for ways in directions(a):
        found = [hidden(node, a, one, y) for one in ways]
        for one, h in zip(ways, found, strict=True):
            before, steps = earlier(a, one, h), range(h.shape[1])
            for step in steps:
                last = step + 1 if one.backward else step - 1
                assert torch.equal(before[:, step], h[:, last] if last in steps else torch.zeros(h.shape[0], 5))
        y = torch.cat(found, -1)
    torch.testing.assert_close(y if layer.batch_first else y.transpose(0, 1), whole)


class Reading(nn.Module):
    """A recurrent layer between two linear ones."""

    def __init__(self, kind: type[nn.RNNBase], **settings: bool) -> None:
        super().__init__()
        self.embed, self.layer = nn.Linear(4, 12), kind(12, 16, batch_first=True, **settings)
        self.head = nn.Linear(32 if settings.get("bidirectional") else 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(x).tanh())[0])


def sequences(samples: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(samples, 7, 4, generator=generator)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_gates_are_repaired(kind: str, bidirectional: bool) -> None:
    """With what reads the layer as it was cut, the layer's own repair brings outputs closer on examples never seen."""
    torch.manual_seed(0)
    model = Reading(KINDS[kind], bidirectional=bidirectional).eval()
    result = prune(model, sequences(2, 0), {"params": 0.5}, importance="random")
    repaired = copy.deepcopy(result.model)
    assert least_squares_(repaired, model, result.plan, [sequences(200, 1)]).solved >= 2
    fresh = [sequences(100, 2)]
    assert apart(repaired, model, fresh) < 0.7 * apart(result.model, model, fresh)
    gates = copy.deepcopy(result.model)
    gates.layer.load_state_dict(repaired.layer.state_dict())
    assert apart(gates, model, fresh) < apart(result.model, model, fresh)
