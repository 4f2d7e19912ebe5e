"""The report as one HTML page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd

from nas.objectives import both_figures, gap, kendall, same_order
from nas.report.format import UNKNOWN, Table, front_table, measured, si
from nas.report.html import document, facts, figure, listed, pairs
from nas.report.point_labels import drawable
from nas.runtime import names_function
from nas.scoring import contract
from nas.strategies import STRATEGIES
from nas.study import Study, choose
from search_spaces import SPACES

FAILURES = 20
"""Failed trials that a page names."""
COUNTED = 50_000
"""Descriptions that a page walks over at most to tell how many architectures they are."""
WORTHWHILE = 0.1
"""By how much a supernet's tau has to be above that of macs to be worth its training."""

CAPTIONS = {
    "front": "Each dot is an architecture and the line is the best that was found at each cost, so that everything off it is beaten "
    "by something on it; diamonds, where there are any, are networks trained alone.",
    "curves": "Curves that have flattened out mean that the supernets had epochs enough; where there are several, even bands mean "
    "that they were trained evenly.",
    "rank": "The closer the points on the left come to rising steadily, the better the supernet ordered the architectures; it was "
    "worth its training where its τ is clearly above that of macs on the right.",
}


def title(study: Study) -> str:
    """What was searched, on what."""
    data = study.record["data"]
    return (
        f"{study.config.space.title} on {data['name']}"
        if data
        else f"{study.config.space.title} by {study.config.evaluate}"
    )


def searched(study: Study) -> str:
    """Where the figures that the search saw come from."""
    if study.config.evaluate is not None:
        return "given"
    return "supernet" if study.config.supernets.count else "validation"


def examples(study: Study) -> str:
    """What the run's data are called."""
    return "images" if study.config.data is not None else "examples"


def render(study: Study, images: Mapping[str, bytes], epochs: int) -> str:
    """The page.

    Args:
        study: a run in any state.
        images: PNG files by name; those of `CAPTIONS` are shown.
        epochs: how long the supernets were trained.
    """
    ranked, front, asked = study.ranked, study.front, study.searched_front
    parts = [
        _lede(study),
        _unfinished(study, ranked, asked, epochs),
        *([_headline(study, ranked, front), _front(study, ranked, front, asked)] if len(front) else []),
        *(figure(name, images[name], CAPTIONS[name]) for name in CAPTIONS if name in images),
        _ranking(study, ranked),
        _exports(study),
        _failed(study),
        _asked(study),
        _made(study.record),
    ]
    return document(title(study), parts)


# --- what came out ---


def _lede(study: Study) -> str:
    config, data = study.config, study.record["data"]
    if data is None:
        given = f"figures given by {escape(str(config.evaluate))}"
    else:
        sizes = ", ".join(f"{data[part]:,} {part}" for part in ("train", "validation", "test"))
        given = f"{escape(data['name'])} ({sizes} {examples(study)})"
    count = config.supernets.count
    how = f" with {count} supernet{'s' if count > 1 else ''}" if count and config.measured else ""
    return (
        f"<p>A search of {_size(study)} for {escape(_and([objective.name for objective in study.objectives]))} on {given}, "
        f"by strategy {escape(config.strategy)}{how}, seed {config.seed}.</p>"
    )


def _unfinished(study: Study, ranked: pd.DataFrame, front: pd.DataFrame, epochs: int) -> str:
    config = study.config
    missing = []
    planned = config.supernets.training.epochs if config.supernets.count and config.measured else 0
    if epochs < planned:
        missing.append(f"the supernets have trained {epochs} of {planned} epochs")
    if ranked.empty:
        missing.append("no architecture has been scored yet")
    elif STRATEGIES[config.strategy].everything and not config.budget.seconds and (size := _count(study)):
        asked = min(size, config.budget.trials or size)
        if len(ranked) < asked:
            missing.append(f"{len(ranked):,} of {asked:,} architectures have been scored")
    wanted = {"front": len(front), "all": len(ranked), "none": 0}[config.alone.which] * config.alone.seeds
    if len(study.alone) < wanted:
        missing.append(f"{len(study.alone)} of {wanted} networks have been trained alone")
    return f'<p class="warning">This run is not finished: {"; ".join(missing)}.</p>' if missing else ""


