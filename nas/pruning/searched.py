"""A trained model to search, as people give it: by `model` and settings of its own, or as the space `pruned:MODEL` with options."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from nas.pruning.config import GivenModel
from nas.runtime import names_function
from pruners.config import WidthsConfig
from search_spaces.core import keywords, nested, parse, quoted

PRUNED = "pruned"
"""What the name of a trained model's space starts with, and the space of one that is given as an object."""
PREFIX = f"{PRUNED}:"


class SearchedModel(GivenModel):
    """A trained model, and which of the smaller ones inside it are searched."""

    widths: WidthsConfig = WidthsConfig()


KEYWORDS = keywords(SearchedModel)
OPTIONS = tuple(name for name in KEYWORDS if name != "model")
"""Options of the space of a trained model."""
OF_MODEL = tuple(name for name in KEYWORDS if name != "seed")
"""Settings of a search that are of its trained model; its seed is that of the space, which does not change with the search's own."""


def is_pruned(name: str) -> bool:
    """Whether a space is that of a trained model, by its name or as an object."""
    return name.partition(":")[0] == PRUNED


def as_space(
    space: str | None, options: Mapping[str, Any], given: Mapping[str, Any]
) -> tuple[str | None, Mapping[str, Any]]:
    """The space of a search and its options, where settings of a trained model stand beside them.

    Args:
        space: by its name, if one is given.
        options: of the space.
        given: settings of `OF_MODEL`.

    Returns:
        `pruned:MODEL` with plain options, or the space as it is.

    Raises:
        ValueError: a model and a space, settings of a model without one, or a setting that does not fit.
    """
    given = dict(given)
    model = given.pop("model", None)
    if model is None and not given:
        return space, options  # as they are: the configuration refuses what is no mapping
    if not isinstance(options, Mapping):
        raise ValueError(f"`space_options` must be a mapping of options by name, got {quoted(options)}")
    named = ", ".join(f"`{name}`" for name in given)
    if model is None and (space is None or not space.startswith(PREFIX)):
        raise ValueError(f"{named} must come with a trained model, got none; give `model`, or leave it out")
    if model is not None and (space is not None or options):
        what, mend = (f"`space` {space}", "leave out one") if space else ("`space_options`", "give them as `arguments`")
        raise ValueError(f"`model` {model} is what is searched, got {what} as well; {mend}")
    if twice := sorted(given.keys() & options.keys()):
        raise ValueError(f"`{twice[0]}` stands among the options of {space!r} as well; give it once")
    name = f"{PREFIX}{model}" if model is not None else str(space)
    whole = {**options, **given}
    found = keywords_of(searched_model(name, whole))
    return name, {key: found[key] for key in whole}


def searched_model(name: str, options: Mapping[str, Any]) -> SearchedModel:
    """The settings behind `pruned:MODEL` and its options.

    Raises:
        ValueError: an option is unknown, or does not fit.
    """
    unknown = [option for option in options if option not in OPTIONS]
    if unknown:
        raise ValueError(f"options of {name!r} must be among {', '.join(OPTIONS)}; got {', '.join(unknown)}")
    return parse(SearchedModel, nested(SearchedModel, {"model": name.removeprefix(PREFIX), **options}))


def keywords_of(config: SearchedModel) -> dict[str, Any]:
    """Its settings by keyword, as plain data."""
    data = config.model_dump(mode="json")
    found = {}
    for name, keyword in KEYWORDS.items():
        value: Any = data
        for part in keyword.paths[0]:
            value = value[part]
        found[name] = value
    return found


def functions_of(name: str, options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The functions that a space and its options name, each after what it is for; to build the space imports them."""
    if names_function(name):
        yield "space", name
    given = options.get("input")
    if name.startswith(PREFIX) and isinstance(given, str) and names_function(given):
        yield "input", given
