"""Words of errors."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def unknown_name(kind: str, name: object, known: Iterable[str]) -> ValueError:
    """The error for a `name` that is not among `known` names of a `kind`: the nearest names first, then what there is."""
    names = list(known)
    near = get_close_matches(str(name), names, n=3, cutoff=0.5)
    question = f" did you mean {' or '.join(near)}?" if near else ""
    rest = f", … ({len(names)} in all)" if len(names) > 20 else ""
    return ValueError(f"no {kind} is named {name!r};{question} known: {', '.join(names[:20])}{rest}")


def first_line(error: BaseException) -> str:
    """What an error says first, or its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
