"""Settings as frozen configurations: each stands once, on a field with its type, default, check and one line of help.

Fields made by `setting` can be given by themselves: as a keyword in Python, and as an option of a command. A name that stands on
several fields of a configuration, such as the batch size of two trainings, sets all of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath
from types import UnionType
from typing import Annotated, Any, ParamSpec, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from search_spaces.core.naming import LINE, cut, quoted, unknown_name

Model = TypeVar("Model")
Result = TypeVar("Result")
Given = ParamSpec("Given")
Place = tuple[str, ...]
MOST_PROBLEMS = 10
"""Wrong settings that one error names."""


class Part(BaseModel):
    """A part of a configuration: unknown keys are refused, values cannot change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def setting(
    default: Any = ...,
    *,
    help: str,
    name: str | None = None,
    flag: str | None = None,
    otherwise: str | None = None,
    adjustable: bool = False,
    repeated: bool = False,
    **checks: Any,
) -> Any:
    """A field that can be given by itself.

    Args:
        default: its value where none is given.
        help: one line, for people.
        name: the keyword in Python; the field's own name by default.
        flag: the option of a command, without dashes; the keyword by default.
        otherwise: what happens by default, where the default does not say it.
        adjustable: whether it may change when a run goes on.
        repeated: whether the option of a command is given once for each of several values.
        checks: of `pydantic.Field`, such as `gt=0`.
    """
    about: dict[str, Any] = {
        "keyword": name,
        "flag": flag,
        "otherwise": otherwise,
        "adjustable": adjustable,
        "repeated": repeated,
    }
    return Field(default, description=help, json_schema_extra=about, **checks)


@dataclass(frozen=True)
class Keyword:
    """A setting of a configuration, as it is given by itself.

    Attributes:
        name: the keyword in Python.
        flag: the option of a command, without dashes.
        kind: the type of its values.
        default: what it is where it is not given.
        help: one line, for people.
        otherwise: what happens by default, where the default does not say it.
        adjustable: whether it may change when a run goes on.
        repeated: whether the option of a command is given once for each of several values.
        paths: where it stands in the configuration, by names of fields; several share a name.
    """

    name: str
    flag: str
    kind: Any
    default: Any
    help: str
    otherwise: str | None
    adjustable: bool
    repeated: bool
    paths: tuple[Place, ...]

    @property
    def line(self) -> str:
        """The help, with the default."""
        default = self.otherwise or shown(self.default)
        return f"{self.help} [default: {default}]" if default else self.help


def shown(value: Any) -> str:
    """A default as people would type it; nothing for none, off and empty."""
    if isinstance(value, (tuple, list)):
        return ",".join(map(str, value))
    return "" if value is None or value is False or value is ... or value == {} else str(value)


def keywords(*kinds: type[BaseModel]) -> dict[str, Keyword]:
    """The settings of a configuration that can be given by themselves, by keyword, in the order of its fields.

    Of several configurations, a name that more than one has is the first one's.
    """
    found: dict[str, Keyword] = {}
    for kind in kinds:
        found = {**found, **{name: each for name, each in _keywords(kind).items() if name not in found}}
    return found


def _keywords(kind: type[BaseModel]) -> dict[str, Keyword]:
    found: dict[str, Keyword] = {}
    for path, field in _leaves(kind, ()):
        about = field.json_schema_extra
        if not isinstance(about, dict):
            continue
        name = str(about["keyword"] or path[-1])
        if name in found:
            found[name] = replace(found[name], paths=(*found[name].paths, path))
            continue
        found[name] = Keyword(
            name=name,
            flag=str(about["flag"] or name.replace("_", "-")),
            kind=field.annotation,
            default=... if field.default is PydanticUndefined else field.default,
            help=field.description or "",
            otherwise=about["otherwise"],  # type: ignore[arg-type]
            adjustable=bool(about["adjustable"]),
            repeated=bool(about["repeated"]),
            paths=(path,),
        )
    return found


def nested(kind: type[BaseModel], given: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration is parsed from, of settings by keyword.

    Raises:
        ValueError: a keyword that the configuration does not have.
    """
    known = keywords(kind)
    data: dict[str, Any] = {}
    for name, value in given.items():
        if name not in known:
            raise unknown_name("setting", name, known)
        for path in known[name].paths:
            put(data, path, value)
    return data


def takes(
    *kinds: type[BaseModel], leaving_out: Collection[str] = ()
) -> Callable[[Callable[Given, Result]], Callable[Given, Result]]:
    """Say of a function with `**settings` which those are: in its signature, and in its docstring in place of `{settings}`."""

    def told(function: Callable[Given, Result]) -> Callable[Given, Result]:
        signature = inspect.signature(function)
        own = [given for given in signature.parameters.values() if given.kind is not inspect.Parameter.VAR_KEYWORD]
        left_out = {*leaving_out, *signature.parameters}
        known = [keyword for keyword in keywords(*kinds).values() if keyword.name not in left_out]
        more = [
            inspect.Parameter(k.name, inspect.Parameter.KEYWORD_ONLY, default=k.default, annotation=k.kind)
            for k in known
        ]
        function.__signature__ = signature.replace(parameters=[*own, *more])  # type: ignore[attr-defined]
        indent = "\n" + " " * 12
        lines = indent.join(f"{k.name}: {k.line}" for k in known)
        function.__doc__ = (function.__doc__ or "").replace("{settings}", indent + lines)
        return function

    return told


def _text(given: object) -> object:
    return str(given) if isinstance(given, PurePath) else given


PathText = Annotated[str, BeforeValidator(_text)]
"""The path of a file or folder, kept as text."""


def put(data: dict[str, Any], path: Place, value: Any) -> None:
    """Set one value of nested data."""
    for name in path[:-1]:
        data = data.setdefault(name, {})
    data[path[-1]] = value


def parse(kind: type[Model], data: object) -> Model:
    """Check settings, or other data of a known form; ValueError names each one that is wrong, what it is, and the rule it breaks."""
    try:
        return TypeAdapter(kind).validate_python(data)
    except ValidationError as error:
        found = error.errors(include_url=False)
        more = f"; and {len(found) - MOST_PROBLEMS} more" if len(found) > MOST_PROBLEMS else ""
        raise ValueError("; ".join(_sentence(dict(problem)) for problem in found[:MOST_PROBLEMS]) + more) from None


def part_of(annotation: Any) -> type[BaseModel] | None:
    """The configuration that a field holds, if it holds one or none."""
    options = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return next((one for one in options if isinstance(one, type) and issubclass(one, Part)), None)


def _leaves(kind: type[BaseModel], path: Place) -> Iterator[tuple[Place, FieldInfo]]:
    for name, field in kind.model_fields.items():
        part = part_of(field.annotation)
        if part is None:
            yield (*path, name), field
        else:
            yield from _leaves(part, (*path, name))


def _sentence(problem: dict[str, Any]) -> str:
    where = cut(".".join(map(str, problem["loc"])), LINE) or "the whole"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return message
    if problem["type"] == "missing":
        return f"`{where}` is missing; give it"
    return f"`{where}`: {message[0].lower()}{message[1:]}, got {quoted(problem['input'])}"
