"""JSON and YAML of others: bounded in size, depth and what aliases stand for, before anything is made of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from search_spaces.core.bounds import (
    DEEPEST,
    LONGEST_VALUE,
    MOST_BYTES,
    MOST_VALUES,
    MOST_YAML_BYTES,
    MOST_YAML_VALUES,
)
from search_spaces.core.naming import first_line

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C where PyYAML was built with it


def load_json(path: Path, otherwise: str) -> Any:
    """What a JSON file holds.

    Args:
        path: of the file, which is there.
        otherwise: what to do about a file that is damaged; it ends the error.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no JSON, or beyond the bounds of `parse_json`.
    """
    with of_file(path, otherwise):
        return parse_json(read_bytes(path))


def parse_json(text: str | bytes) -> Any:
    """What JSON text says.

    Raises:
        ValueError: it is no JSON, or has more than `MOST_BYTES`, `MOST_VALUES` or `DEEPEST` levels.
    """
    check_json(text)
    try:
        data = json.loads(text)
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise ValueError(f"must be JSON, got {first_line(error)}") from None
    level = [data]
    for _ in range(DEEPEST):
        level = [inner for one in level for inner in _inside(one) if isinstance(inner, (dict, list))]
        if not level:
            return data
    raise _too_deep()


def check_json(text: str | bytes) -> None:
    """Raise ValueError where text is too long to be read as JSON, or would come to more than `MOST_VALUES` values."""
    if len(text) > MOST_BYTES:
        raise ValueError(f"must have at most {MOST_BYTES:,} bytes, got {len(text):,}")
    marks: Any = "{[," if isinstance(text, str) else (b"{", b"[", b",")
    if (values := sum(text.count(mark) for mark in marks)) > MOST_VALUES:
        raise ValueError(f"must hold at most {MOST_VALUES:,} values, got about {values:,}")


def load_yaml(path: Path, otherwise: str) -> Any:
    """What a YAML file holds; arguments and errors as for `load_json`, and bounds as for `parse_yaml`."""
    with of_file(path, otherwise):
        return parse_yaml(read_bytes(path, MOST_YAML_BYTES).decode("utf-8"))


def parse_yaml(text: str) -> Any:
    """What YAML text says, by safe tags alone.

    Raises:
        ValueError: it is no YAML, or has more than `MOST_YAML_BYTES`, `MOST_YAML_VALUES` with aliases, `LONGEST_VALUE` in one value, or
            `DEEPEST` levels.
    """
    if len(text) > MOST_YAML_BYTES:
        raise ValueError(f"must have at most {MOST_YAML_BYTES:,} characters, got {len(text):,}")
    try:
        _check_events(yaml.parse(text, Loader=LOADER))
        return yaml.load(text, Loader=LOADER)
    except _Beyond:
        raise
    except Exception as error:  # a tag such as !!int raises whatever its text leads to
        raise ValueError(f"must be YAML, got {' '.join(str(error).split()) or type(error).__name__}") from None


@contextmanager
def of_file(path: str | Path, otherwise: str) -> Iterator[None]:
    """Begin each ValueError inside with the file that it is about, and end it with what to do.

    Args:
        path: of the file.
        otherwise: what to do about it, such as `export it again`.

    Raises:
        ValueError: another was raised inside. Kinds of it of their own pass as they are, but for those of codecs.
    """
    try:
        yield
    except ValueError as error:
        if type(error) not in (ValueError, _Beyond, UnicodeDecodeError) or str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path}: {error}; {otherwise}") from error


class _Beyond(ValueError):
    """YAML is beyond a bound."""


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """A file of at most so many bytes; ValueError where it has more, of which no more are read."""
    with open(path, "rb") as file:
        found = file.read(most + 1)
    if len(found) > most:
        raise ValueError(f"must have at most {most:,} bytes, got {path.stat().st_size:,}")
    return found


def _inside(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _too_deep() -> ValueError:
    return _Beyond(f"must have at most {DEEPEST} levels of lists and mappings inside each other, got more")


def _check_events(events: Iterator[Any]) -> None:
    """Count the values of YAML as they come, with those that aliases stand for; nothing is made of them."""
    sizes: dict[str | None, int] = {}  # of what an anchor names
    open_: list[tuple[str | None, int]] = []  # the anchor of each list or mapping that is open, and the count before it
    count = 0
    for event in events:
        if isinstance(event, yaml.CollectionStartEvent):
            open_.append((event.anchor, count))
            count += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_.pop()
            if anchor is not None:
                sizes[anchor] = count - before
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor in (anchor for anchor, _ in open_):
                raise _Beyond(f"must not hold itself, got an alias *{event.anchor} inside its own anchor")
            count += sizes.get(event.anchor, 1)
        elif isinstance(event, yaml.ScalarEvent):
            count += 1
            if len(event.value) > LONGEST_VALUE:
                raise _Beyond(
                    f"must have at most {LONGEST_VALUE:,} characters in a value, got one of {len(event.value):,}"
                )
            if event.anchor is not None:
                sizes[event.anchor] = 1
        if len(open_) > DEEPEST:
            raise _too_deep()
        if count > MOST_YAML_VALUES:
            raise _Beyond(f"must hold at most {MOST_YAML_VALUES:,} values with those of its aliases, got more")
