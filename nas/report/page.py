"""The report as one HTML page."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd

from estimators.counting import is_shape
from nas.objectives import both_figures, gap, kendall, same_order
from nas.report.axes import drawable
from nas.report.beside import against
from nas.report.format import UNKNOWN, Table, front_table, measured, si
from nas.report.html import document, facts, figure, framed, listed, pairs, table
from nas.report.inputs import as_code
from nas.report.page_data import island, page_data
from nas.report.timeline import DONE, FAILED, TRAINED, Span, by_worker, clock, sessions, spans
from nas.runtime import names_function
from nas.scoring import contract
from nas.strategies import STRATEGIES
from nas.study import Study, choose
from search_spaces import SPACES

FAILURES = 20
"""Failed trials that a page names without its script."""
COUNTED = 50_000
"""Descriptions that a page walks over at most to tell how many architectures they are."""
WORTHWHILE = 0.1
"""By how much a supernet's tau has to be above that of macs to be worth its training."""

CAPTIONS = {
    "front": "Each dot is an architecture and the line is the best that was found at each cost, so that everything off it is beaten "
    "by something on it; diamonds, where there are any, are networks trained alone, the star is the trained model that was "
    "searched, and other marks are what other methods made of it.",
    "choices": "A column is a member of the front and a row a choice: the darker, the later the value among those that the choice has, "
    "as the larger of widths and depths; a dash is a choice that does not exist there, as in a block that is left out.",
    "curves": "Curves that have flattened out mean that the supernets had epochs enough; where there are several, even bands mean "
    "that they were trained evenly.",
    "rank": "The closer the points on the left come to rising steadily, the better the supernet ordered the architectures; it was "
    "worth its training where its τ is clearly above that of macs on the right.",
}
EXPLORER = """
<section id="explorer" aria-labelledby="explorer-title" hidden>
<h2 id="explorer-title">Trials, point by point</h2>
<div class="controls"><label>up <select id="up"></select></label><label>across <select id="across"></select></label></div>
<div class="closer"><div id="plot"><svg role="group"></svg>
<ul class="legend quiet">
<li><svg viewBox="0 0 12 12" aria-hidden="true"><circle class="member" cx="6" cy="6" r="4.5"/></svg>front</li>
<li id="legend-behind"><svg viewBox="0 0 12 12" aria-hidden="true"><circle class="member behind" cx="6" cy="6" r="4.5"/></svg>
behind once trained alone</li>
<li id="legend-alone"><svg viewBox="0 0 12 12" aria-hidden="true"><path class="alone" d="M6 1l5 5l-5 5l-5-5z"/></svg>trained alone</li>
<li><svg viewBox="0 0 12 12" aria-hidden="true"><path class="dots" d="M6 6h0"/></svg>other trials</li>
</ul></div>
<section id="details" aria-label="The chosen trial" aria-live="polite"><p class="quiet empty">Point at a dot to
see what it is. Click it, or a name in a table, for its choices and a command that makes something of it.</p></section></div>
<form id="filter" class="controls"><label>name or choice <input id="words" type="search" placeholder="words, name=value"></label>
<label><input id="front-only" type="checkbox"> front only</label>
<fieldset><label>limit <select id="limited"></select></label><select id="side" aria-label="at most or at least">
<option value="most">≤</option><option value="least">≥</option></select>
<input id="bound" aria-label="value of the limit" placeholder="60M, 93, 1.5" autocomplete="off"> <button>Add</button></fieldset></form>
<div id="limits"></div>
<p id="count" class="quiet" role="status"></p>
<div id="trials"></div>
</section>"""
TIMELINE = """
<div id="timeline" hidden>
<div class="controls" id="zoom"><label>show <select id="period"></select></label></div>
<svg role="img" aria-label="What each worker did when; the table below says it in numbers"></svg>
<ul class="legend quiet"><li><span class="key0">■</span> trial</li><li><span class="key1">■</span> training alone</li>
<li><span class="key2">■</span> failed trial</li><li>gray behind: a session</li></ul>
</div>"""


def title(study: Study) -> str:
    """What was searched, on what."""
    data = study.record["data"]
    of = f" on {data['name']}" if data else f" by {study.config.evaluate}" if study.config.evaluate else ""
    return f"{study.config.space.title}{of}"


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
    done = spans(study)
    data = page_data(study, ranked, front, asked, searched(study), done)
    places = {label: at for at, label in enumerate(data.get("labels", ()))}
    parts = [
        _lede(study),
        _unfinished(study, ranked, asked, epochs),
        *([_headline(study, ranked, front)] if len(front) else []),
        EXPLORER if len(ranked) else "",
        *([_front(study, ranked, front, asked, places)] if len(front) else []),
        against(study, front, ranked) if len(front) else "",
        *(_image(name, images[name]) for name in CAPTIONS if name in images),
        _ranking(study, ranked),
        _exports(study),
        _failed(study),
        _workers(done),
        _sessions(study.record),
        _asked(study),
        _made(study.record),
    ]
    return document(title(study), parts, island(data))


def _image(name: str, image: bytes) -> str:
    """A figure; the script draws that of the front in a better form."""
    drawn = figure(name, image, CAPTIONS[name])
    return f'<div class="replaced">{drawn}</div>' if name == "front" else drawn


