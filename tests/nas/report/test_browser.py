"""The pages in a browser: what their script does, under their own Content-Security-Policy, and what they look like."""

from __future__ import annotations

import io
import json
import re
import shlex
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from nas import Study
from nas.report import prune_page
from nas.report.html import shipped
from nas.report.page_data import island
from nas.study import New
from nas.study.study import SEARCH
from search_spaces import Categorical, SearchSpace
from tests.browser import open_page, screenshot
from tests.made_up_studies import complete, page_of
from tests.nas.report.test_prune_page import WHOLE

TOOLS = """
const all = (selector, from = document) => [...from.querySelectorAll(selector)];
const one = (selector) => document.querySelector(selector);
const text = (selector, from = document) => all(selector, from).map((each) => each.textContent);
const change = (selector, value, kind = "change") => { one(selector).value = value; one(selector).dispatchEvent(new Event(kind)); };
const key = (element, key) => element.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
const heading = (host, title) => all(`${host} button.sort`).find((each) => each.textContent === title);
const option = (selector, title) => all(`${selector} option`).find((each) => each.textContent === title).value;
const column = (host, at) => all(`${host} tbody tr`).map((row) => row.cells[at].textContent);
"""
WALK = """
const found = {};
const centre = (element) => {
  const box = element.getBoundingClientRect();
  return { clientX: box.x + box.width / 2, clientY: box.y + box.height / 2, bubbles: true };
};
const plot = one("#plot > svg"), members = () => all("#plot > svg .member");
found.drawn = [members().length, one(".replaced").hidden, one("#explorer").hidden];
plot.dispatchEvent(new PointerEvent("pointermove", centre(members()[2])));
found.tip = [one("#tip").hidden, one("#tip").textContent];
plot.dispatchEvent(new MouseEvent("click", centre(members()[2])));
found.chosen = [one("#details h3").textContent, one("#details code").textContent, text("tr[aria-current]"),
  members()[2].getAttribute("aria-pressed")];
members()[0].focus();
key(members()[0], "ArrowRight");
found.focused = members().indexOf(document.activeElement);
key(document.activeElement, "Enter");
found.byKey = one("#details h3").textContent;
key(document.body, "Escape");
found.tipGone = one("#tip").hidden;

heading("#trials", "macs").click(); heading("#trials", "macs").click();
found.dearest = column("#trials", 0).slice(0, 2);
found.sorted = all("#trials th[aria-sort]").map((each) => [each.textContent, each.getAttribute("aria-sort")]);
heading("#trials", "accuracy alone").click();
found.unknownLast = column("#trials", 1).at(-1);
heading("table.sorted", "accuracy supernet").click(); heading("table.sorted", "accuracy supernet").click();
found.best = all("table.sorted")[0].tBodies[0].rows[0].cells[0].textContent;

change("#words", "pools=[1,", "input");
found.words = one("#count").textContent;
change("#words", "", "input");
change("#limited", option("#limited", "macs"));
change("#bound", "10.5M"); one("#filter button").click();
found.limit = [one("#count").textContent, ...text(".limit"), all("#plot > svg .member.faint").length];
change("#limited", option("#limited", "accuracy supernet"));
change("#bound", "60 %"); one("#filter button").click();
found.limits = [one("#count").textContent, ...text(".limit")];
all(".limit").forEach(() => one(".limit").click());
one("#front-only").click();
found.front = one("#count").textContent;
one("#front-only").click();

change("#up", option("#up", "params"));
found.axes = members()[0].getAttribute("aria-label");
change("#up", option("#up", "accuracy supernet"));

found.failed = [all("#failures tbody tr").length, one("#failures tbody tr").textContent];
const bars = (kind) => all(`#timeline path.kind${kind}`).some((path) => path.getAttribute("d"));
found.timeline = [one("#timeline").hidden, ...text("#timeline > svg text").slice(-1), ...[0, 1, 2].map(bars)];
const box = plot.getBoundingClientRect();
found.box = [box.left, box.top, box.right, box.bottom].map((side) => side + 0);
found.wide = document.documentElement.scrollWidth <= window.innerWidth;
return found;
"""


