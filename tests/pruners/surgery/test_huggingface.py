"""Smaller models with a configuration: saved with `save_pretrained`, they come back from `from_pretrained` as they were."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruners import PrunableSpace, groups, load, load_pretrained
from tests.pruners.hugging_face import VOCABULARY, tiny, tokens
from tests.pruners.plain import prune
from tests.zoo import tensors


class Settings:
    """Stands in for a configuration of transformers."""

    def __init__(self, **entries: Any) -> None:
        self.__dict__.update(entries)

    def to_dict(self) -> dict[str, Any]:
        return dict(self.__dict__)

    @classmethod
    def from_dict(cls, entries: dict[str, Any]) -> Settings:
        return cls(**entries)

    def save_pretrained(self, folder: Path) -> None:
        (folder / "config.json").write_text(json.dumps(self.to_dict()))


class Block(nn.Module):
    def __init__(self, config: Settings) -> None:
        super().__init__()
        self.config = config
        self.up = nn.Linear(config.hidden_size, config.n_inner or 4 * config.hidden_size)
        self.down = nn.Linear(self.up.out_features, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(x)) * self.config.gain)


class Stack(nn.Module):
    def __init__(self, config: Settings) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.num_layers)])
        self.head = nn.Linear(config.hidden_size, 3)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def stack(**changes: Any) -> tuple[Stack, Tensor]:
    torch.manual_seed(0)
    entries = {"hidden_size": 10, "n_inner": 24, "num_layers": 2, "pad_token_id": 24, "gain": 0.5}
    return Stack(Settings(**{**entries, **changes})), torch.randn(5, 10)


def reloaded(model: Any, folder: Path) -> nn.Module:
    """What a model of this file or of transformers is after a round trip through a folder."""
    if hasattr(model, "save_pretrained"):
        model.save_pretrained(folder)
        return type(model).from_pretrained(folder).eval()
    model.config.save_pretrained(folder)
    again = type(model)(Settings(**json.loads((folder / "config.json").read_text())))
    again.load_state_dict(model.state_dict())
    return again.eval()


def assert_same(model: nn.Module, again: nn.Module, example: Tensor) -> None:
    with torch.no_grad():
        for x, y in zip(tensors(model(example)), tensors(again(example)), strict=True):
            assert torch.allclose(x, y, rtol=1e-4, atol=1e-4 * float(x.abs().max()))


@pytest.mark.parametrize("n_inner", [24, None])
def test_a_width_that_shrinks_alike_in_all_layers_goes_into_the_configuration(
    n_inner: int | None, tmp_path: Path
) -> None:
    model, example = stack(n_inner=n_inner)
    result = prune(model, example, {"params": 0.7}, allocation="uniform")
    config = result.model.config
    assert result.summary.form == "module" and result.summary.configuration is True
    assert config.n_inner == result.model.blocks[0].up.out_features < model.blocks[0].up.out_features
    assert config is not model.config and all(block.config is config for block in result.model.blocks)
    assert (model.config.n_inner, config.pad_token_id, config.hidden_size) == (n_inner, 24, 10)
    assert_same(result.model, reloaded(result.model, tmp_path), example)


def test_a_loaded_model_has_the_configuration_too(tmp_path: Path) -> None:
    model, example = stack()
    result = prune(model, example, {"params": 0.7}, allocation="uniform")
    result.save(tmp_path)
    assert load(tmp_path, stack()[0]).config.to_dict() == result.model.config.to_dict()


def test_layers_that_differ_leave_the_configuration_alone() -> None:
    model, example = stack()
    result = prune(model, example, {"params": 0.7}, allocation="uniform", ignore=["blocks.0"])
    assert result.summary.form == "module" and result.summary.configuration is False
    assert result.model.config.to_dict() == model.config.to_dict()


def test_shapes_that_agree_are_not_enough() -> None:
    class Scaled(Block):
        def __init__(self, config: Settings) -> None:
            super().__init__(config)
            self.scale = config.n_inner**-0.5

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x * self.scale)

    class ScaledStack(Stack):
        def __init__(self, config: Settings) -> None:
            super().__init__(config)
            self.blocks = nn.ModuleList([Scaled(config) for _ in range(2)])

    model = ScaledStack(stack()[0].config)
    result = prune(model, stack()[1], {"params": 0.7}, allocation="uniform")
    assert result.summary.form == "module" and result.summary.configuration is False
    assert result.model.config.n_inner == 24


def test_what_the_dictionary_refuses_is_not_taken() -> None:
    class Strict(Settings):
        @classmethod
        def from_dict(cls, entries: dict[str, Any]) -> Settings:
            if entries["n_inner"] != 24:
                raise ValueError("n_inner must be 24")
            return cls(**entries)

    model, example = stack()
    strict = Stack(Strict(**model.config.to_dict()))
    assert prune(strict, example, {"params": 0.7}, allocation="uniform").summary.configuration is False


def test_a_part_of_a_model_has_a_configuration_of_its_own() -> None:
    inner, example = stack()
    model = nn.Sequential(inner, nn.Linear(3, 2))
    before = copy.deepcopy(model.state_dict())
    result = prune(model, example, {"params": 0.7}, allocation="uniform", ignore=["0.head"])
    assert result.summary.configuration is True
    assert result.model[0].config.n_inner == result.model[0].blocks[1].up.out_features < 24
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_caller_s_random_numbers_are_untouched() -> None:
    model, example = stack()
    before = torch.get_rng_state()
    assert prune(model, example, {"params": 0.7}, allocation="uniform").summary.configuration
    assert torch.equal(before, torch.get_rng_state())


def test_models_without_and_graphs_of_models_with_one() -> None:
    model, example = stack()
    plain = nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 2))
    assert prune(plain, example, {"params": 0.7}).summary.configuration is None
    space = PrunableSpace(model, example)
    assert space.build(space.whole).summary.configuration is True


def heads(model: nn.Module, example: Tensor) -> Iterator[str]:
    """Names of the groups of whole heads, of which there are four."""
    for group in groups(model, example):
        if group.name.endswith("[0]") and group.size == 4:
            yield group.name


CASES = {
    "LlamaForCausalLM": {
        "max_position_embeddings": 64,
        "vocab_size": VOCABULARY,
        "use_cache": False,
        "num_key_value_heads": 4,
    },
    "BertModel": {"max_position_embeddings": 64, "vocab_size": VOCABULARY},
    "GPT2LMHeadModel": {
        "n_positions": 64,
        "vocab_size": VOCABULARY,
        "use_cache": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "ViTForImageClassification": {"image_size": 28, "patch_size": 7},
}


def hugging_face(name: str, **changes: int) -> tuple[Any, Tensor]:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    if not name.startswith("GPT2"):
        sizes["intermediate_size"] = 48
    example = torch.randn(2, 3, 28, 28) if name.startswith("ViT") else tokens(2, 9)
    return tiny(name, **{**sizes, **CASES[name], **changes}), example


def only(model: nn.Module, example: Tensor, *kept: str) -> list[str]:
    """Names to ignore so that only groups with one of some words in their name, or of these names, are pruned."""
    free = [group.name for group in groups(model, example) if not group.protected]
    return [name for name in free if not any(word in name for word in kept)]


@pytest.mark.parametrize("name", CASES)
def test_feed_forward_widths_of_transformers(name: str, tmp_path: Path) -> None:
    model, example = hugging_face(name)
    ignore = only(model, example, "mlp", "intermediate")
    result = prune(model, example, {"params": 0.9}, allocation="uniform", ignore=ignore)
    assert result.summary.form == "module" and result.summary.configuration is True
    assert_same(result.model, reloaded(result.model, tmp_path), example)
    assert sum(p.numel() for p in reloaded(result.model, tmp_path).parameters()) < model.num_parameters()


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "ViTForImageClassification"])
def test_whole_heads_of_transformers(name: str, tmp_path: Path) -> None:
    model, example = hugging_face(name)
    ignore = only(model, example, "mlp", *heads(model, example))
    result = prune(model, example, {"params": 0.75}, allocation="uniform", ignore=ignore, round_to=2)
    assert result.summary.form == "module" and result.summary.configuration is True
    assert result.model.config.num_attention_heads == 2 and result.model.config.head_dim == 8
    assert_same(result.model, reloaded(result.model, tmp_path), example)


@pytest.mark.parametrize("name", ["BertModel", "GPT2LMHeadModel"])
def test_heads_that_the_configuration_ties_to_the_hidden_size(name: str, tmp_path: Path) -> None:
    model, example = hugging_face(name)
    ignore = only(model, example, *heads(model, example))
    result = prune(model, example, {"params": 0.97}, allocation="uniform", ignore=ignore)
    assert result.summary.configuration is False
    if result.summary.form == "module":
        result.model.save_pretrained(tmp_path)
        assert_same(result.model, load_pretrained(tmp_path), example)


def test_a_number_of_heads_that_the_configuration_refuses() -> None:
    model, example = hugging_face("LlamaForCausalLM")
    ignore = only(model, example, *heads(model, example))
    result = prune(model, example, {"params": 0.95}, allocation="uniform", ignore=ignore)
    assert result.model.config.num_attention_heads == 4  # 3 do not divide the hidden size, which its dictionary refuses
    assert result.summary.form == "module" and result.summary.configuration is False


def test_a_smaller_head_has_another_scale(tmp_path: Path) -> None:
    model, example = hugging_face("LlamaForCausalLM", intermediate_size=40)
    ignore = only(model, example, "q_proj.weight:0[1]", "v_proj.weight:0[1]")
    result = prune(model, example, {"params": 0.95}, allocation="uniform", ignore=ignore)
    assert result.summary.form == "module" and result.summary.configuration is False
    result.model.save_pretrained(tmp_path)  # whose configuration knows no frequencies of positions
    assert_same(result.model, load_pretrained(tmp_path), example)


def test_all_of_a_model_at_once(tmp_path: Path) -> None:
    model, example = hugging_face("GPT2LMHeadModel")
    result = prune(model, example, {"params": 0.6}, allocation="uniform")
    assert result.summary.configuration is True and result.model.config.n_embd < 32 and result.plan.folded
    assert_same(result.model, reloaded(result.model, tmp_path), example)


def test_layers_that_differ_are_told_apart_by_the_configuration(tmp_path: Path) -> None:
    model, example = hugging_face("LlamaForCausalLM", intermediate_size=40)
    ignore = only(model, example, "layers.1.mlp")
    result = prune(model, example, {"params": 0.95}, ignore=ignore)
    assert result.summary.form == "module" and result.summary.configuration is False
    result.model.save_pretrained(tmp_path)
    width = result.model.model.layers[1].mlp.gate_proj.out_features
    assert json.loads((tmp_path / "config.json").read_text())["per_layer_config"] == {"1": {"intermediate_size": width}}
    assert_same(result.model, load_pretrained(tmp_path), example)


def test_grouped_queries_of_transformers(tmp_path: Path) -> None:
    model, example = hugging_face("LlamaForCausalLM", num_key_value_heads=2)
    ignore = only(model, example, "q_proj.weight:0[0]")
    result = prune(model, example, {"params": 0.9}, allocation="uniform", ignore=ignore)
    config = result.model.config
    assert result.summary.form == "module" and result.summary.configuration is True
    assert (config.num_key_value_heads, config.num_attention_heads, config.num_hidden_layers) == (1, 2, 2)
    assert_same(result.model, reloaded(result.model, tmp_path), example)


def test_a_smaller_hidden_size_of_transformers(tmp_path: Path) -> None:
    model, example = hugging_face("LlamaForCausalLM")
    model.set_attn_implementation("eager")
    ignore = only(model, example, "embed_tokens", "mlp")
    result = prune(model, example, {"params": 0.7}, allocation="uniform", ignore=ignore, round_to=4)
    assert result.summary.form == "module" and result.summary.configuration is True
    assert result.model.config.hidden_size == result.model.lm_head.in_features < 32
    parts = [part for part in result.model.modules() if "config" in part.__dict__]
    assert len(parts) == 7 and all(part.config is result.model.config for part in parts)
    assert result.model.config._attn_implementation == "eager"
    assert_same(result.model, reloaded(result.model, tmp_path), example)
