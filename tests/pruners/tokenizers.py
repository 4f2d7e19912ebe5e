"""Small tokenisers of every kind, trained in a moment on what Python says of itself."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import tokenizers as made
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

SPECIAL = ["<pad>", "<unk>", "<s>", "</s>", "<mask>"]
KINDS = (
    "WordPiece", "BPE", "BPE with an end of words", "BPE with continued words", "BPE that looks words up", "BPE with bytes",
    "Unigram", "Unigram with bytes", "WordLevel",
)  # fmt: skip


@cache
def corpus() -> tuple[str, ...]:
    """Some thousand words."""
    docs = [
        inspect.getdoc(getattr(kind, name)) for kind in (str, bytes, dict, list, set, int) for name in sorted(dir(kind))
    ]
    return tuple(sorted({line.strip() for doc in docs for line in (doc or "").splitlines() if line.strip()}))


@cache
def backend(kind: str, size: int = 400) -> made.Tokenizer:
    """A tokeniser of the library, with special tokens in front and a frame around texts; it is to be left as it is."""
    name, _, more = kind.partition(" ")
    options: dict[str, Any] = {"special_tokens": SPECIAL, "vocab_size": size, "show_progress": False}
    split: Any = pre_tokenizers.Whitespace()
    normalizer: Any = None
    decoder: Any = None
    frame: Any = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    spaced = pre_tokenizers.Metaspace()
    if name == "WordPiece":
        model, trainer = models.WordPiece(unk_token="<unk>"), trainers.WordPieceTrainer(**options)
        normalizer, split, decoder = (
            normalizers.BertNormalizer(),
            pre_tokenizers.BertPreTokenizer(),
            decoders.WordPiece(),
        )
        frame = processors.BertProcessing(("</s>", 3), ("<s>", 2))
    elif name == "WordLevel":
        model, trainer = models.WordLevel(unk_token="<unk>"), trainers.WordLevelTrainer(**options)
    elif name == "Unigram":
        model, trainer = models.Unigram(), trainers.UnigramTrainer(**options, unk_token="<unk>")
        split, decoder = spaced, decoders.Metaspace()
    elif more == "with an end of words":
        model = models.BPE(unk_token="<unk>", end_of_word_suffix="</w>")
        trainer, decoder = trainers.BpeTrainer(**options, end_of_word_suffix="</w>"), decoders.BPEDecoder()
    elif more == "with continued words":
        model = models.BPE(unk_token="<unk>", continuing_subword_prefix="##")
        trainer, decoder = trainers.BpeTrainer(**options, continuing_subword_prefix="##"), decoders.WordPiece()
    elif more == "with bytes":
        model, split = models.BPE(unk_token="<unk>", byte_fallback=True), spaced
        trainer = trainers.BpeTrainer(
            **{**options, "special_tokens": [*SPECIAL, *(f"<0x{i:02X}>" for i in range(256))], "vocab_size": 700}
        )
        decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    else:
        model, trainer = (
            models.BPE(ignore_merges=bool(more)),
            trainers.BpeTrainer(**options, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()),
        )
        split, decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        frame = processors.Sequence([processors.ByteLevel(trim_offsets=False), frame])
    found = made.Tokenizer(model)
    found.pre_tokenizer = split
    found.post_processor = frame
    if normalizer:
        found.normalizer = normalizer
    if decoder:
        found.decoder = decoder
    found.train_from_iterator(corpus(), trainer)
    return found if kind != "Unigram with bytes" else _with_bytes(found)


def _with_bytes(unigram: made.Tokenizer) -> made.Tokenizer:
    """The same with a token for each byte, as a trainer makes none."""
    import json

    described = json.loads(unigram.to_str())
    vocabulary = described["model"]["vocab"]
    lowest = min(score for _, score in vocabulary)
    described["model"]["vocab"] = [*vocabulary, *([f"<0x{i:02X}>", lowest - 1] for i in range(256))]
    described["model"]["byte_fallback"] = True
    return made.Tokenizer.from_str(json.dumps(described))


def tokenizer(kind: str, size: int = 400) -> Any:
    """The same for a model of transformers."""
    from transformers import PreTrainedTokenizerFast

    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "mask_token": "<mask>"}
    unknown = {} if kind in ("BPE", "BPE that looks words up") else {"unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend(kind, size), **names, **unknown)
