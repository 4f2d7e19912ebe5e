"""Inputs by keyword, masks of integers, outputs in dicts and dataclasses with nothing in some places, dropout in training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pruners import load, prune
from pruners.groups.dependency import tie_axes
from pruners.surgery.rewrite import Removal, rewrite
from pruners.tracing.trace import trace


@dataclass
class Output:
    """What a language model returns."""

    logits: Tensor
    hidden: tuple[Tensor, ...] | None = None
    loss: Tensor | None = None


pytree.register_dataclass(Output)


class Masked(nn.Module):
    """Attention over tokens that a mask of integers leaves in, with dropout; options are collected in keyword arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 12)
        self.qkv, self.out = nn.Linear(12, 3 * 12), nn.Linear(12, 12)
        self.inner, self.outer = nn.Linear(12, 20), nn.Linear(20, 12)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(12, 7)

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None, **options: Any) -> Any:
        x = self.embed(tokens)
        q, k, v = self.qkv(x).view(*tokens.shape, 3, 3, 4).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) / 2
        if attention_mask is not None:
            scores = scores.masked_fill(attention_mask[:, None, None] == 0, float("-inf"))
        y = (self.dropout(scores.softmax(-1)) @ v).transpose(1, 2).flatten(2)
        x = x + self.out(y)
        x = x + self.outer(self.dropout(self.inner(x).relu()))
        hidden = (x,) if options.get("output_hidden") else None
        if options.get("as_dict"):
            return {"logits": self.head(x), "hidden": hidden, "loss": None}
        return Output(self.head(x), hidden)


def inputs(batch: int) -> dict[str, Any]:
    tokens = torch.randint(0, 11, (batch, 6))
    mask = torch.ones_like(tokens)
    mask[:, 4:] = 0
    return {"tokens": tokens, "attention_mask": mask}


def sizes(outputs: Any) -> Any:
    return pytree.tree_map_only(Tensor, lambda x: tuple(x.shape), outputs)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("options", [{}, {"as_dict": True}, {"output_hidden": True, "as_dict": False}])
def test_outputs_keep_their_kind(batch: int, options: dict[str, bool], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Masked().eval()
    example = {**inputs(batch), **options}
    result = prune(model, example, {"macs": 0.9})
    result.save(tmp_path)
    for smaller in (result.model, load(tmp_path, Masked())):
        for more in (example, {**inputs(3), **options}):
            full, found = model(**more), smaller(**more)
            assert type(found) is type(full)
            assert sizes(found) == sizes(full)


def test_a_graph_drops_out_in_training() -> None:
    torch.manual_seed(0)
    model = Masked().eval()
    graph = rewrite(Removal(tie_axes(trace(model, (), inputs(2))), {}))
    x = inputs(4)
    still = graph(**x).logits
    assert torch.equal(still, graph(**x).logits)
    training = graph.train()
    assert not torch.equal(training(**x).logits, training(**x).logits)
    assert torch.equal(still, training.eval()(**x).logits)


def test_the_forward_of_the_given_model_is_left_alone() -> None:
    model = Masked()
    prune(model, {**inputs(2), "as_dict": True}, {"macs": 0.8})
    assert "forward" not in vars(model)
