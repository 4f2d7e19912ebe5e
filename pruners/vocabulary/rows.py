"""The rows of a text model: tables, heads and biases over the vocabulary, and the numbers of special tokens in configurations."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor, nn

from search_spaces.core import first_line, read_bytes

VOCABULARY = "vocabulary.json"
SIZE = "vocab_size"
NUMBERS = ("token_id", "token_ids", "token_index", "padding_idx")  # how names of special tokens' numbers end
NEVER_SAID = (
    "suppress_tokens",
    "begin_suppress_tokens",
    "bad_words_ids",
)  # what generation leaves out; it need not stay
Number = Callable[[int], int | None]
"""A token's number to the one that it gets; None if the token goes."""


@dataclass(frozen=True)
class Vocabulary:
    """Which tokens stayed, and what that changed.

    Attributes:
        kept: numbers that the tokens which stay had, ascending; the number of each is now its place in here.
        before: rows of the full table.
        unknown: the number, now, that stands for tokens which are gone: the unknown token's, or 0 if there is none.
        bytes_before: of all tables, heads and biases over the vocabulary, shared ones once.
        bytes_after: the same of the smaller model.
        coverage: share of the tokens of the given texts that stay.
        texts: how many were given.
        same: how many of them consist of tokens that stay, and so are read as before.
        difference: largest difference of an output of the smaller model, on the given texts, relative.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    kept: Sequence[Annotated[int, Field(ge=0)]]
    before: int
    unknown: int
    bytes_before: int
    bytes_after: int
    coverage: float
    texts: int
    same: int
    difference: float

    @property
    def after(self) -> int:
        """Rows of the smaller table."""
        return len(self.kept)

    def renumber(self, tokens: Tensor) -> Tensor:
        """Tokens by the numbers that they have now, in the same shape; gone ones become the unknown token."""
        numbers = torch.full((self.before,), self.unknown, dtype=tokens.dtype, device=tokens.device)
        numbers[list(self.kept)] = torch.arange(self.after, dtype=tokens.dtype, device=tokens.device)
        return numbers[tokens.long()]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a summary: all but the list of tokens."""
        return {**{name: value for name, value in asdict(self).items() if name != "kept"}, "after": self.after}

    def save(self, folder: str | Path) -> None:
        """Write `vocabulary.json`."""
        (Path(folder) / VOCABULARY).write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, folder: str | Path) -> Vocabulary:
        """Read `vocabulary.json`.

        Raises:
            ValueError: it is not whole, or its tokens are not ascending rows.
        """
        path = Path(folder) / VOCABULARY
        try:
            found = TypeAdapter(cls).validate_json(read_bytes(path))
        except ValidationError as error:
            raise ValueError(
                f"{path} must hold what `Vocabulary.save` wrote; save it again ({first_line(error)})"
            ) from error
        _check_rows(found.kept, found.before)
        return found


def tables(model: nn.Module) -> list[nn.Module]:
    """The modules that look tokens up, the table of each being that of a Hugging Face model.

    Args:
        model: such a model, or a module with some inside.
    """
    weights = {id(part.get_input_embeddings().weight) for part in text_models(model)}
    return [part for part in model.modules() if isinstance(part, nn.Embedding) and id(part.weight) in weights]


def text_models(model: nn.Module) -> list[Any]:
    """The outermost Hugging Face models with a table of tokens."""
    return list(_outermost(model))


def row_count(model: nn.Module) -> int:
    """Rows of the table of tokens.

    Raises:
        ValueError: there is no such table, or several of different sizes.
    """
    found = {part.get_input_embeddings().num_embeddings for part in text_models(model)}
    if not found:
        raise ValueError(
            "`model` must be a Hugging Face text model, or have one inside, with a table of tokens that `get_input_embeddings` "
            f"gives, got {type(model).__name__}; leave its vocabulary as it is"
        )
    if len(found) > 1:
        raise ValueError(
            f"`model` must have one vocabulary, got tables of {sorted(found)} rows; cut its parts one by one"
        )
    return found.pop()


