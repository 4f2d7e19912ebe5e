"""Options of commands, made from the settings of their configurations."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import typer
from pydantic import BaseModel

from nas.runtime import floats, names, numbers, pairs, yaml_values
from search_spaces.core import Keyword, keywords

QUOTES = "\"'"
Json = Annotated[bool, typer.Option("--json", help="One line of JSON per result on stdout.")]
Choices = Annotated[
    str | None,
    typer.Option(help="What an elastic space varies, such as width,depth,groups,pooling: short for --option choices."),
]
Paths = Annotated[
    int | None,
    typer.Option(
        help="Make ensembles of so many architectures that share their first blocks: short for --option paths."
    ),
]
Trust = Annotated[
    bool,
    typer.Option("--trust", help="Import the functions (module:function) that files name; see docs/trust.md."),
]
Limits = Annotated[
    list[str] | None,
    typer.Option(
        "--limit",
        help="Bound as name=value, such as macs=60e6, latency_ms=0.5ms or accuracy_alone=0.9. Can be repeated.",
    ),
]
SpaceOptions = Annotated[
    list[str] | None, typer.Option("--option", help="Option of the space or argument of the function, name=value.")
]


def with_settings(
    *kinds: type[BaseModel], leaving_out: Collection[str] = (), also: Mapping[str, str] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each setting of a configuration; it is called with those that were given, as `settings`.

    What the library says of a setting by its name, the command says of its option.

    Args:
        kinds: the configuration, or several.
        leaving_out: settings that are no options of this command.
        also: further names of options, by setting.
    """
    made = {name: keyword for name, keyword in keywords(*kinds).items() if name not in leaving_out}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "settings"]
        flags = {name: keyword.flag for name, keyword in made.items()}
        flags |= {".".join(path): keyword.flag for keyword in made.values() for path in keyword.paths}
        options = [_option(keyword, (also or {}).get(name)) for name, keyword in made.items()]

        @functools.wraps(command)
        def run(**arguments: Any) -> None:
            with in_options(flags):
                given = {name: arguments.pop(name) for name in made}
                settings = {name: _read(made[name], value) for name, value in given.items() if value not in (None, [])}
                command(settings=settings, **arguments)

        arguments = [p for p in own if _is_argument(p)]
        parameters = [*arguments, *options, *(p for p in own if p not in arguments)]
        run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
        )
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


@contextmanager
def in_options(flags: Mapping[str, str]) -> Iterator[None]:
    """Let what the library says of a setting, by its name or where it stands in a configuration, be said of its option.

    Args:
        flags: option without dashes, by what the library calls the setting.
    """
    try:
        yield
    except ValueError as error:
        said = re.sub(
            r"`([\w.]+)(?:=([^`]*))?`",
            lambda found: _as_option(flags[found[1]], found[2]) if found[1] in flags else found[0],
            str(error),
        )
        error.args = (said,)
        raise


def _as_option(flag: str, value: str | None) -> str:
    """A setting as it is written on the command line, where a switch has no value."""
    switch = {None: f"--{flag}", "True": f"--{flag}", "False": f"--no-{flag}"}
    return f"`{switch[value]}`" if value in switch else f"`--{flag} {str(value).strip(QUOTES)}`"


def refuse_beside(source: str, given: Mapping[str, Any], known: Mapping[str, Keyword], going_on: bool = False) -> None:
    """Refuse settings beside an option that brings all of them; those that may change when a run goes on may then be given.

    Raises:
        ValueError: settings were given in two ways; the message names them.
    """
    free = [name for name, keyword in known.items() if going_on and keyword.adjustable]
    twice = [f"--{known[name].flag}" for name in given if name not in free]
    if twice:
        rest = f"; only {', '.join(f'--{known[name].flag}' for name in free)} may change" if free else ""
        raise ValueError(
            f"{source} brings its own settings, got {', '.join(twice)} as well{rest}; leave out one or the other"
        )


def space_options(given: Mapping[str, Any], choices: str | None, paths: int | None) -> dict[str, Any]:
    """Options of a space, with those that have an option of their own.

    Raises:
        ValueError: one is given in both ways.
    """
    short = {"choices": None if choices is None else names(choices), "paths": paths}
    short = {name: value for name, value in short.items() if value is not None}
    if twice := sorted(given.keys() & short.keys()):
        raise ValueError(f"`--{twice[0]}` and `--option {twice[0]}` are the same setting; give one of them")
    return {**given, **short}


def _option(keyword: Keyword, also: str | None) -> inspect.Parameter:
    base = list[str] if keyword.repeated else _typed(keyword.kind)
    flag = f"--{keyword.flag}"
    declared = f"{flag}/--no-{keyword.flag}" if base is bool else flag
    form = "NAME=VALUE" if base == list[str] else "A,B" if get_origin(_without_none(keyword.kind)) is tuple else None
    option = typer.Option(declared, *([also] if also else []), help=keyword.line, show_default=False, metavar=form)
    annotation = Annotated[base | None, option]  # type: ignore[valid-type]
    return inspect.Parameter(keyword.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _is_argument(parameter: inspect.Parameter) -> bool:
    return any(isinstance(one, typer.models.ArgumentInfo) for one in get_args(parameter.annotation)[1:])


def _typed(kind: Any) -> Any:
    """What typer reads a setting of some type as: numbers and switches as such, values by name as lists, the rest as text."""
    kind = _without_none(kind)
    if kind in (bool, int, float):
        return kind
    return list[str] if get_origin(kind) is dict else Path if kind is Path else str


def _read(keyword: Keyword, value: Any) -> Any:
    """A setting from what typer read."""
    kind, flag = _without_none(keyword.kind), f"--{keyword.flag}"
    if keyword.repeated:
        return value
    if get_origin(kind) is tuple:
        return floats(value, flag) if get_args(kind)[0] is float else names(value)
    if get_origin(kind) is dict:
        inner = get_args(kind)[1]
        return (
            numbers(value, flag) if inner is float else yaml_values(value, flag) if inner is Any else pairs(value, flag)
        )
    return value


def _without_none(kind: Any) -> Any:
    if get_origin(kind) in (Union, UnionType):
        inside = [one for one in get_args(kind) if one is not type(None)]
        return inside[0] if len(inside) == 1 else Union[tuple(inside)]  # noqa: UP007
    return kind
