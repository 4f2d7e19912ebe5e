"""What the studies of fronts share: rows that are there are not made again, models' time, and which members are measured."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

from benchmarks import front_tables, fronts
from benchmarks.fronts import Clock, Running, Step, Table, carry_out, first_members, searched, study_options, thinned
from nas.tasks import regression
from pruners import PrunableSpace


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4)).eval()


def examples() -> torch.Tensor:
    return torch.randn(64, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    given = [
        "--out",
        str(tmp_path / "out"),
        "--runs",
        str(tmp_path / "runs"),
        "--seeds",
        "0",
        "1",
        "--trials",
        "6",
        "--members",
        "2",
    ]
    monkeypatch.setattr(sys, "argv", ["a_front", *given])
    return study_options("A study.", ["one", "two"], trials=40, left=(0, 1)).parse_args()


def test_a_row_that_is_there_is_not_made_again(options: argparse.Namespace) -> None:
    made: list[tuple[int, int]] = []
    stop = {(1, 3)}

    def method(seed: int, options: argparse.Namespace) -> Iterator[Step]:
        def make(asked: int) -> tuple[nn.Module, dict[str, Any]]:
            if (seed, asked) in stop:
                raise KeyboardInterrupt
            made.append((seed, asked))
            return net(), {"more": asked + 1}

        for asked in (2, 3):
            yield Step({"asked": asked}, lambda asked=asked: make(asked))

    methods = {"one": method, "two": lambda seed, options: iter(())}
    with pytest.raises(KeyboardInterrupt):
        carry_out("a_front", options, methods, lambda model: {"worth": 1.5})
    stop.clear()
    carry_out("a_front", options, methods, lambda model: {"worth": 1.5})
    carry_out("a_front", options, methods, lambda model: {"worth": 1.5})
    assert made == [(0, 2), (0, 3), (1, 2), (1, 3)]
    rows = [json.loads(line) for line in (options.out / "a_front.jsonl").read_text().splitlines()]
    assert [(row["seed"], row["asked"], row["more"], row["worth"]) for row in rows] == [
        (0, 2, 3, 1.5), (0, 3, 4, 1.5), (1, 2, 3, 1.5), (1, 3, 4, 1.5),
    ]  # fmt: skip
    assert "benchmarks.a_front" in json.loads((options.out / "a_front.json").read_text())["commands"][0]


def test_a_row_is_known_by_all_of_its_figures(tmp_path: Path) -> None:
    table = Table(tmp_path / "rows.jsonl")
    table.add({"seed": 0, "target": {"macs": 0.5}, "worth": 3})
    again = Table(tmp_path / "rows.jsonl")
    assert again.has({"seed": 0, "target": {"macs": 0.5}})
    assert not again.has({"seed": 0, "target": {"macs": 0.25}}) and not again.has({"seed": 0, "label": None, "at": 1})


def test_models_inside_others_run_once_and_what_is_beside_them_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    class Slow(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            now[0] += 2
            return x

    call = nn.Module.__call__
    with Running() as running:
        nn.Sequential(Slow(), nn.Sequential(Slow()))(torch.zeros(1))
        now[0] += 7
    Slow()(torch.zeros(1))
    assert running.seconds == 4 and nn.Module.__call__ is call


def test_a_clock_runs_while_trials_do() -> None:
    clock, call = Clock(), nn.Module.__call__
    clock("training", 0, 1)
    assert nn.Module.__call__ is call
    clock("ranking", 0, 4)
    assert nn.Module.__call__ is not call
    clock("ranking", 4, 4)
    clock("ranking", 4, 4)
    assert nn.Module.__call__ is call and clock.seconds > 0


def test_members_stand_at_equal_distances_from_the_first_to_the_last() -> None:
    space = PrunableSpace(net(), torch.zeros(1, 6), batches=[examples()], steps=16)
    front = space.front()
    whole = space.costs(space.whole)["macs"]
    left = {arch: space.costs(arch)["macs"] / whole for arch in front}
    inside = sorted((part for part in left.values() if part < 1), reverse=True)

    def found(members: int, low: float, high: float) -> list[float]:
        return [left[arch] for arch in thinned(space, front, argparse.Namespace(members=members, left=(low, high)))]

    few = found(3, 0, 1)
    assert len(inside) > 3 and len(few) == 3 and (few[0], few[-1]) == (inside[0], inside[-1])
    middle = (math.log(inside[0]) + math.log(inside[-1])) / 2
    assert few[1] == min(inside, key=lambda part: abs(math.log(part) - middle))
    assert found(99, 0, 1) == inside and found(99, inside[2], inside[1]) == inside[1:3]


def test_a_search_is_logged_once_and_its_members_are_repaired(options: argparse.Namespace) -> None:
    options.out.mkdir()
    x = examples()
    with torch.no_grad():
        task = regression((x, net()(x)), name="alike")
    for _ in range(2):
        study = searched(f"pruned:{__name__}:net", task, 0, options, ("rmse", "macs"))
    (line,) = (options.out / "searches.jsonl").read_text().splitlines()
    row = json.loads(line)
    assert row["trials"] == len(study.trials) == 6 and row["trials_a_minute"] > 0 and 0 < row["outside_models"] < 1
    steps = list(fronts.found_members(study, [x], "rmse", options))
    assert 0 < len(steps) <= 2
    model, found = steps[-1].make()
    assert model(x).shape == (64, 4) and found["validation"] > 0 and found["damage"] > 0
    first = next(iter(first_members(net(), x[:1], [x], 0, options)))
    assert set(first.key) == {"label"} and first.make()[1]["damage"] > 0


def test_a_table_says_what_the_front_has_at_the_cost_of_a_control(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = pd.DataFrame(
        [
            {"seed": 0, "method": "estimated", "times": 2.0, "accuracy": 10.0},
            {"seed": 0, "method": "search", "times": 4.0, "accuracy": 60.0},
            {"seed": 0, "method": "search", "times": 1.0, "accuracy": 80.0},
            {"seed": 0, "method": "prune", "times": 2.0, "accuracy": 66.0},
            {"seed": 0, "method": "prune", "times": 5.0, "accuracy": 50.0},
            {"seed": 1, "method": "torch-pruning", "times": 2.0, "accuracy": 65.0},
        ]
    )
    monkeypatch.setattr(front_tables, "read", lambda path: rows)
    table = front_tables.front("pretrained_front")
    cells = [tuple(row) for row in table.to_numpy().tolist()]
    assert cells == [
        ("front of a search", 0, "1.00", "80.0", ""), ("front of a search", 0, "4.00", "60.0", ""),
        ("front that a search starts from", 0, "2.00", "10.0", ""),
        ("pruned once per budget", 0, "2.00", "66.0", "70.0"), ("pruned once per budget", 0, "5.00", "50.0", ""),
        ("Torch-Pruning, once per budget", 1, "2.00", "65.0", ""),
    ]  # fmt: skip
