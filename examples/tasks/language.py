"""The next character of a text, from all before it; inputs are a dict, as of a Hugging Face model."""

from __future__ import annotations

import argparse
import inspect

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from examples.tasks import learn
from nas import tasks

BASELINE = 20.0
"""About the perplexity of knowing nothing but how often each character comes."""
LENGTH = 48
VOCABULARY = 128


class Text(Dataset[dict[str, Tensor]]):
    """Pieces of a program text as characters in ASCII."""

    def __init__(self) -> None:
        text = inspect.getsource(argparse).encode("ascii", "replace")
        self.pieces = (
            torch.tensor(list(text)).long().clamp(max=VOCABULARY - 1)[: len(text) // LENGTH * LENGTH].view(-1, LENGTH)
        )

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        piece = self.pieces[index]
        return {"input_ids": piece, "attention_mask": torch.ones_like(piece)}


class Model(nn.Module):
    """One causal attention over embedded characters."""

    def __init__(self, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.embed = nn.Embedding(VOCABULARY, width)
        self.place = nn.Embedding(LENGTH, width)
        self.attend = nn.Linear(width, 3 * width)
        self.after = nn.Linear(width, width)
        self.norm, self.last = nn.LayerNorm(width), nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> dict[str, Tensor]:
        x = self.embed(input_ids) + self.place.weight[: input_ids.shape[1]]
        queries, keys, values = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.attend(self.norm(x)).chunk(3, -1)
        )
        seen = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        x = x + self.after(seen.transpose(1, 2).flatten(-2))
        return {"logits": self.head(self.last(x))}


def make() -> tasks.Task:
    """Some 2,000 pieces of 48 characters."""
    return tasks.language_modelling(Text(), name="a program text")


def model() -> nn.Module:
    """A transformer of one layer without its feed-forward part."""
    return Model()


def trained() -> nn.Module:
    """The network after some epochs."""
    return learn(model(), make(), epochs=4, learning_rate=0.5, batch_size=32)
