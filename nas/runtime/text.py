"""Values as people type them on a command line."""

from __future__ import annotations

import math
import re
from typing import Any

from search_spaces.core import LARGEST_INPUT, MOST_DIMENSIONS, bare, parse_yaml, quoted


def names(text: str) -> list[str]:
    """The parts of a comma-separated list."""
    return [name.strip() for name in text.split(",") if name.strip()]


def pairs(texts: list[str] | None, flag: str) -> dict[str, str]:
    """Names and values from `name=value`, as `flag` was given them."""
    found: dict[str, str] = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise ValueError(f"`{flag}` must be name=value, got {quoted(text)}")
        if name in found:
            raise ValueError(f"`{flag}` must name each once, got {name}={found[name]} and {text}; keep one")
        found[name] = value
    return found


def yaml_values(texts: list[str] | None, flag: str) -> dict[str, Any]:
    """Values by name from `name=value`, each in YAML, such as 3 or [max,conv], as `flag` was given them."""
    try:
        return {name: parse_yaml(value) for name, value in pairs(texts, flag).items()}
    except ValueError as error:
        raise ValueError(f"the value of an `{flag}` must be YAML, such as 3 or [max,conv]: {error}") from error


def numbers(texts: list[str] | None, flag: str) -> dict[str, float]:
    """Numbers by name from `name=number`, as `flag` was given them."""
    return {name: amount(name, value, flag) for name, value in pairs(texts, flag).items()}


def amount(name: str, value: object, flag: str) -> float:
    """A number of what `name` is measured in; of milliseconds also as text with their unit, such as 0.5ms.

    Args:
        name: such as macs or latency_ms; what is in milliseconds has `_ms` in it.
        value: a number, or text.
        flag: what the setting is called.

    Raises:
        ValueError: no number, or milliseconds of something else.
    """
    text = str(value)
    timed = text.endswith("ms")
    if timed and not re.search(r"_ms(_|$)", name):
        raise ValueError(
            f"`{flag}` may be in ms for what is measured in milliseconds, such as latency_ms=0.5ms, got {name}={bare(text)}; give a "
            "number without a unit"
        )
    try:
        return float(text.removesuffix("ms"))
    except ValueError:
        raise ValueError(
            f"`{flag}` must be name=number, such as macs=60e6 or latency_ms=0.5ms, got {name}={bare(text)}"
        ) from None


def floats(text: str, flag: str) -> list[float]:
    """Comma-separated numbers."""
    try:
        return [float(part) for part in names(text)]
    except ValueError:
        raise ValueError(f"`{flag}` must be numbers joined by commas, got {quoted(text)}") from None


def shape(text: str | None) -> tuple[int, ...] | None:
    """Sizes joined by x, batch first, such as 1x3x32x32.

    Raises:
        ValueError: they are no such sizes, or come to more than `LARGEST_INPUT` numbers.
    """
    if text is None:
        return None
    try:
        sizes = tuple(int(part) for part in text.split("x"))
    except ValueError:
        sizes = ()
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"`input` must be sizes joined by x, batch first, such as 1x3x32x32, got {quoted(text)}")
    if len(sizes) > MOST_DIMENSIONS or math.prod(sizes) > LARGEST_INPUT:
        raise ValueError(
            f"`input` must have at most {LARGEST_INPUT:,} numbers in {MOST_DIMENSIONS} dimensions, got {quoted(text)}; give fewer"
        )
    return sizes