def _headline(study: Study, ranked: pd.DataFrame, front: pd.DataFrame) -> str:
    tiles = [(str(len(front)), f"on the front, of {len(ranked):,} architectures tried")]
    worth, kind = study.worth, examples(study)
    of_search = "given" if study.config.evaluate else f"{searched(study)}, validation {kind}"
    for column, where in ((f"{worth.name}_alone", f"trained alone, test {kind}"), (worth.name, of_search)):
        if column in ranked and ranked[column].notna().any():
            rows = ranked.dropna(subset=[column]).sort_values(column, kind="stable")
            best = rows.iloc[-1 if worth.higher_is_better else 0]
            name = f'<span class="whole">{escape(str(best["label"]))}</span>'
            said = worth.name.replace("_", " ")
            tiles.append((escape(measured(worth)(best[column])), f"best {escape(said)} ({where}), of {name}"))
            break
    table = front_table(choose(study, "knee"), searched(study), metrics=study.metrics)
    told = ", ".join(f"{cell} {name}" for name, cell in zip(table.columns[1:], table.rows[0][1:], strict=True))
    what = "the knee of the front, the balanced pick" if len(front) > 1 else "all of the front"
    tiles.append((escape(table.rows[0][0]), f"{what}: {escape(told)}"))
    return facts(tiles)


def _front(study: Study, ranked: pd.DataFrame, front: pd.DataFrame, asked: pd.DataFrame) -> str:
    names = [objective.name for objective in study.objectives]
    shown = front_table(front, searched(study), names, study.metrics)
    kept = contract(study.space)
    knee = choose(study, "knee")["label"].iloc[0]
    notes = []
    said, kind = study.worth.name.replace("_", " "), examples(study)
    if f"{said} alone" in shown.columns:
        notes.append(
            f"{said.capitalize()} alone: the network trained {kept.alone} on training and validation {kind}, on test {kind}."
        )
    if f"{said} {searched(study)}" in shown.columns:
        own = study.config.evaluate is not None
        source = f"by {study.config.evaluate}" if own else f"{kept.worth_in_words(study.config)}, on validation {kind}"
        notes.append(f"{said.capitalize()} {searched(study)}: {source}, as the search saw it.")
    if "latency" in shown.columns:
        notes.append(
            f"Latency: one {kind.removesuffix('s')} at a time, median and quartiles, on the hardware named below."
        )
    numbers = None if drawable(ranked["label"]) else {label: at for at, label in enumerate(asked["label"], start=1)}
    table = _table(shown, knee, numbers)
    behind = asked[~asked["label"].isin(front["label"])]
    text = f'<h2>The front, cheapest first</h2>\n{table}\n<p class="quiet">{" ".join(notes)}</p>'
    if behind.empty:
        return text
    rest = _table(front_table(behind, searched(study), names, study.metrics), knee, numbers)
    return f"{text}\n<h2>On the front as the search saw it, and behind once trained alone</h2>\n{rest}"


def _table(table: Table, knee: str, numbers: Mapping[str, int] | None) -> str:
    """Rows have numbers where labels are too long, because the plots call them by those."""
    name = ' class="long"' if numbers else ""
    cells = [["#", *table.columns]] if numbers else [table.columns]
    cells += [[str(numbers.get(row[0], UNKNOWN)), *row] if numbers else row for row in table.rows]
    lines = []
    for at, row in enumerate(cells):
        tag, where = "td" if at else "th", len(row) - len(table.columns)
        mark = '<span class="tag">knee</span>' if at and row[where] == knee else ""
        parts = [
            f"<{tag}{name}>{escape(cell)}{mark}</{tag}>" if column == where else f"<{tag}>{escape(cell)}</{tag}>"
            for column, cell in enumerate(row)
        ]
        lines.append(f"<tr>{''.join(parts)}</tr>")
    return '<div class="wide"><table>' + "\n".join(lines) + "</table></div>"


def _ranking(study: Study, ranked: pd.DataFrame) -> str:
    worth = study.worth
    table = both_figures(ranked, worth)
    if table.empty or not study.config.supernets.count:
        return ""
    ours, macs = (kendall(table[column], table[f"{worth.name}_alone"]) for column in (worth.name, "by_macs"))
    said = worth.name.replace("_", " ")
    count = f"{len(table)} architecture{'s' if len(table) > 1 else ''}"
    if ours is None or macs is None:
        text = f"Kendall's tau says nothing here: it needs 3 architectures that differ, and {count} trained alone."
    else:
        text = (
            f"Over {count} trained alone, Kendall's tau with {said} alone is {ours:.2f} for the supernet and {macs:.2f} for macs. "
            f"{_verdict(table, ranked, worth.name)}"
        )
    return f"<h2>How well the search ranked</h2>\n<p>{text}</p>"


def _verdict(table: pd.DataFrame, ranked: pd.DataFrame, metric: str) -> str:
    """Whether the supernet orders better than macs, where the rows of `both_figures` are enough to tell."""
    more = "; train more of them alone (<code>retrain</code> all) to tell" if len(table) < len(ranked) else ""
    if same_order(table, metric):
        return f"It cannot do otherwise here, because both order these architectures alike{more}."
    found = gap(table, metric, truth=f"{metric}_alone")
    if found is None:
        return f"These are too few to tell whether the supernet orders better than macs do{more}."
    interval = f"The difference is {found.difference:.2f}, 95 % interval {found.low:.2f} to {found.high:.2f}"
    if found.low > 0:
        return f"{interval}: the supernet orders them better than macs do."
    if found.high < WORTHWHILE:
        return f"{interval}: the supernet orders them no better than macs do."
    return f"{interval}: these are too few to tell whether the supernet orders better than macs do{more}."