# --- what came out ---


def _lede(study: Study) -> str:
    config, data = study.config, study.record["data"]
    if data is None:
        given = f"figures given by {escape(config.evaluate)}" if config.evaluate else "no examples"
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
    elif STRATEGIES[config.strategy].everything and not _may_end_early(study) and (size := _count(study)):
        asked = min(size, config.budget.trials or size)
        if len(ranked) < asked:
            missing.append(f"{len(ranked):,} of {asked:,} architectures have been scored")
    wanted = {"front": len(front), "all": len(ranked), "none": 0}[config.alone.which] * config.alone.seeds
    if len(study.alone) < wanted:
        missing.append(f"{len(study.alone)} of {wanted} networks have been trained alone")
    return f'<p class="warning">This run is not finished: {"; ".join(missing)}.</p>' if missing else ""


def _may_end_early(study: Study) -> bool:
    """Whether something else than the number of trials may have ended the search."""
    budget = study.config.budget
    return any(limit is not None for limit in (budget.seconds, budget.macs, budget.patience))


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


def _front(
    study: Study, ranked: pd.DataFrame, front: pd.DataFrame, asked: pd.DataFrame, places: Mapping[str, int]
) -> str:
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
    listing = _table(shown, knee, numbers, places)
    behind = asked[~asked["label"].isin(front["label"])]
    text = f'<h2>The front, cheapest first</h2>\n{listing}\n<p class="quiet">{" ".join(notes)}</p>'
    if behind.empty:
        return text
    rest = _table(front_table(behind, searched(study), names, study.metrics), knee, numbers, places)
    return f"{text}\n<h2>On the front as the search saw it, and behind once trained alone</h2>\n{rest}"


def _table(table: Table, knee: str, numbers: Mapping[str, int] | None, places: Mapping[str, int]) -> str:
    """Rows have numbers where labels are too long, because the plots call them by those. The script finds trials by their places."""
    long = ' class="long"' if numbers else ""
    heads = [*(["#"] if numbers else []), *table.columns]
    titles = (f"<th{long if head == table.columns[0] else ''}>{escape(head)}</th>" for head in heads)
    lines = []
    for label, *figures in table.rows:
        number = f"<td>{numbers.get(label, UNKNOWN)}</td>" if numbers else ""
        mark = '<span class="tag">knee</span>' if label == knee else ""
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in figures)
        lines.append(f'<tr>{number}<td{long} data-trial="{places[label]}">{escape(label)}{mark}</td>{cells}</tr>')
    return framed(f"<tr>{''.join(titles)}</tr>", lines)


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
    by_name = name in SPACES or ":" in name
    given = f", space={name!r}" if names_function(name) else "" if by_name else ", space"
    net, of_images = study.space.net, study.config.data is not None
    what, out = ("images", "logits") if of_images else ("inputs", "outputs")
    made, call = (
        (f"torch.zeros(8, {', '.join(map(str, net.inputs))})", what) if is_shape(net.inputs) else as_code(net.inputs)
    )
    code = [
        "import nas, torch",
        f"model = nas.load({json.dumps(example)}{given})",
        f"{what} = {made}  # yours{', normalised as architecture.json says' if of_images else ''}",
        "with torch.no_grad():",
        f"    {out} = model({call})",
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
    listing = f'<div class="replaced">{listed(rows)}\n{rest}</div>'
    return f'<h2>Trials that failed: {len(failed):,}</h2>\n<div id="failures"></div>\n{listing}'


# --- who did what when ---


def _workers(found: Sequence[Span]) -> str:
    rows = []
    for worker, own in by_worker(found):
        count = Counter(span.kind for span in own)
        busy = sum(span.end - span.start for span in own)
        ends = clock(own[0].start), clock(max(span.end for span in own))
        rows.append([worker, *(f"{count[kind]:,}" for kind in (DONE, FAILED, TRAINED)), f"{busy:,.1f}", *ends])
    if not rows:
        return ""
    heads = ["worker", "trials", "failed", "trained alone", "busy (s)", "from (UTC)", "to (UTC)"]
    return f"<h2>Who did what when</h2>{TIMELINE}\n{table(heads, rows)}"


def _sessions(record: Mapping[str, Any]) -> str:
    rows = []
    for session in sessions(record):
        ended = "" if session.end is None else clock(session.end)
        how = "finished" if ended else "not finished when this page was written: running, or stopped"
        rows.append([session.command, clock(session.start), ended, how])
    shown = table(["command", "started (UTC)", "ended (UTC)", "how it ended"], rows, wide=["command", "how it ended"])
    return f"<h2>Sessions</h2>\n{shown}" if rows else ""


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
        return {
            "figures": f"given by {study.config.evaluate}" if study.config.evaluate else "costs alone, without examples"
        }
    by = {"task": study.config.task} if study.config.task else {}
    return {**by, "data": f"{data['name']}, fingerprint {data['fingerprint']}"}


def _made(record: Mapping[str, Any]) -> str:
    if not record["sessions"]:
        return ""
    last = record["sessions"][-1]
    rows = [
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
