"""What the pages are made of: one HTML file without anything outside it."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

STYLE = """
:root { color-scheme: light dark; --ink: #1d2329; --quiet: #59636e; --line: #d9dee3; --paper: #fff; --tint: #f3f6f9; --blue: #1368aa }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ec; --quiet: #9aa5b1; --line: #353d46; --paper: #14181c; --tint: #1e242a; --blue: #6db3ea } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 60rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .5rem }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem }
p { margin: .5rem 0 }
.quiet, figcaption, dt { color: var(--quiet); font-size: .9rem }
.warning { border-left: 4px solid #d98b00; padding: .4rem .8rem; background: var(--tint) }
.facts { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.2rem 0 }
.facts div { flex: 1 1 12rem; background: var(--tint); border-radius: .5rem; padding: .7rem 1rem }
.facts b { display: block; font-size: 1.5rem; line-height: 1.3; color: var(--blue) }
.wide { overflow-x: auto; overflow-wrap: normal }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { padding: .35rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap }
th { font-size: .85rem; color: var(--quiet); font-weight: 600 }
th:first-child, td:first-child { text-align: left }
th.long, td.long { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 14rem }
.tag { font-size: .75rem; border: 1px solid var(--blue); color: var(--blue); border-radius: 1rem; padding: 0 .5rem; margin-left: .4rem }
figure { margin: 1.2rem 0 }
figcaption { margin-top: .4rem }
img { display: block; width: 100%; min-width: 34rem; max-width: 48rem; height: auto; border-radius: .4rem }
@media (prefers-color-scheme: dark) { img { filter: invert(.92) hue-rotate(180deg) } }
pre { background: var(--tint); border-radius: .4rem; padding: .8rem 1rem; overflow-x: auto; overflow-wrap: normal; font-size: .85rem }
code { font-family: ui-monospace, monospace; font-size: .9em }
code, .whole { display: inline-block; max-width: 100% }
dl { display: grid; grid-template-columns: minmax(6rem, max-content) 1fr; gap: .3rem 1.2rem; margin: .5rem 0 }
dd { margin: 0 }
"""


def document(title: str, parts: Iterable[str]) -> str:
    """A page of parts that are HTML already, under its title, which is text; empty parts are left out."""
    heading = escape(title)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{heading}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{heading}</h1>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body>\n</html>\n"
    )


def facts(tiles: Iterable[tuple[str, str]]) -> str:
    """Figures that stand out, each with what it is; both are HTML already."""
    return '<div class="facts">' + "".join(f"<div><b>{head}</b>{text}</div>" for head, text in tiles) + "</div>"


def figure(name: str, image: bytes, caption: str) -> str:
    """A PNG inside the page."""
    source = base64.b64encode(image).decode()
    return (
        f'<figure><div class="wide"><img alt="{escape(name)} plot" src="data:image/png;base64,{source}"></div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of text, its first column to the left."""
    lines = [f"<tr>{''.join(f'<th>{escape(cell)}</th>' for cell in columns)}</tr>"]
    lines += [f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows]
    return '<div class="wide"><table>' + "\n".join(lines) + "</table></div>"


def listed(rows: Iterable[tuple[str, Any]]) -> str:
    """Names and values of any kind, as text; empty values are left out."""
    return "<dl>" + "\n".join(f"<dt>{escape(a)}</dt><dd>{escape(str(b))}</dd>" for a, b in rows if b != "") + "</dl>"


def pairs(values: Mapping[str, Any]) -> str:
    """Names and values in a line of text."""
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items())
