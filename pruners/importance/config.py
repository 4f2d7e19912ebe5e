"""How indices are scored: the criteria by name, and their settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator, PlainSerializer

from pruners.importance.criteria import GRADIENT_CRITERIA, WEIGHT_CRITERIA, Tensors
from search_spaces.core import Part, setting

AGGREGATIONS = ("sum", "mean", "max")
NORMALISATIONS = ("mean", "max", "sum", "none")
WITHOUT_DATA = (*WEIGHT_CRITERIA, "lamp", "bn_scale", "fpgm", "random")
WITHOUT_LABELS = (*WITHOUT_DATA, "activation", "obs")
CRITERIA = (*WITHOUT_LABELS, *GRADIENT_CRITERIA, "lrp", "lrp_zplus")
Criterion = Callable[[Tensors], Mapping[str, torch.Tensor]]


def check_one_of(name: str, value: Any, allowed: tuple[Any, ...]) -> Any:
    """Refuse a value that is not among those allowed, also one of another type."""
    if value not in allowed:
        raise ValueError(f"`{name}` must be one of {', '.join(map(str, allowed))}, got {value!r}.")
    return value


def qualified_name(criterion: str | Criterion) -> str:
    """A criterion by its name; a function by its module and name."""
    if isinstance(criterion, str):
        return criterion
    named = criterion if hasattr(criterion, "__qualname__") else type(criterion)
    return f"{named.__module__}.{named.__qualname__}"


def _criterion(value: Any) -> Any:
    return value if callable(value) else check_one_of("importance", value, CRITERIA)


class Scoring(Part):
    """What every entry of a weight is worth."""

    criterion: Annotated[
        str | Callable[..., Any],  # of `Criterion`
        BeforeValidator(_criterion),
        PlainSerializer(qualified_name, when_used="json"),
    ] = setting(
        "l2",
        name="importance",
        help=f"The criterion: {', '.join(WITHOUT_DATA)}; with data also activation and obs (optimal brain surgeon: what later layers "
        "cannot make up for); with labels also taylor, fisher, lrp and lrp_zplus.",
    )

    def check_data(self, given: bool) -> None:
        """Refuse a criterion over data where there are none."""
        if not given and isinstance(self.criterion, str) and self.criterion not in WITHOUT_DATA:
            raise ValueError(
                f"`importance={self.criterion!r}` needs `batches`, an iterable of (inputs, targets); without data take one of "
                f"{', '.join(WITHOUT_DATA)}."
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
        otherwise="mean, for lamp, which compares groups already, none",
    )

    @property
    def divided_by(self) -> str:
        """The normalisation, with its default."""
        return self.normalise or ("none" if self.criterion == "lamp" else "mean")