def special_rows(model: nn.Module) -> set[int]:
    """The tokens that configurations of the model, and its modules, name by number."""
    found: set[int] = set()
    rows = row_count(model)

    def seen(number: int) -> int:
        if 0 <= number < rows:
            found.add(number)
        return number

    for part in text_models(model):
        for config in _configurations(part):
            for name, value in vars(config).items():
                if name.endswith(NUMBERS):
                    _renumbered(value, seen)
        for module in part.modules():
            for _, value in _numbers(module, rows):
                seen(value)
    return found


def cut_rows(model: nn.Module, kept: Sequence[int]) -> nn.Module:
    """A copy of a text model with some rows of its vocabulary only.

    Every table, head and bias over the vocabulary is cut, tied ones stay tied; configurations, also those of generation, name the
    smaller vocabulary and the new numbers of special tokens. What runs over the vocabulary is found by what grows when the
    model is built, on no device, with one token more.

    Args:
        model: a Hugging Face model, or a module with some inside; it is left untouched.
        kept: rows that stay, ascending.

    Raises:
        ValueError: there is no such table, it is not as its configuration says, or `kept` are not its rows.
    """
    rows = row_count(model)
    _check_rows(kept, rows)
    index = torch.tensor(list(kept))
    places = {old: new for new, old in enumerate(kept)}

    def number(old: int) -> int | None:
        return places.get(old) if 0 <= old < rows else old

    found = {id(part): _grown(part, rows) for part in text_models(model)}
    smaller: dict[int, Any] = {}
    for part in text_models(model):
        for name, dim in found[id(part)][0].items():
            tensor = _named(part)[name]
            if id(tensor) not in smaller:
                smaller[id(tensor)] = _cut(tensor, dim, index)
    whole = copy.deepcopy(model, smaller)
    for part, full in zip(text_models(whole), text_models(model), strict=True):
        _write(part, found[id(full)][1], rows, len(places), number)
    return whole


def row_bytes(model: nn.Module) -> int:
    """Bytes of all that runs over the vocabulary, what is shared once."""
    rows, found = row_count(model), {}
    for part in text_models(model):
        named = _named(part)
        found.update({id(named[name]): named[name].nbytes for name in _grown(part, rows)[0]})
    return sum(found.values())


def is_text_model(model: nn.Module) -> bool:
    """Whether a module is a Hugging Face model with a table of tokens."""
    config = getattr(model, "config", None)
    if isinstance(config, type) or not callable(getattr(config, "to_dict", None)):
        return False
    try:
        return isinstance(model.get_input_embeddings(), nn.Embedding)  # type: ignore[operator]
    except (AttributeError, NotImplementedError, TypeError):
        return False


def _outermost(model: nn.Module) -> Iterator[nn.Module]:
    if is_text_model(model):
        yield model
    else:
        for part in model.children():
            yield from _outermost(part)


def _check_rows(kept: Sequence[int], rows: int) -> None:
    ascending = all(a < b for a, b in zip(kept, kept[1:], strict=False))
    if not kept or not ascending or kept[0] < 0 or kept[-1] >= rows:
        raise ValueError(
            f"tokens that stay must be rows of the table of {rows:,}, ascending, each once, got {str(list(kept))[:80]}; take the "
            "model and the vocabulary that belong together"
        )


def _named(part: nn.Module) -> dict[str, Tensor]:
    return dict(part.named_parameters(remove_duplicate=False)) | dict(part.named_buffers(remove_duplicate=False))


