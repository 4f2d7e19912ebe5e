"""Heads and dimensions of heads are choices of their own in a trained model's space: of queries with keys, of values with outputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pruners import PrunableSpace
from pruners.groups import Group
from tests.pruners.hugging_face import tiny
from tests.pruners.networks import build

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
HEADS, WIDTH = 4, 4


def encoder() -> tuple[nn.Module, Any, str]:
    """A small model of texts as MiniLM is one, of two layers."""
    model = tiny("BertModel", vocab_size=30, max_position_embeddings=16, **SIZES)
    inputs = {"input_ids": torch.randint(0, 30, (2, 6)), "attention_mask": torch.ones(2, 6, dtype=torch.long)}
    return model, inputs, "encoder.layer.{}.attention"


def images() -> tuple[nn.Module, Any, str]:
    """A small vision transformer, of two layers."""
    model = tiny("ViTModel", image_size=8, patch_size=4, num_channels=3, **SIZES)
    name = next(name for name, _ in model.named_modules() if name.endswith(".0.attention"))
    return model, {"pixel_values": torch.randn(2, 3, 8, 8)}, name.replace(".0.", ".{}.")


MODELS = {"encoder": encoder, "images": images}


def of_heads(space: PrunableSpace, inside: str) -> dict[str, list[Group]]:
    """Groups of a layer's attention: its heads, the dimensions that queries and keys share, and those of values and outputs."""
    found: dict[str, list[Group]] = {"heads": [], "scores": [], "values": []}
    for group in space.groups:
        tensors = {member.tensor for member in group.members if member.tensor.startswith(inside)}
        if not tensors or len(tensors) != len({member.tensor for member in group.members}):
            continue
        scored = any("query" in name or "q_proj" in name for name in tensors)
        put_out = any("value" in name or "v_proj" in name for name in tensors)
        kind = "heads" if group.host is None else "scores" if scored and not put_out else "values"
        found[kind].append(group)
    return found


@pytest.mark.parametrize("name", MODELS)
def test_heads_and_both_kinds_of_their_dimensions_can_be_chosen(name: str) -> None:
    model, inputs, inside = MODELS[name]()
    space = PrunableSpace(model, inputs, steps=4)
    choices = {choice.name: choice for choice in space.space.choices}
    for layer in range(2):
        found = of_heads(space, inside.format(layer))
        (heads,), (scores,), (values,) = found["heads"], found["scores"], found["values"]
        assert heads.size == HEADS and scores.shape == values.shape == (HEADS, WIDTH)
        assert scores.per == values.per == heads.name and {heads.name, scores.name, values.name} <= choices.keys()
        readers = {member.tensor.split(".")[-2] for member in scores.members}
        assert len(readers) == 2 and not readers & {member.tensor.split(".")[-2] for member in values.members}


@pytest.mark.parametrize("name", MODELS)
def test_each_of_them_is_cut_by_itself_proved_and_costed(name: str) -> None:
    model, inputs, inside = MODELS[name]()
    space = PrunableSpace(model, inputs, steps=4)
    found = of_heads(space, inside.format(0))
    wanted = {"heads": 3, "scores": 2, "values": 1}
    whole = space.costs(space.whole)
    for some in (["heads"], ["scores"], ["values"], list(wanted)):
        chosen = {found[kind][0].name: wanted[kind] for kind in some}
        arch = space.space.architecture({**space.whole, **chosen})
        result = space.build(arch, every_size=False)
        assert space.costs(arch) == result.summary.after and result.summary.after["macs"] < whole["macs"]
        assert {group: after for group, (_, after) in result.summary.groups.items()} == chosen
        for kind in set(some) - {"heads"}:
            rows = result.plan.removed[found[kind][0].name]
            assert len(rows) == HEADS and {len(row) for row in rows} == {WIDTH - wanted[kind]}  # type: ignore[arg-type]


def test_one_projection_of_all_three_loses_dimensions_alike() -> None:
    """Its rows are a reshape of (3, heads, width): to lose other dimensions of values than of queries would take another forward."""
    model, example = build("fused qkv")
    space = PrunableSpace(model, example, steps=4)
    heads, width = (group for group in space.groups if group.name.startswith("qkv.weight:0"))
    assert (heads.size, width.shape) == (4, (4, 8)) and width.per == heads.name
    arch = space.space.architecture({**space.whole, heads.name: 2, width.name: 4})
    assert space.build(arch).summary.after == space.costs(arch)
