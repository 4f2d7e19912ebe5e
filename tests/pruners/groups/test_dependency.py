"""What bounds the length of the inputs stays: rows that the example did not reach."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruners import groups
from tests.pruners.hugging_face import tiny, tokens
from tests.pruners.plain import prune

BOUNDS = "bounds the length of the inputs"


class Learned(nn.Module):
    """Positions are the first rows of a table."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.last = nn.Linear(4, 12), nn.Linear(12, 3)
        self.table = self.places()

    def places(self) -> Any:
        return nn.Parameter(torch.randn(1, 32, 12))

    def at(self, n: int) -> Tensor:
        return self.table[:, :n]

    def forward(self, x: Tensor) -> Tensor:
        return self.last((self.embed(x) + self.at(x.shape[1])).relu())


class Centred(Learned):
    """Of a transposed and scaled table, the rows in the middle."""

    def places(self) -> Any:
        return nn.Parameter(torch.randn(12, 32))

    def at(self, n: int) -> Tensor:
        return (self.table.t() * 0.5).unsqueeze(0)[:, 16 - n : 16]


class Counted(Learned):
    """Positions are looked up where an arange says."""

    def places(self) -> Any:
        return nn.Embedding(32, 12)

    def at(self, n: int) -> Tensor:
        return self.table(torch.arange(n))


class Named(Counted):
    """Positions are looked up where a buffer says."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("ids", torch.arange(32)[None])

    def at(self, n: int) -> Tensor:
        return self.table(self.ids[:, :n])


@pytest.mark.parametrize("make", [Learned, Centred, Counted, Named])
def test_positions_stay(make: type[Learned]) -> None:
    torch.manual_seed(0)
    model, x = make().eval(), torch.randn(2, 5, 4)
    rows = [g for g in groups(model, x) if g.name.startswith(("table", "ids")) and not g.name.endswith(":0[0]")]
    assert any(group.protected == BOUNDS and group.size > 12 for group in rows)
    result = prune(model, x, {"params": 0.5})
    assert set(result.plan.removed) <= {"embed.weight:0", "table:0", "table:2", "table.weight:1"}
    for length in (5, 16):
        assert result.model(torch.randn(2, length, 4)).shape == (2, length, 3)


def test_what_data_reaches_is_a_vocabulary_and_what_all_inputs_reach_may_go() -> None:
    class Both(nn.Module):
        """A table of tokens, of which the first rows are positions, too; weights of which a part is read twice."""

        def __init__(self) -> None:
            super().__init__()
            self.table, self.first, self.last = nn.Embedding(32, 8), nn.Linear(8, 12, bias=False), nn.Linear(24, 3)

        def forward(self, ids: Tensor) -> Tensor:
            x = self.table(ids) + self.table(torch.arange(ids.shape[1]))
            first, second = self.first.weight[:6], self.first.weight[6:]
            parts = [x @ first.t(), x @ second.t(), x @ self.first.weight.t()]
            return self.last(torch.cat(parts, -1))

    found = {group.name: group.protected for group in groups(Both(), torch.zeros(2, 5, dtype=torch.long))}
    assert found["table.weight:0"] == "vocabulary" and BOUNDS not in found.values()
    assert any(name.startswith("first.weight:0") and not protected for name, protected in found.items())


BERT = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
MODELS = {
    "BertModel": (
        {**BERT, "max_position_embeddings": 64},
        ("embeddings.position_embeddings.weight:0", "embeddings.position_ids:1[1]"),
        "embeddings.word_embeddings",
    ),
    "GPT2Model": (
        {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 64, "bos_token_id": 1, "eos_token_id": 2},
        ("wpe.weight:0",),
        "wte",
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_positions_of_language_models_stay(name: str) -> None:
    options, positions, words = MODELS[name]
    ids = {"input_ids": tokens(2, 6), **({"use_cache": False} if name == "GPT2Model" else {})}
    found = {group.name: group.protected for group in groups(tiny(name, vocab_size=96, **options), ids)}
    assert all(found[table] == BOUNDS for table in positions) and found[f"{words}.weight:0"] == "vocabulary"