def _grown(part: Any, rows: int) -> tuple[dict[str, int], dict[str, list[str]]]:
    """What runs over the vocabulary: tensors by name, with the dimension; and integers of modules, by the name of the module.

    Raises:
        ValueError: the model cannot be built again, or is not as its configuration says.
    """
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            now, more = type(part)(_resized(part.config, rows, rows)), type(part)(_resized(part.config, rows, rows + 1))
    except Exception as error:  # whatever a constructor says
        raise ValueError(
            f"`model` must be built from its configuration to see what runs over its vocabulary, got {type(part).__name__}: {error}"
        ) from error
    own, grown = _named(part), _named(more)
    dims: dict[str, int] = {}
    for name, tensor in _named(now).items():
        if name in own and name in grown and tensor.shape != grown[name].shape:
            changed = [d for d, (a, b) in enumerate(zip(tensor.shape, grown[name].shape, strict=True)) if a != b]
            if len(changed) != 1 or own[name].shape[changed[0]] != rows or grown[name].shape[changed[0]] != rows + 1:
                raise ValueError(
                    f"`model` must have a row per token in {name}, got shape {tuple(own[name].shape)} where the table has {rows:,} "
                    "rows; leave its vocabulary as it is"
                )
            dims[name] = changed[0]
    if not any(own[name] is part.get_input_embeddings().weight for name in dims):
        raise ValueError(
            f"`{SIZE}` of the configuration must be the number of rows of the table, {rows:,}, got "
            f"{getattr(part.config, SIZE, None)}; `resize_token_embeddings` makes both the same"
        )
    after = {name: vars(module) for name, module in more.named_modules()}
    integers = {
        name: [k for k, v in vars(module).items() if type(v) is int and (v, after[name].get(k)) == (rows, rows + 1)]
        for name, module in now.named_modules()
    }
    return dims, {name: keys for name, keys in integers.items() if keys}


def _resized(config: Any, old: int, new: int) -> Any:
    """A copy of a configuration with another size of the vocabulary."""
    config = copy.deepcopy(config)
    for each in _inside(config):
        _resize(each, old, new)
    return config


def _resize(config: Any, old: int, new: int) -> None:
    for name, value in list(vars(config).items()):
        if name.endswith(SIZE) and type(value) is int and value == old:
            setattr(config, name, new)


def _inside(config: Any) -> Iterator[Any]:
    """A configuration and those in it."""
    yield config
    for value in vars(config).values():
        if not isinstance(value, type) and callable(getattr(value, "to_dict", None)):
            yield from _inside(value)


def _configurations(part: nn.Module) -> list[Any]:
    """All configurations that modules of a model hold, each once."""
    held = [vars(module).get(name) for module in part.modules() for name in ("config", "generation_config")]
    found = [inner for config in held if hasattr(config, "to_dict") for inner in _inside(config)]
    return list({id(config): config for config in found}.values())


def _cut(tensor: Tensor, dim: int, index: Tensor) -> Tensor:
    rows = tensor.detach().index_select(dim, index.to(tensor.device))
    return nn.Parameter(rows, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else rows


def _write(part: nn.Module, integers: dict[str, list[str]], rows: int, left: int, number: Number) -> None:
    """Write sizes and numbers of tokens into the copy of a text model."""
    for config in _configurations(part):
        _resize(config, rows, left)
        for name, value in list(vars(config).items()):
            if name.endswith((*NUMBERS, *NEVER_SAID)):
                setattr(config, name, _renumbered(value, number))
    modules = dict(part.named_modules())
    numbers = [(module, key, value) for module in modules.values() for key, value in _numbers(module, rows)]
    for module, key, value in numbers:
        setattr(module, key, number(value))
    for name, keys in integers.items():
        for key in keys:
            if name in modules:
                setattr(modules[name], key, left)


def _numbers(module: nn.Module, rows: int) -> list[tuple[str, int]]:
    """Integers of a module that are numbers of tokens; the padding of a table over something else, such as positions, is none."""
    if isinstance(module, nn.Embedding) and module.num_embeddings != rows:
        return []
    return [(key, value) for key, value in vars(module).items() if key.endswith(NUMBERS) and type(value) is int]


def _renumbered(value: Any, number: Number, inside: bool = False) -> Any:
    """Tokens in an entry of a configuration: a number, a list, or a list of lists, of which those with a token that is gone go."""
    if type(value) is int:
        return number(value)
    if not isinstance(value, (list, tuple)):
        return value
    found = [_renumbered(each, number, inside=True) for each in value]
    return None if inside and None in found else [each for each in found if each is not None]
