"""Somebody's text and figures as Markdown that shows them as they are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

LONGEST = 1_000
"""Characters of a text that are shown."""
MARKS = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~$&:@/=^])")


def plain(text: object) -> str:
    """Text of which Markdown and HTML make no more than itself: marks are escaped, and lines and what does not print become spaces."""
    shown = str(text)
    shown = shown if len(shown) <= LONGEST else shown[:LONGEST] + "…"
    shown = "".join(letter if letter.isprintable() else " " for letter in shown)
    return MARKS.sub(lambda found: f"&#{ord(found[1])};" if found[1] in "<>&|`@:/" else f"\\{found[1]}", shown)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; cells are text, columns are Markdown already."""
    lines = [columns, ["---"] * len(columns), *([plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
