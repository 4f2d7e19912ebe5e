"""What the pages are made of: one HTML file without anything outside it, which shows all it says without its script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from html import escape
from importlib import resources
from typing import Any

LONG = 24  # letters; figures are shorter, and longer labels are written smaller


def document(title: str, parts: Iterable[str], data: str = "") -> str:
    """A page of parts that are HTML already, under its title, which is text; empty parts are left out.

    Nothing but its own style and script may act on the page, and nothing may be loaded: its Content-Security-Policy says so by hashes.

    Args:
        title: of the page.
        parts: HTML.
        data: JSON for the script, in which nothing can end a script element.
    """
    heading, style, script = escape(title), shipped("page.css"), shipped("page.js")
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    held = f'<script type="application/json" id="data">{data}</script>\n' if data else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{heading}</title>\n<style>{style}</style>\n</head>\n<body>\n<h1>{heading}</h1>\n"
        + "\n".join(part for part in parts if part)
        + f"\n{held}<script>{script}</script>\n</body>\n</html>\n"
    )


@cache
def shipped(name: str) -> str:
    """The text of a file that stands beside this one."""
    return resources.files("nas.report").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """How a Content-Security-Policy names a text that is allowed."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def facts(tiles: Iterable[tuple[str, str]]) -> str:
    """Figures that stand out, each with what it is; both are HTML already."""
    return '<div class="facts">' + "".join(f"<div>{_head(head)}{text}</div>" for head, text in tiles) + "</div>"


def _head(text: str) -> str:
    return f'<b class="long">{text}</b>' if len(text) > LONG else f"<b>{text}</b>"


def figure(name: str, image: bytes, caption: str) -> str:
    """A PNG inside the page."""
    source = base64.b64encode(image).decode()
    return (
        f'<figure><div class="wide"><img alt="{escape(name)} plot" src="data:image/png;base64,{source}"></div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], wide: Collection[str] = ()) -> str:
    """A table of text, its first column to the left; the script sorts it by any column. Columns that are `wide` hold sentences."""
    kinds = [' class="long"' if column in wide else "" for column in columns]

    def line(tag: str, cells: Sequence[str]) -> str:
        return f"<tr>{''.join(f'<{tag}{kind}>{escape(cell)}</{tag}>' for kind, cell in zip(kinds, cells, strict=True))}</tr>"

    return framed(line("th", columns), (line("td", row) for row in rows))


def framed(head: str, lines: Iterable[str]) -> str:
    """A table of rows that are HTML already."""
    body = "\n".join(lines)
    return f'<div class="wide"><table class="sorted"><thead>{head}</thead>\n<tbody>{body}</tbody></table></div>'


def listed(rows: Iterable[tuple[str, Any]]) -> str:
    """Names and values of any kind, as text; empty values are left out."""
    return "<dl>" + "\n".join(f"<dt>{escape(a)}</dt><dd>{escape(str(b))}</dd>" for a, b in rows if b != "") + "</dl>"


def pairs(values: Mapping[str, Any]) -> str:
    """Names and values in a line of text."""
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items())
