"""Settings as frozen configurations, and what is said of those that are wrong."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

Model = TypeVar("Model", bound=BaseModel)


class Part(BaseModel):
    """A part of the configuration: unknown keys are refused, values cannot change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def parse(kind: type[Model], data: object) -> Model:
    """Check settings; ValueError names each one that is wrong, what it is, and the rule it breaks."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise ValueError("; ".join(_sentence(dict(problem)) for problem in error.errors())) from None


def _sentence(problem: dict[str, Any]) -> str:
    where = ".".join(map(str, problem["loc"]))
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return message
    return f"`{where}`: {message[0].lower()}{message[1:]}, got {problem['input']!r}"
