"""Families of transformers that compute otherwise than others: removing equals masking in each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tests.pruners.hugging_face import language, tiny, tokens
from tests.pruners.plain import prune

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
ROUTED = {**SIZES, "num_hidden_layers": 1, "num_key_value_heads": 2, "num_experts_per_tok": 2, "pad_token_id": 0}
LATENT = {
    "num_hidden_layers": 2, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8,
    "n_routed_experts": 4, "n_group": 1, "topk_group": 1,
    "first_k_dense_replace": 1, "n_shared_experts": 1, "moe_intermediate_size": 24,
}  # fmt: skip
HEADS = {"hidden_size": 32, "n_layer": 2, "n_head": 4}
IMAGES = {"image_size": 32, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 4], "window_size": 4}
MAMBA = {"hidden_size": 32, "num_hidden_layers": 1}

MODELS: dict[str, Callable[[], nn.Module]] = {
    "routed experts": lambda: language("MixtralForCausalLM", num_local_experts=4, **ROUTED),
    "stacked experts and sinks": lambda: language("GptOssForCausalLM", num_local_experts=4, head_dim=8, **ROUTED),
    "shared experts": lambda: language("Qwen2MoeForCausalLM", num_experts=4, moe_intermediate_size=24, **ROUTED),
    "latent attention": lambda: language("DeepseekV3ForCausalLM", **{**ROUTED, "num_key_value_heads": 4, **LATENT}),
    "one key for all heads": lambda: language("FalconForCausalLM", **{k: SIZES[k] for k in SIZES if k[0] != "i"}),
    "slopes of distance": lambda: language("BloomForCausalLM", **HEADS),
    "relative positions": lambda: tiny("T5EncoderModel", vocab_size=96, num_layers=2, d_model=32, num_heads=4, d_kv=8, d_ff=48),
    "disentangled attention": lambda: tiny("DebertaV2Model", vocab_size=96, **SIZES),
    "state spaces": lambda: language("MambaForCausalLM", **MAMBA),
    "state spaces with heads": lambda: language("Mamba2ForCausalLM", num_heads=8, head_dim=8, n_groups=2, **MAMBA),
    "receptance": lambda: language("RwkvForCausalLM", attention_hidden_size=32, hidden_size=32, num_hidden_layers=2),
    "sound": lambda: tiny("Wav2Vec2Model", conv_dim=[16] * 7, num_conv_pos_embeddings=16, **SIZES),
    "windows": lambda: tiny("Swinv2Model", **IMAGES),
    "convolutions": lambda: tiny("ConvNextV2ForImageClassification", hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1]),
}  # fmt: skip
INPUTS: dict[str, tuple[int, ...]] = {"sound": (1, 2000), "windows": (1, 3, 32, 32), "convolutions": (1, 3, 32, 32)}


def example(name: str) -> Any:
    return torch.randn(*INPUTS[name]) if name in INPUTS else tokens(1, 9)


@pytest.mark.parametrize("name", MODELS)
def test_half_of_the_macs(name: str) -> None:
    summary = prune(MODELS[name](), example(name), {"macs": 0.5}).summary
    assert summary.after["macs"] <= 0.5 * summary.before["macs"] and summary.groups
    assert summary.difference is not None and summary.difference_inside is not None
    assert max(summary.difference, summary.difference_inside) < 1e-4
