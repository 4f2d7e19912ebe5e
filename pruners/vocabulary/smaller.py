"""The verb: which tokens texts use, a model and a tokeniser without the others, and the proof that both work as before."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pruners.errors import whole_number
from pruners.untouched import untouched
from pruners.vocabulary.rows import Vocabulary, cut_rows, is_text_model, row_bytes, row_count, special_rows
from pruners.vocabulary.tokens import description, mended, needed_tokens, without_others
from search_spaces.core import first_line

PROVED = 16  # texts that both models run on
LENGTH = 64  # tokens of each
TOLERANCE = (
    1e-5  # largest relative difference, as a head of fewer rows may add up in another order; half precision: 1e-2
)
TOGETHER = 1000  # texts that are read at once


def smaller_vocabulary(
    model: nn.Module, tokenizer: Any, texts: Sequence[str], keep: Iterable[str | int] = (), min_count: int = 1
) -> tuple[nn.Module, Any, Vocabulary]:
    """Remove the tokens that texts never use, with their rows, and mend the tokeniser.

    What stays are the tokens that the texts use, special tokens, and those that any other text is put together from (single
    characters and bytes). A text of tokens that stay is read as before, but for their numbers, and the model says of it what it said
    before. Other texts are read in smaller pieces. Every call proves it: all of the texts are read by both tokenisers, and some are
    run through both models.

    Args:
        model: a Hugging Face text model, or a module with one inside; it is left untouched.
        tokenizer: its fast tokeniser (WordPiece, BPE, Unigram or WordLevel); it is left untouched.
        texts: what the model is for: the more, the fewer words are cut into pieces later.
        keep: further tokens that stay, as the tokeniser writes them (such as "##ing"), or by number.
        min_count: how often the texts must use a token for it to stay.

    Returns:
        The smaller model, the mended tokeniser, both copies, and what stayed.

    Raises:
        ValueError: something does not fit, or the proof fails.
    """
    _check_texts(texts)
    whole_number("min_count", min_count)
    described = description(tokenizer)
    reader = copy.deepcopy(tokenizer)  # reading changes what it says of padding and truncation
    rows, known = row_count(model), reader.get_vocab()
    if beyond := sorted(number for number in known.values() if number >= rows):
        raise ValueError(
            f"`tokenizer` must have tokens below the {rows:,} rows of the model's table, got {len(beyond)} beyond, such as "
            f"{reader.convert_ids_to_tokens(beyond[0])!r}, {beyond[0]}; `resize_token_embeddings` gives them rows"
        )
    read = _read(reader, texts)
    counts = Counter(number for tokens in read for number in tokens)
    used = {number for number, count in counts.items() if count >= min_count} | special_rows(model)
    named = {_number(token, known) for token in keep} | set(reader.all_special_ids)
    kept = sorted(needed_tokens(described, used | named))
    place = {old: new for new, old in enumerate(kept)}
    smaller, mend = cut_rows(model, kept), mended(tokenizer, without_others(described, kept))
    same = _prove_reading(
        mend, {token: number for token, number in known.items() if number in place}, texts, read, place
    )
    step = max(1, len(read) // PROVED)
    examples = [[number for number in tokens if number in place][:LENGTH] for tokens in read[::step][:PROVED]]
    size = row_bytes(model)
    vocabulary = Vocabulary(
        kept=kept,
        before=rows,
        unknown=place.get(reader.unk_token_id, 0),
        bytes_before=size,
        bytes_after=size // rows * len(kept),
        coverage=sum(counts[number] for number in kept) / max(counts.total(), 1),
        texts=len(texts),
        same=same,
        difference=_prove_model(model, smaller, [tokens for tokens in examples if tokens], kept),
    )
    return smaller, mend, vocabulary


def _check_texts(texts: Sequence[str]) -> None:
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        given = "one" if isinstance(texts, str) else "others"
        raise ValueError(f"`texts` must be a list of texts, got {given}; give each as a string")
    if not any(text.strip() for text in texts):
        raise ValueError(
            f"`texts` must be what the model will read, got {len(texts)} without a word; give a few thousand of yours"
        )


def _number(token: str | int, known: dict[str, int]) -> int:
    number = known.get(token) if isinstance(token, str) else token if token in known.values() else None
    if number is None:
        raise ValueError(f"`keep` must name tokens of the tokeniser, as it writes them, or numbers, got {token!r}")
    return number


def _read(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """The tokens of each text, with those around it, whole."""
    read: list[list[int]] = []
    for start in range(0, len(texts), TOGETHER):
        some = list(texts[start : start + TOGETHER])
        read += tokenizer(some, padding=False, truncation=False, verbose=False)["input_ids"]
    return read


def _prove_reading(
    tokenizer: Any, names: dict[str, int], texts: Sequence[str], before: Sequence[list[int]], place: dict[int, int]
) -> int:
    """Read all texts with the mended tokeniser; how many are of kept tokens only, and so are as they were.

    Raises:
        ValueError: one is not, or tokens have other numbers than their rows.
    """
    reader = copy.deepcopy(tokenizer)
    if reader.get_vocab() != {token: place[number] for token, number in names.items()}:
        raise ValueError(
            "`tokenizer` must number the tokens that stay in the order of its own numbers, got another one; a tokeniser with gaps "
            "between its numbers cannot lose tokens"
        )
    same = 0
    for text, old, new in zip(texts, before, _read(reader, texts), strict=True):
        if all(number in place for number in old):
            same += 1
            if [place[number] for number in old] != new:
                raise ValueError(
                    "the mended tokeniser must read texts of kept tokens as before, and does not, of a kind that is not known: "
                    f"{text[:80]!r}; leave the vocabulary as it is"
                )
    return same


def _prove_model(full: nn.Module, smaller: nn.Module, examples: Sequence[list[int]], kept: Sequence[int]) -> float:
    """Run both models; the largest difference of an output, relative to the largest number in it.

    Raises:
        ValueError: it is beyond what rounding explains, or nothing in the model can be run on tokens alone.
    """
    names = [name for name, part in full.named_modules() if is_text_model(part)]
    place = {old: new for new, old in enumerate(kept)}
    parts = (
        [dict(full.named_modules())[name] for name in names],
        [dict(smaller.named_modules())[name] for name in names],
    )
    said: Exception | None = None
    for before, after in zip(*parts, strict=True):
        try:
            outputs = _run(before, examples)
        except Exception as error:  # a model of texts and images wants images, what reads texts inside does not
            said = said or error
            continue
        cut = _run(after, [[place[token] for token in tokens] for tokens in examples])
        pairs = (pair for old, new in zip(outputs, cut, strict=True) for pair in zip(old, new, strict=True))
        difference = max((_difference(x, y, kept) for x, y in pairs), default=0.0)
        allowed = TOLERANCE if all(x.dtype.itemsize > 2 for old in outputs for x in old) else 1e-2
        if not difference <= allowed:
            raise ValueError(
                f"a smaller vocabulary must leave outputs as they are, to {allowed:.0e}, got {difference:.1e}; the model does more "
                "with the numbers of tokens than look them up"
            )
        return difference
    assert said is not None  # as there is a text model
    raise ValueError(
        f"`model` must run on tokens alone to prove its smaller vocabulary, got {first_line(said)}"
    ) from said


def _run(model: nn.Module, examples: Sequence[list[int]]) -> list[list[Tensor]]:
    """What a model says of each example."""
    found = []
    with untouched(model), torch.no_grad():
        for tokens in examples:
            ids = torch.tensor([tokens], device=model.get_input_embeddings().weight.device)  # type: ignore[operator]
            decoded = {"decoder_input_ids": ids} if getattr(model.config, "is_encoder_decoder", False) else {}
            outputs = tree_leaves(model(input_ids=ids, **decoded))
            found.append([x for x in outputs if isinstance(x, Tensor) and x.is_floating_point()])
    return found


def _difference(full: Tensor, smaller: Tensor, kept: Sequence[int]) -> float:
    """Of two outputs, in logits over the vocabulary of the rows that stay; infinite where one is not a number."""
    if full.shape != smaller.shape:
        full = full[..., list(kept)]
    if torch.equal(full, smaller):
        return 0.0
    difference = float((full - smaller).abs().max() / full.abs().max())
    return difference if math.isfinite(difference) else math.inf