def _exports(study: Study) -> str:
    folders = sorted(path.parent.name for path in study.folder.glob("exports/*/architecture.json"))
    if not folders:
        return ""
    knee = study.find(choose(study, "knee")["architecture"].iloc[0]) if len(study.trials) else None
    place = study.place("exports", knee).name if knee else ""
    example = f"exports/{place if place in folders else folders[0]}"
    name = study.config.space.name
    given = "" if name in SPACES else f", space={name!r}" if names_function(name) else ", space"
    shape = ", ".join(map(str, study.space.net.input_shape))
    of_images = study.config.data is not None
    what, out = ("images", "logits") if of_images else ("inputs", "outputs")
    code = [
        "import nas, torch",
        f"model = nas.load({json.dumps(example)}{given})",
        f"{what} = torch.zeros(8, {shape})  # yours{', normalised as architecture.json says' if of_images else ''}",
        "with torch.no_grad():",
        f"    {out} = model({what})",
    ]
    listed = ", ".join(f"<code>exports/{escape(name)}</code>" for name in folders)
    return (
        f"<h2>The subnets</h2>\n<p>Ready to run, in this folder: {listed}.</p>\n<pre>{escape(chr(10).join(code))}</pre>"
    )


def _failed(study: Study) -> str:
    failed = study.failed
    if failed.empty:
        return ""
    rows = [(str(row.label), str(row.reason)) for row in failed.head(FAILURES).itertuples()]
    rest = (
        f'<p class="quiet">{len(failed) - FAILURES:,} more stand in failed.csv.</p>' if len(failed) > FAILURES else ""
    )
    return f"<h2>Trials that failed: {len(failed):,}</h2>\n{listed(rows)}\n{rest}"


# --- what was asked, and how it was made ---


def _asked(study: Study) -> str:
    config = study.config
    training, alone = config.supernets.training, config.alone
    rows: dict[str, Any] = {
        "space": f"{config.space.title}, {_size(study)}",
        "its options": pairs(study.record["space"]["options"]),
        **_source(study),
        "objectives": ", ".join(config.objectives),
        "strategy": config.strategy,
        "budget": pairs({name: value for name, value in config.budget.model_dump().items() if value is not None}),
    }
    recipe = "AdamW, " if training.optimizer == "adamw" else ""
    recipe += f"batches of {training.batch_size}, learning rate {training.learning_rate:g}"
    if config.measured and contract(study.space).trains:
        who = config.supernets.count or "each trial alone"
        rows["supernets"] = f"{who}, {training.epochs} epochs, {recipe}"
    if alone.which != "none":
        rows["trained alone"] = (
            f"{alone.which}, {alone.training.epochs} epochs, {alone.seeds} seed{'s' if alone.seeds > 1 else ''}"
        )
    rows["seed"] = config.seed
    every = "<p class='quiet'>Every setting is in <code>run.yaml</code>, which <code>nas search --config</code> runs again.</p>"
    return f"<h2>What was asked</h2>\n{listed(rows.items())}\n{every}"


def _source(study: Study) -> dict[str, str]:
    """Where figures come from."""
    data = study.record["data"]
    if data is None:
        return {"figures": f"given by {study.config.evaluate}"}
    by = {"task": study.config.task} if study.config.task else {}
    return {**by, "data": f"{data['name']}, fingerprint {data['fingerprint']}"}


def _made(record: Mapping[str, Any]) -> str:
    sessions = record["sessions"]
    if not sessions:
        return ""
    last = sessions[-1]
    rows = [("command", session["command"]) for session in sessions]
    rows += [
        ("last started", last["started"]),
        ("commit", last["commit"] or "not from a checkout"),
        ("hardware", pairs(last["hardware"])),
        ("versions", pairs(last["versions"])),
    ]
    return f"<h2>How it was made</h2>\n{listed(rows)}"


def _and(words: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)


def _size(study: Study) -> str:
    count = _count(study)
    found = f"{si(count)} architectures" if count else f"at most {si(study.space.raw_size)} architectures"
    limits = " and ".join(f"{name} of at most {si(limit)}" for name, limit in study.config.limits.items())
    return f"{found} with {limits}" if limits else found


def _count(study: Study) -> int | None:
    """How many architectures may be proposed, unless counting takes too long or would price each, as limits do."""
    tied = study.space.constraints or study.space.canonical
    return None if study.config.limits or (tied and study.space.raw_size > COUNTED) else study.space.size
