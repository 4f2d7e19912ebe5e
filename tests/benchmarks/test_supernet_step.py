"""The benchmark of supernets measures what it says, on very little."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import supernet_step
from benchmarks.supernet_evaluation import macs_ratio
from estimators import CostModel
from search_spaces import make_space


def test_the_limit_is_macs_one_by_one_over_macs_of_distinct_prefixes() -> None:
    space = make_space("nas-bench-macro")
    a, b = space.parse("22222222"), space.parse("22222221")
    assert macs_ratio(space, [a, a]) == 2
    first, second = (CostModel(space).blocks(arch) for arch in (a, b))
    shared = sum(cost.macs for cost in first[:-2])
    apart = sum(cost.macs for blocks in (first, second) for cost in blocks[-2:])
    assert macs_ratio(space, [a, b]) == (2 * shared + apart) / (shared + apart)


def test_a_small_run_writes_every_repeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = "--images 3 --batch-size 3 --train-batch-size 2 --steps 1 --repeats 2 --sets children --sample 2"
    monkeypatch.setenv("NAS_DATA", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["supernet_step", *small.split(), "--out", str(tmp_path)])
    monkeypatch.setattr(supernet_step, "STEPS", supernet_step.STEPS[:1])
    supernet_step.main()
    training, mixture, result = (
        json.loads((tmp_path / f"{part}.json").read_text()) for part in ("training", "mixture", "evaluation")
    )
    (step,), (children,) = training["training"], result["evaluation"]
    assert [(row["supernets"], len(row["time_ratios"])) for row in mixture["mixture"]] == [(2, 2), (4, 2), (8, 2)]
    assert len(step["time_ratios"]) == len(step["ms_alone"]) == len(children["time_ratios"]) == 2
    assert children["subnets"] == 100 and children["timed_one_by_one"] == 2 and children["predictions_equal"]
    assert 1 < children["macs_ratio"] < 10 and result["settings"]["repeats"] == 2 and "commit" in result
