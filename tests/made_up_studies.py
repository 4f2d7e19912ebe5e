"""Real run folders with made-up figures, and what their pages say."""

from __future__ import annotations

from html.parser import HTMLParser

import torch

from nas import Study
from nas.report.write import write_report, write_tables
from nas.runtime import checkpoint
from nas.runtime.files import write_json
from nas.study.study import ALONE, SEARCH
from search_spaces import Architecture

OPTIONS = {"in_channels": 1, "num_classes": 10, "image_size": 8}


def figures(number: int) -> dict[str, float]:
    """Made-up but lifelike: costs rise with the number, accuracies rise with ups and downs and a tie."""
    return {
        "accuracy": 0.5 + 0.01 * number + 0.02 * (number % 3 == 0) - 0.01 * (number == 5),
        "macs": 1_000_000 * (number + 1),
        "params": 270_000 + number,
        "activations": 90_000 + number,
        "latency_ms": 1 + 0.1 * number,
    }


def try_(study: Study, number: int) -> Architecture:
    """Add a trial."""
    arch = list(study.space.enumerate())[number]
    known = figures(number)
    notes = {
        name: value
        for name, value in known.items()
        if name in ("macs", "params") and name not in study.config.objectives
    }
    values = [known[name] for name in study.config.objectives]
    study.add(SEARCH, arch, values, {**notes, "seconds": 0.5})
    return arch


def train_alone(study: Study, arch: Architecture, accuracy: float, seed: int = 0) -> None:
    notes = {"seed": seed, "seconds": 2.0, "loss": [1.0, 0.5]}
    study.add(ALONE, arch, [accuracy], notes)


def train_supernets(study: Study, epochs: int, supernets: int = 4) -> None:
    """Write a checkpoint with a history; supernet 1 was not drawn in epoch 0."""
    rows = []
    for epoch in range(epochs):
        for number in range(supernets):
            row = {"epoch": epoch, "learning_rate": 0.1, "seconds": 1.5, "supernet": number, "steps": 10 + number}
            rows.append({**row, "loss": 2.0 / (epoch + 1), "accuracy": 0.1 * epoch})
        if supernets > 1 and epoch == 0:
            rows[1] = {"epoch": 0, "learning_rate": 0.1, "seconds": 1.5, "supernet": 1, "steps": 0}
    path = study.folder / "supernets" / "checkpoint.safetensors"
    checkpoint.save(path, {"weights": torch.zeros(2)}, {"epochs": epochs, "history": rows})


def complete(study: Study, trials: int = 36) -> Study:
    """A run with everything: trials, networks alone, supernets, latency, exports and a session."""
    with study.session("nas search --space resnet20-pooling --out run"):
        archs = [try_(study, number) for number in range(trials)]
        train_supernets(study, epochs=3)
        front = list(study.front["architecture"])
        for arch in archs:
            if arch.key in front:
                train_alone(study, arch, 0.9 + 0.001 * archs.index(arch))
                write_json(study.place("exports", arch) / "architecture.json", {})
        measured = {"latency_ms": 1.312, "latency_p25_ms": 1.28, "latency_p75_ms": 1.404}
        write_json(study.folder / "latency.json", {key: measured for key in front})
    return study


def page_of(study: Study) -> str:
    write_tables(study)
    return write_report(study).read_text(encoding="utf-8")


class Reader(HTMLParser):
    """The text of a page without its style and scripts, its attributes, and whether every tag is closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.attributes, self.open, self.rows = "", [], [], []  # type: ignore[var-annotated]
        self.scripts: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("script", "style"):
            self.scripts += [data] * (self.open[-1] == "script")
            return
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data
