"""The tokens of a fast tokeniser: which must stay so that the others can go, and its JSON without those.

Why texts of kept tokens are read as before, by the kind of model:
    WordLevel: every word is looked up alone.
    WordPiece: the longest piece that fits is taken; one that was the longest of all is the longest of those that stay.
    BPE: of the merges that apply, the one of the lowest rank is made. All that a text was merged by stay, with the tokens in between,
        and none is added: at each step the lowest of all is the lowest of those that stay.
    Unigram: the segmentation of the highest score is taken; the best of all is the best of those that stay. The score of an unknown
        character hangs on the lowest one of the vocabulary, which stays, too.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

Change = Callable[[int], int]
KINDS = ("WordPiece", "BPE", "Unigram", "WordLevel")
BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def description(tokenizer: Any) -> dict[str, Any]:
    """What a fast tokeniser writes of itself.

    Raises:
        ValueError: it is not a fast one, or of an unknown kind.
    """
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if not callable(getattr(backend, "to_str", None)):
        raise ValueError(
            f"`tokenizer` must be a fast Hugging Face tokeniser, one with a tokenizer.json, got {type(tokenizer).__name__}; "
            "load it with AutoTokenizer, or convert it"
        )
    described: dict[str, Any] = json.loads(backend.to_str())
    kind = described["model"].get("type")
    if kind not in KINDS:
        raise ValueError(f"`tokenizer` must be one of {', '.join(KINDS)}, got {kind}; leave its vocabulary as it is")
    return described


def needed_tokens(described: Mapping[str, Any], used: Iterable[int]) -> set[int]:
    """The tokens that must stay, by number, so that texts of those used are read as before, and all other texts are read at all.

    Those are special tokens and those that are put around texts, the alphabet (single characters and bytes, from which any other
    text is put together), what a kind of model needs beside (see above), and those used.

    Args:
        described: by `description`.
        used: that must stay whatever they are.

    Raises:
        ValueError: unknown words have no token.
    """
    model = described["model"]
    numbers = own_numbers(model)
    needed = {*used, *(token["id"] for token in described["added_tokens"] if token["special"])}

    def note(number: int) -> int:
        needed.add(number)
        return number

    _renumbered(described["post_processor"], note)
    if described["padding"]:
        note(described["padding"]["pad_id"])
    needed.update(numbers[token] for token in _alphabet(model, numbers))
    needed.update(_unknown(model, numbers))
    if model["type"] == "Unigram":
        needed.add(min(range(len(model["vocab"])), key=lambda number: model["vocab"][number][1]))
    if model["type"] == "BPE":
        ranks = _ranks(model)
        names = {number: token for token, number in numbers.items()}
        ways = (_passed_through(names[number], ranks, model) for number in needed.copy() if number in names)
        needed.update(numbers[token] for way in ways for token in way if token in numbers)
    return needed


def without_others(described: Mapping[str, Any], kept: Sequence[int]) -> dict[str, Any]:
    """A tokeniser that knows some tokens only, numbered by their place among those kept.

    Args:
        described: by `description`; it is left as it is.
        kept: numbers of tokens, ascending, with all that `needed_tokens` says.
    """
    place = {old: new for new, old in enumerate(kept)}
    change = place.__getitem__
    model = dict(described["model"])
    numbers = {token: number for token, number in own_numbers(model).items() if number in place}
    if model["type"] == "Unigram":
        model["vocab"] = [entry for number, entry in enumerate(model["vocab"]) if number in place]
        model["unk_id"] = None if model["unk_id"] is None else change(model["unk_id"])
    else:
        model["vocab"] = {token: change(number) for token, number in sorted(numbers.items(), key=lambda item: item[1])}
    if model["type"] == "BPE":
        model["merges"] = [[a, b] for a, b in model["merges"] if {a, b, _joined(a, b, model)} <= numbers.keys()]
    padding = described["padding"]
    return {
        **described,
        "model": model,
        "added_tokens": [{**t, "id": change(t["id"])} for t in described["added_tokens"] if t["id"] in place],
        "post_processor": _renumbered(described["post_processor"], change),
        "padding": padding and {**padding, "pad_id": change(padding["pad_id"])},
    }


def mended(tokenizer: Any, described: Mapping[str, Any]) -> Any:
    """A copy of a tokeniser that reads as described."""
    smaller = copy.deepcopy(tokenizer)
    smaller._tokenizer = type(tokenizer.backend_tokenizer).from_str(json.dumps(described))
    return smaller


def own_numbers(model: Mapping[str, Any]) -> dict[str, int]:
    """The tokens of a model by name, without those that were added to it."""
    if model["type"] == "Unigram":
        return {token: number for number, (token, _) in enumerate(model["vocab"])}
    return dict(model["vocab"])


def _alphabet(model: Mapping[str, Any], tokens: Iterable[str]) -> Iterator[str]:
    """Single characters, also those that continue or end a word, and bytes that stand for unknown ones."""
    before, behind = _affixes(model)
    for token in tokens:
        lengths = {len(token), len(token.removeprefix(before).removesuffix(behind))}
        if 1 in lengths or (model.get("byte_fallback") and BYTE.fullmatch(token)):
            yield token


def _affixes(model: Mapping[str, Any]) -> tuple[str, str]:
    """What is put before pieces that continue a word, and behind those that end one."""
    return model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""


def _unknown(model: Mapping[str, Any], numbers: Mapping[str, int]) -> list[int]:
    """The token of unknown words, if there is one.

    Raises:
        ValueError: there is none, and a text could not be read without.
    """
    found = model["unk_id"] if model["type"] == "Unigram" else numbers.get(model["unk_token"])
    if found is None and model["type"] != "BPE" and not model.get("byte_fallback"):
        raise ValueError(
            f"`tokenizer` must have a token for unknown words, as a {model['type']} cannot read others without, got none; add one "
            "before its vocabulary is cut"
        )
    return [] if found is None else [found]


def _ranks(model: Mapping[str, Any]) -> dict[tuple[str, str], int]:
    return {(a, b): rank for rank, (a, b) in enumerate(model["merges"])}


def _joined(a: str, b: str, model: Mapping[str, Any]) -> str:
    return a + b.removeprefix(_affixes(model)[0])


def _passed_through(token: str, ranks: Mapping[tuple[str, str], int], model: Mapping[str, Any]) -> Iterator[str]:
    """The tokens that merges make on the way from characters to a token."""
    before, behind = _affixes(model)
    inside = bool(before) and token.startswith(before)
    ends = bool(behind) and token.endswith(behind)
    letters = list(token.removeprefix(before).removesuffix(behind))
    parts = [before + c if before and (i or inside) else c for i, c in enumerate(letters)]
    if ends and parts:
        parts[-1] += behind
    while pairs := [(ranks[pair], i) for i, pair in enumerate(zip(parts, parts[1:], strict=False)) if pair in ranks]:
        _, i = min(pairs)
        parts[i : i + 2] = [_joined(parts[i], parts[i + 1], model)]
        yield parts[i]


def _renumbered(part: Any, change: Change) -> Any:
    """What is put around texts, with other numbers: lists of `ids`, and pairs of a token and its number."""
    if isinstance(part, dict):
        return {
            name: [change(i) for i in value] if name == "ids" else _renumbered(value, change)
            for name, value in part.items()
        }
    if isinstance(part, list):
        if len(part) == 2 and isinstance(part[0], str) and type(part[1]) is int:
            return [part[0], change(part[1])]
        return [_renumbered(each, change) for each in part]
    return part