def test_points_tables_filters_and_times_of_a_run(start: Callable[..., Study]) -> None:
    study = complete(start())
    for arch in list(study.space.enumerate())[:3]:
        study.add(SEARCH, arch, None, {"reason": "ValueError: no <b>", "seconds": 0.5})
    page, front = page_of(study), list(study.front["label"])
    found, console = open_page(page, TOOLS + WALK, "--window-size=1200,2000")
    assert isinstance(found, dict), found
    assert found["drawn"] == [len(front), True, False]
    assert found["tip"][0] is False and front[2] in found["tip"][1] and "58.00 %" in found["tip"][1]
    label, command, rows, pressed = found["chosen"]
    assert label == front[2] and pressed == "true" and len(rows) == 2 and all(label in row for row in rows)
    assert shlex.split(command) == ["nas", "export", str(study.folder), "--pick", label]
    assert found["focused"] == 1 and found["byKey"] == front[1] and found["tipGone"]

    trials = study.ranked
    dearest = trials.sort_values("macs", ascending=False)["label"]
    assert found["dearest"] == list(dearest[:2]) and found["sorted"] == [["macs", "descending"]]
    assert found["unknownLast"] == "–" and found["best"] == f"{front[-1]}knee"

    cheap = trials["macs"] <= 10.5e6
    assert found["words"] == f"{trials['architecture'].str.contains('[1,', regex=False).sum()} of 36 trials"
    assert found["limit"][:2] == [f"{cheap.sum()} of 36 trials", "macs ≤ 10.5 M ×"]
    assert found["limit"][2] == len(front) - (trials["on_front"] & cheap).sum()
    assert found["limits"] == [
        f"{(cheap & (trials['accuracy'] >= 0.6)).sum()} of 36 trials", "macs ≤ 10.5 M ×", "accuracy supernet ≥ 60.00 % ×"
    ]  # fmt: skip
    assert found["front"] == f"{len(front)} of 36 trials"
    assert ": params 270 k, macs 1.00 M, on the front" in found["axes"]
    assert found["failed"][0] == 3 and "ValueError: no <b>" in found["failed"][1]
    assert found["timeline"] == [False, "the run", True, True, True]
    assert found["wide"] and console == []

    image, console = screenshot(page, width=1200, height=2000)
    area = Image.open(io.BytesIO(image)).convert("RGB").crop([round(side) for side in found["box"]])
    colours = np.unique(np.asarray(area).reshape(-1, 3), axis=0, return_counts=True)
    counts = {tuple(colour.tolist()): int(count) for colour, count in zip(*colours, strict=True)}
    assert len(counts) > 50 and counts[0x13, 0x68, 0xAA] > 500 and counts[255, 255, 255] > area.width * area.height / 2
    assert console == []


HOSTILE = """
const found = { title: document.title, elements: all("img, b.mine, script").map((each) => each.className + each.tagName) };
found.rows = [all("#trials tbody tr").length, one("#trials > button").textContent];
one("#trials > button").click();
found.more = all("#trials tbody tr").length;
found.commands = {};
for (const button of all("#trials .pick").slice(0, 4)) {
  button.click();
  found.commands[one("#details h3").textContent] = one("#details code").textContent;
}
for (const circle of all("#plot > svg .member")) { circle.focus(); }
found.failed = text("#failures td")[1];
found.after = [document.title, all("#details img, #tip img, #trials img, #failures img, svg img").length, Boolean(window.owned)];
return found;
"""


