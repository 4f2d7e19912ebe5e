"""Words of errors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import get_close_matches

LINE = 120
"""Characters of a value that an error shows."""


def unknown_name(kind: str, name: object, known: Iterable[str]) -> ValueError:
    """The error for a `name` that is not among `known` names of a `kind`: the nearest names first, then what there is."""
    names = list(known)
    near = get_close_matches(name[:LINE], names, n=3, cutoff=0.5) if isinstance(name, str) else []
    question = f" did you mean {' or '.join(near)}?" if near else ""
    rest = f", … ({len(names)} in all)" if len(names) > 20 else ""
    return ValueError(f"no {kind} is named {quoted(name)};{question} known: {', '.join(names[:20])}{rest}")


def first_line(error: BaseException) -> str:
    """What an error says first, or its type where it says nothing."""
    return cut((str(error).strip() or type(error).__name__).splitlines()[0], 3 * LINE)


def cut(text: str, most: int) -> str:
    """Text of at most so many characters, and a sign where more are left out."""
    return text if len(text) <= most else text[:most] + "…"


def quoted(value: object) -> str:
    """A value as Python writes it, cut to a line; of a large one no more is written than is shown.

    A list that stands in itself many times over, as aliases of YAML make it, is one of gigabytes when it is written.
    """
    text = ""
    for piece in _pieces(value):
        text += piece
        if len(text) > LINE:
            break
    return cut(text, LINE)


def bare(value: object) -> str:
    """`quoted`, but text without quotes."""
    return cut(value, LINE) if isinstance(value, str) else quoted(value)


def _pieces(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        yield "{"
        for number, (key, inner) in enumerate(value.items()):
            yield ", " if number else ""
            yield from _pieces(key)
            yield ": "
            yield from _pieces(inner)
        yield "}"
    elif type(value) in (list, tuple):
        yield "[" if type(value) is list else "("
        for number, inner in enumerate(value):  # type: ignore[arg-type]
            yield ", " if number else ""
            yield from _pieces(inner)
        yield "]" if type(value) is list else ",)" if len(value) == 1 else ")"  # type: ignore[arg-type]
    elif isinstance(value, (str, bytes)):
        yield repr(value[: LINE + 1])
    elif type(value) is int and abs(value) >= 10**LINE:
        yield f"{value:#x}"  # Python refuses to write thousands of digits in tens
    else:
        yield repr(value)
