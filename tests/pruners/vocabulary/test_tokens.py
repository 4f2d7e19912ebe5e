"""Texts of kept tokens are read as before, all others are read in pieces."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruners.vocabulary.tokens import description, mended, needed_tokens, without_others
from tests.pruners.tokenizers import KINDS, SPECIAL, corpus, tokenizer

WORDS = sorted({word for line in corpus() for word in line.split()})


def smaller(full: Any, texts: list[str]) -> tuple[Any, list[int]]:
    described = description(full)
    used = {number for text in texts for number in full(text)["input_ids"]}
    kept = sorted(needed_tokens(described, used))
    return mended(full, without_others(described, kept)), kept


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_texts_of_kept_tokens_are_read_as_before_and_others_in_pieces(kind: str, data: st.DataObject) -> None:
    full = tokenizer(kind)
    words = st.sampled_from(WORDS)
    texts = data.draw(st.lists(st.lists(words, min_size=1, max_size=6).map(" ".join), min_size=1, max_size=6))
    less, kept = smaller(full, texts)
    place = {old: new for new, old in enumerate(kept)}
    assert less.get_vocab() == {token: place[number] for token, number in full.get_vocab().items() if number in place}
    used = [word for text in texts for word in text.split()]
    pieces = [less.decode([number]) for number in range(len(kept))]
    others = st.one_of(
        st.lists(st.sampled_from(used)).map(" ".join), st.lists(st.sampled_from(pieces)).map("".join), st.text()
    )
    seen = 0
    for text in (*texts, *data.draw(st.lists(others, min_size=1, max_size=12))):
        before, after = full(text)["input_ids"], less(text)["input_ids"]
        if all(number in place for number in before):
            assert after == [place[number] for number in before]
            seen += 1
        elif kind != "WordLevel" and full.unk_token_id not in before:
            assert less.unk_token_id not in after
            assert less.decode(after) == full.decode(before)
    assert seen >= len(texts)


@pytest.mark.parametrize("kind", KINDS)
def test_most_tokens_go_and_special_ones_stay(kind: str) -> None:
    full = tokenizer(kind)
    texts = ["Return a copy of the string"]
    less, kept = smaller(full, texts)
    assert [less.convert_tokens_to_ids(token) for token in SPECIAL] == list(range(5))
    assert less.decode(less(texts[0])["input_ids"]) == full.decode(full(texts[0])["input_ids"])
    words = {
        number
        for number, token in enumerate(full.convert_ids_to_tokens(range(len(full))))
        if token.isalpha() and len(token) > 2
    }
    assert len(words & set(kept)) < 0.5 * len(words)


@pytest.mark.parametrize("kind", KINDS)
def test_a_mended_tokeniser_is_saved_and_loaded(kind: str, tmp_path: Any) -> None:
    from transformers import AutoTokenizer

    full = tokenizer(kind)
    less, kept = smaller(full, list(corpus()[:20]))
    less.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.get_vocab() == less.get_vocab() and len(again) == len(kept) < len(full)
    texts = [*corpus()[:30], "Grüße, 世界"]
    assert again(texts)["input_ids"] == less(texts)["input_ids"]


def test_numbers_around_texts_and_in_padding_are_new() -> None:
    full = copy.deepcopy(tokenizer("WordPiece"))
    full.add_special_tokens({"additional_special_tokens": ["<extra>"]})
    full.add_tokens(["neverused", "stays"])
    extra = full.convert_tokens_to_ids("<extra>")
    full.backend_tokenizer.enable_padding(pad_id=extra, pad_token="<extra>", length=12)
    described = description(full)
    kept = sorted(needed_tokens(described, [full.convert_tokens_to_ids("stays")]))
    less = without_others(described, kept)
    assert less["padding"]["pad_id"] == len(kept) - 2 == kept.index(extra) < extra
    assert [token["content"] for token in less["added_tokens"]] == [*SPECIAL, "<extra>", "stays"]
    assert less["post_processor"] == {"type": "BertProcessing", "sep": ["</s>", 3], "cls": ["<s>", 2]}
    assert less["decoder"] == described["decoder"] and json.dumps(described) == json.dumps(description(full))
    assert mended(full, less)("stays")["input_ids"] == [2, len(kept) - 1, 3]


def test_what_a_template_puts_around_texts_stays_and_has_new_numbers() -> None:
    described = description(tokenizer("Unigram"))
    last = len(described["model"]["vocab"]) - 1
    described["post_processor"]["special_tokens"]["</s>"] = {"id": "</s>", "ids": [last], "tokens": ["x"]}
    kept = sorted(needed_tokens(described, []))
    assert kept[-1] == last > len(kept)
    assert without_others(described, kept)["post_processor"]["special_tokens"]["</s>"]["ids"] == [len(kept) - 1]


def test_the_lowest_score_stays_as_unknown_characters_hang_on_it() -> None:
    described = description(tokenizer("Unigram"))
    described["model"]["vocab"][-1][1] = -99.0
    assert len(described["model"]["vocab"]) - 1 in needed_tokens(described, [])


def test_slow_tokenisers_and_unknown_kinds_are_refused() -> None:
    with pytest.raises(
        ValueError, match="`tokenizer` must be a fast Hugging Face tokeniser.*got object; load it with AutoTokenizer"
    ):
        description(object())


@pytest.mark.parametrize("kind", ["WordPiece", "WordLevel", "Unigram"])
def test_a_tokeniser_that_cannot_read_unknown_words_is_refused(kind: str) -> None:
    described = description(tokenizer(kind))
    described["model"].update({"unk_id": None} if kind == "Unigram" else {"unk_token": "nowhere"})
    with pytest.raises(
        ValueError, match=f"must have a token for unknown words, as a {kind} cannot read others without"
    ):
        needed_tokens(described, [])