def test_labels_and_reasons_stay_text_and_long_tables_have_windows(start: Callable[..., Study]) -> None:
    nasty = (
        "</script><script>window.owned = document.title = 'owned'</script><img src=x onerror='window.owned = 1'><!--"
    )
    names = (
        nasty,
        'it\'s $(id) `id` \\ "&amp;" \u2028',
        "--help",
        "<b class=mine>bold</b>",
        *(f"plain{at}" for at in range(446)),
    )
    space = SearchSpace("resnet20-pooling", (Categorical("<i>", names),))
    study = start(space, retrain="none")
    archs = list(space.enumerate())
    with study.session(f"nas search --out '{nasty}'"):
        study.add_all(
            SEARCH,
            [New(arch, [0.5 + at / 1000, 1e6 + at], {"params": at, "worker": nasty}) for at, arch in enumerate(archs)],
        )
        study.add(SEARCH, archs[0], None, {"reason": nasty, "seconds": 1.0})
    page = page_of(study)
    assert (
        page.count("</script") == page.count("<script") == 2
        and "<img src=x" not in page
        and "\u2028" not in page.split('id="data"')[1]
    )
    found, console = open_page(page, TOOLS + HOSTILE)
    assert isinstance(found, dict), found
    assert found["title"] == found["after"][0] == "resnet20-pooling on digits" and found["after"][1:] == [0, False]
    assert not [name for name in found["elements"] if name.startswith("mine")]
    assert found["elements"].count("SCRIPT") == 3
    assert found["rows"] == [200, "Show 200 more of 250"] and found["more"] == 400
    assert len(found["commands"]) == 4
    for label, command in found["commands"].items():
        assert shlex.split(command) == ["nas", "export", str(study.folder), "--pick", label]
        assert space.parse(label).key in {arch.key for arch in archs[:4]}
    assert found["failed"] == nasty and console == []


def test_the_policy_keeps_out_scripts_that_it_does_not_name_on_a_page_of_failures_alone(
    start: Callable[..., Study],
) -> None:
    study = start()
    study.add(SEARCH, next(iter(study.space.enumerate())), None, {"reason": "ValueError: no", "seconds": 1.0})
    added = "<script>window.owned = 1</script><img src=x onerror='window.owned = 1'></body>"
    script = """
    const box = one("#timeline > svg").getBoundingClientRect();
    one("#timeline > svg").dispatchEvent(new PointerEvent("pointermove", { clientX: box.x + box.width / 2, clientY: box.y + 22 }));
    return [Boolean(window.owned), one("#tip").textContent, text("#failures td")[1]];"""
    found, console = open_page(page_of(study).replace("</body>", added), TOOLS + script)
    assert found[0] is False and "1-1-8" in found[1] and "failed trial" in found[1] and found[2] == "ValueError: no"
    assert console and all("Content Security Policy" in line for line in console)


def test_tables_of_a_pruning_are_sorted() -> None:
    script = (
        TOOLS
        + """
    const tables = all("table"), last = tables.at(-1), names = () => [...last.tBodies[0].rows].map((row) => row.cells[0].textContent);
    const found = [names()];
    for (const at of [1, 1, 3]) { last.tHead.rows[0].cells[at].querySelector("button").click(); found.push(names()); }
    return found;"""
    )
    groups = {"a": (1000, 1000), "b": (64, 8), "c": (2, 1)}
    found, console = open_page(prune_page({**WHOLE, "groups": groups}), script)
    assert found == [["a", "b", "c"], ["c", "b", "a"], ["a", "b", "c"], ["b", "c", "a"]] and console == []


def test_what_is_shipped_cannot_end_its_element_and_needs_no_network() -> None:
    script, style = shipped("page.js"), shipped("page.css")
    assert (
        "</" not in script + style
        and "<!--" not in script
        and not re.search(r"innerHTML|outerHTML|eval\(|Function\(|https?:", script)
    )
    assert "url(" not in style and "@import" not in style


@pytest.mark.parametrize("text", ["</script>", "<!--<script>", "&lt;", "\u2028\u2029", "\ud800", "é"])
def test_an_island_holds_any_text(text: str) -> None:
    held = island({text: [text]})
    assert json.loads(held) == {text: [text]} and held.isascii() and not set("<>&") & set(held)
