"""A text model without the tokens that one's own texts never use: its settings, and texts and tokenisers as people name them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import PlainSerializer, model_validator
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from pruners import Vocabulary, smaller_vocabulary
from pruners.groups import split_inputs
from pruners.untouched import untouched
from pruners.vocabulary import tables
from search_spaces.core import Part, first_line, setting

TOKENIZER = "tokenizer"  # its folder, beside the plan


def _recorded(given: Any) -> str | None:
    """Files by their path; objects by what they are."""
    if given is None:
        return None
    if isinstance(given, (str, Path)):
        return str(given)
    kind = type(given)
    return f"{len(given)} texts" if isinstance(given, tuple) else f"{kind.__module__}.{kind.__qualname__}"


class VocabularyConfig(Part):
    """What decides which tokens stay."""

    vocabulary: Annotated[Path | tuple[str, ...] | None, PlainSerializer(_recorded, when_used="json")] = setting(
        None,
        help="Texts of your own, one a line, or a folder of .txt files: tokens of a Hugging Face text model that they never use go "
        "first, with their rows; needs `tokenizer`.",
    )
    tokenizer: Annotated[Any, PlainSerializer(_recorded, when_used="json")] = setting(
        None,
        help="Folder of the model's Hugging Face tokeniser, for `vocabulary`; it is written again without those tokens.",
    )

    @model_validator(mode="after")
    def _go_together(self) -> VocabularyConfig:
        if (self.vocabulary is None) != (self.tokenizer is None):
            raise ValueError("`vocabulary` and `tokenizer` go together; give both, or neither")
        return self

    @property
    def by_names(self) -> bool:
        """Whether a file can say it all."""
        return all(given is None or isinstance(given, (str, Path)) for given in (self.vocabulary, self.tokenizer))


@dataclass(frozen=True)
class Words:
    """A model with a smaller vocabulary, and what goes with it.

    Attributes:
        model: without the rows of tokens that are gone.
        example: its inputs, with the tokens by their new numbers.
        tokenizer: mended.
        vocabulary: what stayed.
    """

    model: nn.Module
    example: Any
    tokenizer: Any
    vocabulary: Vocabulary

    def save(self, folder: Path) -> None:
        """Write `vocabulary.json`, and the tokeniser into a folder of its own."""
        self.vocabulary.save(folder)
        self.tokenizer.save_pretrained(folder / TOKENIZER)


def fewer_words(model: nn.Module, example: Any, config: VocabularyConfig) -> Words | None:
    """Remove the tokens that texts never use; None if no texts are given.

    Args:
        model: with a Hugging Face text model inside; it is left untouched.
        example: inputs of the model, as `pruners.prune` takes them; those that its tables look up are renumbered.
        config: the texts and the tokeniser.

    Raises:
        ValueError: something does not fit; the message says what.
    """
    if config.vocabulary is None:
        return None
    texts = read_texts(config.vocabulary) if isinstance(config.vocabulary, Path) else config.vocabulary
    smaller, tokenizer, vocabulary = smaller_vocabulary(model, read_tokenizer(config.tokenizer), texts)
    return Words(smaller, _renumbered(model, example, vocabulary), tokenizer, vocabulary)


def read_texts(path: Path) -> list[str]:
    """Texts of a file, one a line, or of all .txt files in a folder, in the order of their names.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: it is no text in UTF-8, or the folder holds no .txt file.
    """
    files = sorted(path.rglob("*.txt")) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"`vocabulary` must be a file of texts, or a folder of .txt files, got {path} without any")
    try:
        lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"`vocabulary` must be text in UTF-8, got {path}: {error}; convert it") from error
    return [line for line in lines if line.strip()]


def read_tokenizer(given: Any) -> Any:
    """The tokeniser of a folder; one that is given as an object, as it is.

    Raises:
        ValueError: transformers is missing, or the folder holds no tokeniser.
    """
    if not isinstance(given, (str, Path)):
        return given
    if not Path(given).is_dir():
        raise ValueError(f"`tokenizer` must be the folder of a Hugging Face tokeniser, got {given}, which is none")
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise ValueError("`tokenizer` needs the package transformers; pip install transformers") from error
    try:
        return AutoTokenizer.from_pretrained(str(given), local_files_only=True)
    except Exception as error:  # transformers raises whatever a file leads to
        raise ValueError(
            f"`tokenizer` must be the folder of a Hugging Face tokeniser, got {given}: {first_line(error)}"
        ) from error


def _renumbered(model: nn.Module, example: Any, vocabulary: Vocabulary) -> Any:
    """Example inputs with the tokens among them, which are those that a table looks up, by their new numbers."""
    seen: list[Tensor] = []

    def look(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.extend(x for x in (*args, *kwargs.values()) if isinstance(x, Tensor))

    hooks = [table.register_forward_pre_hook(look, with_kwargs=True) for table in tables(model)]
    args, kwargs = split_inputs(example)
    try:
        with untouched(model), torch.no_grad():
            model(*args, **kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    whole = [x for x in tree_leaves(example) if isinstance(x, Tensor) and not x.is_floating_point()]
    places = {x.data_ptr() for x in seen}
    tokens = [x for x in whole if x.data_ptr() in places] or [x for x in whole if any(_alike(x, y) for y in seen)]
    found = {id(x) for x in tokens}
    return tree_map_only(Tensor, lambda x: vocabulary.renumber(x) if id(x) in found else x, example)


def _alike(x: Tensor, y: Tensor) -> bool:
    """Whether two tensors hold the same numbers, in some shape and type."""
    return x.numel() == y.numel() and bool((x.flatten() == y.flatten()).all())
