"""The page of a pruning, from what its summary says and nothing else."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from html.parser import HTMLParser
from typing import Any

import pytest
from matplotlib.figure import Figure

from nas.objectives import OBJECTIVES
from nas.report import plots, prune_page
from pruners import Summary

SUMMARY = Summary(
    before={"macs": 4e7, "params": 2.7e5, "weight_bytes": 1.08e6},
    after={"macs": 2e7, "params": 1.4e5, "weight_bytes": 5.6e5},
    targets={"macs": {"asked": 2e7, "predicted": 2e7, "measured": 2e7}},
    difference=2e-7,
    difference_inside=3e-7,
    form="graph",
    groups={"conv1.weight:0": (16, 12), "layer1.<b>.weight:0": (64, 40)},
    unknown={"aten.odd.default": 2},
    reason="view is of 64 <numbers>",
    serves={"x": "Nx3x32x32"},
    milliseconds={"eager": (4.0, 2.0), "onnxruntime": (2.0, 2.1)},
    chosen={"round_to": "8: conv layers on cpu"},
    notes=(
        "pass <1>: 512 of 1,000 samples were used",
        "the smaller model is no faster in ONNX Runtime: 2.1 ms where the given one takes 2 ms; a target of `onnxruntime_ms` asks for "
        "time itself",
    ),
).to_dict()
WHOLE: dict[str, Any] = {
    **SUMMARY,
    "test": {"before": {"accuracy": 0.8321}, "pruned": {"accuracy": 0.4}, "least-squares": {"accuracy": 0.8142}},
    "metrics": {"accuracy": asdict(OBJECTIVES["accuracy"])},
    "settings": {"model": "my:<i>model</i>", "cut": {"limits": {"round_to": "auto"}, "steps": 3}, "data": None},
    "command": "nas prune 'my:model' --option a=<script>",
    "versions": {"torch": "2.6.0"},
    "hardware": {"processor": "A CPU"},
    "commit": "abc123",
}


class Read(HTMLParser):
    """The tags of a page, in order, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data if self.open and self.open[-1] not in ("style", "script") else ""


def test_everything_is_on_the_page_once_it_is_in_the_summary() -> None:
    page = Read(prune_page(json.loads(json.dumps(WHOLE))))
    assert not page.open and page.tags.count("img") == 1
    for text in (
        "my:<i>model</i>, pruned", "Asked for: macs of at most 20.0 M", "by 2.0e-07, relative", "rewritten graph",
        "2.00x", "40.0 M", "2.00 ms", "4.00 ms", "ONNX Runtime", "0.95x", "83.21 %", "81.42 %", "least-squares",
        "The smaller model is no faster in ONNX Runtime: 2.1 ms", "layer1.<b>.weight:0", "75.00 %", "8: conv layers on cpu",
        "view is of 64 <numbers>", "x Nx3x32x32", "aten.odd.default 2", "cut.limits.round_to", "cut.steps",
        "nas prune 'my:model' --option a=<script>", "torch 2.6.0", "processor A CPU", "abc123",
    ):  # fmt: skip
        assert text in page.text, text
    assert not {"link", "b1", "i"} & set(page.tags) and page.tags.count("script") == 1


def test_the_page_takes_nothing_from_outside_and_names_from_models_as_text() -> None:
    page = prune_page(WHOLE)
    assert re.findall(r"(?:src|href)=\"(?!data:)", page) == []
    assert page.count("<script") == 1 and "<numbers" not in page and "<i>model" not in page


def test_only_warnings_are_drawn_as_warnings_each_once() -> None:
    page = prune_page(WHOLE)
    assert re.findall(r'<p class="warning">(.*?)[:;]', page) == ["The smaller model is no faster in ONNX Runtime"]
    assert re.findall(r'<p class="note">(.*?)</p>', page) == ["Pass &lt;1&gt;: 512 of 1,000 samples were used."]
    assert 'class="warning"' not in prune_page(
        {**WHOLE, "milliseconds": {"eager": (4.0, 2.0)}, "notes": WHOLE["notes"][:1]}
    )


@pytest.mark.parametrize(
    ("more", "texts"),
    [
        ({"blocks": ["layer1.0", "layer1.1"]}, ["Blocks left out", "layer1.0, layer1.1"]),
        ({"blocks": {"layer1.0": 0.25}}, ["Blocks left out", "layer1.0", "0.25"]),
        (
            {
                "recovery": [
                    {"step": "calibrate"},
                    {
                        "step": "least-squares",
                        "solved": 3,
                        "left_out": ["fc <1>"],
                        "more_examples": True,
                        "used": [300, 1000],
                    },
                    {"step": "match:1", "learning_rate": 0.01, "tried": {"0.01": 0.2}, "before": 0.5, "after": 0.25},
                    {"step": "match:2", "learning_rate": 0.02, "before": 0.5, "after": 0.6, "restored": True},
                ]
            },
            [
                "Repair",
                "calibrate",
                "done",
                "3 layers solved; on 300 of 1,000 examples, as many as fit into memory",
                "memory; left as they were: fc <1>; more examples would help",
                "at a learning rate of 0.01, the best of 0.01",
                "fell from 0.5 to 0.25",
                "and was taken back",
            ],
        ),
        ({"difference": None}, ["were not compared"]),
        ({"form": "module", "reason": None, "serves": None, "unknown": {}}, ["copy of the given module"]),
        ({"configuration": False}, ["Hugging Face configuration", "cannot express it"]),
    ],
)
def test_what_else_a_summary_may_say_is_shown(more: dict[str, Any], texts: list[str]) -> None:
    shown = Read(prune_page({**WHOLE, **more})).text
    assert all(text in shown for text in texts)


def test_a_summary_of_a_cut_alone_is_enough() -> None:
    bare = {**SUMMARY, "milliseconds": {}, "chosen": {}, "notes": (), "groups": {}, "targets": {}, "unknown": {}}
    page = Read(prune_page(bare))
    assert page.text.count("A model, pruned") == 2 and "What it costs" in page.text
    for absent in ("machine", "Settings", "How it was made", "cut where", "auto", "Test images", "Asked for"):
        assert absent not in page.text, absent
    assert "img" not in page.tags


def bars(figure: Figure) -> list[float]:
    (axes,) = figure.axes
    return [patch.get_width() for patch in axes.patches]  # type: ignore[attr-defined]


def test_bars_are_the_shares_that_stay_with_names_while_there_is_room() -> None:
    figure = plots.cuts({"a": (8, 2), "b" * 99: (10, 9)})
    assert bars(figure) == pytest.approx([75, 10, 25, 90])
    shown = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert shown[0] == "a" and len(shown[1]) == plots.LONGEST and "…" in shown[1]
    assert [text.get_text() for text in figure.axes[0].texts] == ["2 of 8", "9 of 10"]
    many = plots.cuts({f"group {at}": (10, at % 10 + 1) for at in range(200)})
    assert len(many.axes[0].patches) == 400 and many.get_size_inches()[1] < 6
    assert plots.png(figure)[:4] == b"\x89PNG"
