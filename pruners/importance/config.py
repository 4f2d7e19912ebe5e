"""How indices are scored: the criteria by name, and their settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, PlainSerializer

from pruners.importance.named import AGGREGATIONS, CRITERIA, NORMALISATIONS, Criterion, criterion_entry
from search_spaces.core import Part, setting

AUTO = "auto"
"""Chosen by the data that there are, see `pruners.chosen`."""


def check_one_of(name: str, value: Any, allowed: Iterable[Any]) -> Any:
    """Refuse a value that is not among those allowed, also one of another type."""
    if value not in list(allowed):
        raise ValueError(f"`{name}` must be one of {', '.join(map(str, allowed))}, got {value!r}.")
    return value


def qualified_name(criterion: str | Criterion) -> str:
    """A criterion by its name; a function by its module and name."""
    if isinstance(criterion, str):
        return criterion
    named = criterion if hasattr(criterion, "__qualname__") else type(criterion)
    return f"{named.__module__}.{named.__qualname__}"


def _criterion(value: Any) -> Any:
    return value if callable(value) else check_one_of("importance", value, (AUTO, *CRITERIA))


class Scoring(Part):
    """What every entry of a weight is worth."""

    criterion: Annotated[
        str | Callable[..., Any],  # of `Criterion`
        BeforeValidator(_criterion),
        PlainSerializer(qualified_name, when_used="json"),
    ] = setting(
        AUTO,
        name="importance",
        help="The criterion: see `nas list criteria`; some pass over data, some over labels.",
        otherwise="auto: curvature with examples or batch norms to make some from, else l2",
    )

    def by_name(self, given: bool) -> Self:
        """The same with what `auto` stands for: curvature where there are examples, else l2."""
        return self.model_copy(update={"criterion": "curvature" if given else "l2"}) if self.criterion == AUTO else self

    def check_data(self, given: bool) -> None:
        """Refuse a criterion over data where there are none."""
        if not given and self.criterion != AUTO and criterion_entry(self.criterion).needs:
            without = ", ".join(name for name, entry in CRITERIA.items() if not entry.needs)
            raise ValueError(
                f"`importance={self.criterion!r}` needs `batches`, an iterable of (inputs, targets); without data take one of "
                f"{without}."
            )


class Importance(Scoring):
    """What an index of a group is worth."""

    aggregate: Annotated[str, BeforeValidator(lambda value: check_one_of("aggregate", value, AGGREGATIONS))] = setting(
        "sum", help="How the tensors of a group add up: sum, mean or max."
    )
    normalise: Annotated[
        str | None, BeforeValidator(lambda value: check_one_of("normalise", value, (*NORMALISATIONS, None)))
    ] = setting(
        None,
        help="What the scores of a group are divided by: their mean, max or sum, or none.",
        otherwise="mean; none for lamp and curvature, which compare groups already",
    )

    @property
    def divided_by(self) -> str:
        """The normalisation, with its default."""
        return self.normalise or criterion_entry(self.criterion).normalise
