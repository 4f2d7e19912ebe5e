"""Whatever reads what was cut comes closer to the full model, on examples that the repair never saw."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruners import least_squares_
from pruners.repair.followers import followers
from pruners.repair.readers import reader
from tests.pruners.hugging_face import language, tiny, tokens
from tests.pruners.plain import prune
from tests.pruners.repair.test_least_squares import apart
from tests.pruners.repair.test_readers import graph_of

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}


def around(middle: nn.Module, space: int) -> nn.Module:
    """A layer between two others."""
    kind = CONVOLUTIONS[space - 1]
    return nn.Sequential(kind(2, 16, 3, padding=1), nn.Tanh(), middle, nn.Tanh(), kind(16, 4, 1))


class Block(nn.Module):
    """Attention and a gated feed-forward part with norms before them, as language models have them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.first, self.second = nn.Linear(4, 16), nn.RMSNorm(16), nn.RMSNorm(16)
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16, bias=False) for _ in range(4))
        self.gate, self.up, self.down = nn.Linear(16, 32), nn.Linear(16, 32), nn.Linear(32, 16)
        self.drop, self.last, self.head = nn.Dropout(), nn.LayerNorm(16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y = self.first(x)
        q, k, v = (layer(y).unflatten(-1, (4, 4)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        x = x + self.drop(self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)))
        y = self.second(x)
        x = x + self.drop(self.down(F.silu(self.gate(y)) * self.up(y)))
        return self.head(self.last(x))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (
        lambda: nn.Sequential(nn.Linear(4, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 3)),
        (4,),
    ),
    "convolution 1": (lambda: around(nn.Conv1d(16, 16, 3, padding=1), 1), (2, 12)),
    "convolution 2": (lambda: around(nn.Conv2d(16, 16, 3, padding=1), 2), (2, 6, 6)),
    "convolution 3": (lambda: around(nn.Conv3d(16, 16, 3, padding=1), 3), (2, 4, 4, 4)),
    "groups": (lambda: around(nn.Conv2d(16, 16, 3, padding=1, groups=4), 2), (2, 6, 6)),
    "depthwise": (lambda: around(nn.Conv1d(16, 16, 3, padding=1, groups=16), 1), (2, 12)),
    "transposed 1": (lambda: around(nn.ConvTranspose1d(16, 16, 3, 2, 1), 1), (2, 12)),
    "transposed 2": (lambda: around(nn.ConvTranspose2d(16, 16, 3, 2, 1, groups=4), 2), (2, 6, 6)),
    "transposed 3": (lambda: around(nn.ConvTranspose3d(16, 16, 2, 2), 3), (2, 3, 3, 3)),
    "block": (Block, (6, 4)),
}


def examples(shape: tuple[int, ...], samples: int, seed: int) -> Tensor:
    return torch.randn(samples, *shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_reader_comes_closer(name: str) -> None:
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    model = make().eval()
    result = prune(model, examples(shape, 2, 0), {"params": 0.6}, importance="random")
    repaired = copy.deepcopy(result.model)
    found = least_squares_(repaired, model, result.plan, list(examples(shape, 200, 1).split(50)))
    fresh = [examples(shape, 100, 2)]
    assert found.solved and not found.left_out
    assert apart(repaired, model, fresh) < 0.8 * apart(result.model, model, fresh)


@pytest.mark.parametrize("samples", [1, 2, 3, 8])
@pytest.mark.parametrize("name", ["linear", "convolution 2", "groups", "block"])
def test_a_few_examples_do_no_harm(name: str, samples: int) -> None:
    make, shape = NETWORKS[name]
    for seed in range(3):
        torch.manual_seed(seed)
        model = make().eval()
        result = prune(model, examples(shape, 2, 0), {"params": 0.6}, importance="random", seed=seed)
        repaired = copy.deepcopy(result.model)
        least_squares_(repaired, model, result.plan, [examples(shape, samples, seed)])
        fresh = [examples(shape, 200, 100)]
        assert apart(repaired, model, fresh) < 1.1 * apart(result.model, model, fresh)


def test_few_examples_are_said() -> None:
    torch.manual_seed(0)
    model = NETWORKS["linear"][0]().eval()
    result = prune(model, examples((4,), 2, 0), {"params": 0.6})
    found = [
        least_squares_(copy.deepcopy(result.model), model, result.plan, [examples((4,), samples, 1)])
        for samples in (8, 2000)
    ]
    assert [repaired.more_examples for repaired in found] == [True, False]


class Tied(nn.Module):
    """A classifier that shares its weights with the table of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.inner, self.outer = nn.Embedding(11, 8), nn.Linear(8, 24), nn.Linear(24, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        return self.head(x + self.outer(self.inner(x).tanh()))


def test_a_tied_head_stays_tied_and_is_named() -> None:
    torch.manual_seed(0)
    model = Tied().eval()
    data = torch.randint(0, 11, (100, 5))
    result = prune(model, data[:2], {"params": 0.6}, ignore=["embed"], importance="random")
    before = result.model.embed.weight.clone()
    repaired = least_squares_(result.model, model, result.plan, [data])
    assert repaired.solved and repaired.left_out == ("head (its weights are shared)",)
    assert result.model.head.weight is result.model.embed.weight and torch.equal(before, result.model.embed.weight)


@pytest.mark.parametrize(
    ("make", "layers"),
    [
        (lambda: tiny("BertModel", vocab_size=96, **SIZES), {"attention.output.dense", "output.dense"}),
        (
            lambda: language("LlamaForCausalLM", num_key_value_heads=2, **SIZES),
            {"self_attn.o_proj", "mlp.down_proj"},
        ),
    ],
    ids=["bert", "llama"],
)
def test_the_aim_in_a_language_model_is_the_hidden_state(make: Callable[[], nn.Module], layers: set[str]) -> None:
    graph = graph_of(make(), tokens(2, 9))
    summed = {found.name for n in graph.graph.nodes if (found := reader(n)) and followers(n).addition is not None}
    assert layers <= {name.partition("layers.0." if "layers.0." in name else "layer.0.")[2] for name in summed}
