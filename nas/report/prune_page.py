"""The page of a pruning: what was cut where, what that saved, and how it was made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

from nas.objectives import Objective
from nas.report.format import measured, milliseconds, percent, repaired, si
from nas.report.html import document, facts, figure, listed, pairs, table
from pruners.result import RUNTIMES, slower

CAPTION = (
    "Blue stays, grey is gone: a bar for each group of indices that lost any, in order of the model; indices of a group go together "
    "from all the tensors that they are in."
)
FORMS = {
    "module": "It is a copy of the given module with smaller tensors.",
    "graph": "It is the rewritten graph of the model, as its own forward cannot express the smaller shapes.",
}


def prune_page(summary: Mapping[str, Any]) -> str:
    """The page of a pruning, self-contained.

    Args:
        summary: what `nas.prune` returns and `summary.json` holds; `Summary.to_dict()` of `pruners.prune` does as well.
    """
    parts = [
        _lede(summary),
        *_notes(summary),
        _headline(summary),
        _costs(summary),
        _milliseconds(summary),
        _measured(summary),
        _cuts(summary),
        _section("Blocks left out", summary.get("blocks")),
        _section("What auto came to", summary.get("chosen")),
        _section("Repair", {note["step"]: repaired(note) or "done" for note in summary.get("recovery", ())}),
        _form(summary),
        _section("Settings", dict(_flat(summary.get("settings", {})))),
        _made(summary),
    ]
    return document(_title(summary), parts)


def _title(summary: Mapping[str, Any]) -> str:
    return f"{summary.get('settings', {}).get('model', 'A model')}, pruned"


def _notes(summary: Mapping[str, Any]) -> Iterator[str]:
    """What is to be known: a warning where the smaller model is no faster, and a note of everything else."""
    warnings = slower(summary.get("milliseconds", {}))
    for warning in warnings:
        yield f'<p class="warning">{escape(_sentence(warning))}</p>'
    for note in summary.get("notes", ()):
        if note not in warnings:
            yield f'<p class="note">{escape(_sentence(note))}</p>'


def _lede(summary: Mapping[str, Any]) -> str:
    asked = ", ".join(f"{name} of at most {si(found['asked'])}" for name, found in summary.get("targets", {}).items())
    difference = summary.get("difference")
    proof = (
        "Its outputs were not compared with those of the masked model, as the check was off."
        if difference is None
        else f"Its outputs differ from those of the full model with the removed indices silenced by {difference:.1e}, relative."
    )
    said = f"Asked for: {escape(asked)}. " if asked else ""
    return f"<p>{said}{proof} {escape(FORMS.get(summary['form'], ''))}</p>"


def _headline(summary: Mapping[str, Any]) -> str:
    before, after = summary["before"], summary["after"]
    tiles = [
        (f"{_times(before[name], after[name])}", f"less {name}: {si(after[name])} of {si(before[name])}")
        for name in ("macs", "params")
        if before.get(name) and after.get(name)
    ]
    for runtime, (was, now) in summary.get("milliseconds", {}).items():
        title = RUNTIMES.get(runtime, runtime)
        tiles.append((milliseconds(now), f"in {escape(title)}, {milliseconds(was)} before"))
    figures = [next(iter(row.values())) for row in summary.get("test", {}).values()]
    if len(figures) > 1:
        name, show = next(iter(shows(summary).items()))
        tiles.append((show(figures[-1]), f"{escape(_said(name))} on test examples, {show(figures[0])} before"))
    return facts(tiles)


def _costs(summary: Mapping[str, Any]) -> str:
    before, after, targets = summary["before"], summary["after"], summary.get("targets", {})
    rows = [
        [
            name,
            si(before[name]),
            si(after[name]),
            _times(before[name], after[name]),
            si(targets[name]["asked"]) if name in targets else "",
        ]
        for name in before
    ]
    return f"<h2>What it costs</h2>\n{table(['', 'before', 'after', 'less by', 'asked for'], rows)}"


def _milliseconds(summary: Mapping[str, Any]) -> str:
    found = summary.get("milliseconds", {})
    rows = [
        [RUNTIMES.get(runtime, runtime), milliseconds(was), milliseconds(now), _times(was, now)]
        for runtime, (was, now) in found.items()
    ]
    if not rows:
        return ""
    about = "Lower quartiles for the example input on the hardware named below; both models took turns."
    shown = table(["", "before", "after", "faster by"], rows)
    return f'<h2>What it takes on this machine</h2>\n{shown}\n<p class="quiet">{about}</p>'


def shows(summary: Mapping[str, Any]) -> dict[str, Callable[..., str]]:
    """How each metric of the task is written, by its name."""
    return {name: measured(Objective(**known)) for name, known in summary.get("metrics", {}).items()}


def _said(name: str) -> str:
    return name.replace("_", " ")


def _measured(summary: Mapping[str, Any]) -> str:
    figures, show = summary.get("test", {}), shows(summary)
    if not figures:
        return ""
    rows = [[when, *(show[name](value) for name, value in row.items())] for when, row in figures.items()]
    return f"<h2>On test examples, step by step</h2>\n{table(['after', *map(_said, show)], rows)}"


def _cuts(summary: Mapping[str, Any]) -> str:
    groups = summary.get("groups", {})
    if not groups:
        return ""
    from nas.report import plots  # matplotlib takes long to import

    drawn = figure("cuts", plots.png(plots.cuts(groups)), CAPTION)
    rows = [[name, str(before), str(after), percent(after / before)] for name, (before, after) in groups.items()]
    listing = table(["group", "before", "after", "stays"], rows)
    return f"<h2>What was cut where</h2>\n{drawn}\n<details><summary>All {len(rows)} groups in numbers</summary>{listing}</details>"


def _form(summary: Mapping[str, Any]) -> str:
    rows: dict[str, Any] = {
        "why a graph": summary.get("reason") or "",
        "serves": pairs(summary.get("serves") or {}),
        "operators without a rule, left alone": pairs(summary.get("unknown") or {}),
    }
    if summary.get("configuration") is not None:
        fits = "describes it" if summary["configuration"] else "cannot express it: save it with PruneResult.save"
        rows["Hugging Face configuration"] = fits
    shown = {name: value for name, value in rows.items() if value != ""}
    return f"<h2>Its form</h2>\n{listed(shown.items())}" if shown else ""


def _made(summary: Mapping[str, Any]) -> str:
    rows = [
        ("command", summary.get("command", "")),
        ("commit", summary.get("commit") or ""),
        ("hardware", pairs(summary.get("hardware", {}))),
        ("versions", pairs(summary.get("versions", {}))),
    ]
    return f"<h2>How it was made</h2>\n{listed(rows)}" if any(value for _, value in rows) else ""


def _section(title: str, value: Any) -> str:
    """A heading with what is there: names with values, or a list; nothing where there is nothing."""
    if not value:
        return ""
    body = (
        listed((name, _words(inner)) for name, inner in value.items())
        if isinstance(value, Mapping)
        else f"<p>{escape(_words(value))}</p>"
    )
    return f"<h2>{escape(title)}</h2>\n{body}"


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return pairs({name: _words(inner) for name, inner in value.items()}) or "none"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_words, value)) or "none"
    return "none" if value is None else str(value)


def _flat(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Settings with the parts that they stand in, as `cut.steps`."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def _times(before: float, after: float) -> str:
    return f"{before / after:.2f}x" if after else "–"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
