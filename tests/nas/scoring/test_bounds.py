"""Limits of a search: every strategy proposes what keeps them, and all of that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from estimators import CostModel, measure_table, peak_memory
from nas import Study, configure, search
from nas.scoring.bounds import within
from nas.scoring.costs import CostScorer, Figures, LatencyScorer, Scorer
from nas.strategies import STRATEGIES, make_strategy
from pruners.progress import Progress, silent
from search_spaces import Architecture, Constraint, SearchSpace, make_space, smallest
from tests.conformance import visited


def run(out: Path, space: str = "resnet-elastic", **settings: Any) -> Study:
    costs: dict[str, Any] = {"objectives": ["params"], "retrain": "none", "limit": 100, "test_limit": 20}
    return search(space, "digits", out=out, **costs, **settings)


SLOW = (
    "optuna:gp"  # a proposal takes seconds; what an adapted optimiser proposes is kept within limits as of the others
)
QUICK = [name for name in STRATEGIES if name != SLOW]


@pytest.mark.parametrize("strategy", QUICK)
def test_what_keeps_the_limits_is_proposed_and_nothing_else(strategy: str) -> None:
    space = make_space("resnet20-pooling", image_size=8)
    costs = {arch: CostModel(space).cost(arch) for arch in space.enumerate()}
    macs, activations = (sorted(getattr(cost, name) for cost in costs.values())[20] for name in ("macs", "activations"))
    kept = {arch for arch, cost in costs.items() if cost.macs <= macs and cost.activations <= activations}
    allowed = within(space, {"macs": macs, "activations": activations}, [CostScorer(space)])
    proposed = visited(make_strategy(strategy, allowed, np.random.default_rng(0)), [5] * 10)
    assert set(proposed) == kept and 0 < len(kept) < 36
    assert within(space, {}, [CostScorer(space)]) is space


def test_a_stopped_search_within_limits_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    def stop(step: str, done: float, total: float) -> None:
        if done >= 20:
            raise KeyboardInterrupt

    settings = {"strategy": "coarse-to-fine", "trials": 40, "limits": {"macs": 1e6}}
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", progress=stop, **settings)
    assert 20 <= len(Study.open(tmp_path / "run").trials) < 40
    stopped, whole = (run(tmp_path / name, progress=silent, **settings) for name in ("run", "whole"))
    columns = ["label", "macs", "params"]
    assert stopped.trials[columns].equals(whole.trials[columns]) and whole.trials["macs"].max() <= 1e6
    assert len(whole.trials) == 40


@pytest.mark.parametrize("space", ["resnet20-pooling", "resnet-elastic"])
def test_limits_that_nothing_keeps_are_refused_before_there_is_a_folder(tmp_path: Path, space: str) -> None:
    with pytest.raises(ValueError, match="macs of at most 5"):
        run(tmp_path / "run", space, strategy="random", limits={"macs": 5})
    assert not (tmp_path / "run").exists()


class Counted:
    """A scorer that counts the architectures that it is asked about, each once."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer, self.asked = scorer, set[Architecture]()

    def __call__(self, archs: Sequence[Architecture], progress: Progress) -> list[Figures]:
        self.asked |= set(archs)
        return self.scorer(archs, progress)


@pytest.fixture(scope="module")
def elastic() -> CostScorer:
    """Costs of a large space, whose blocks are counted once for all tests."""
    return CostScorer(make_space("resnet-elastic", choices=["width", "depth", "kernel"], image_size=8))


@pytest.mark.parametrize("dear", [False, True])
@pytest.mark.parametrize("strategy", [name for name in QUICK if not STRATEGIES[name].everything])
def test_a_tight_limit_of_a_large_space_is_kept_without_drawing_until_something_does(
    elastic: CostScorer, strategy: str, dear: bool
) -> None:
    """Of a thousand random architectures none is so near to the smallest one."""
    space, exact = elastic.space, elastic
    most = 2 * exact([smallest(space)], silent)[0]["macs"]
    counted = Counted(exact)
    allowed = within(space, {"macs": most}, [counted], dear=dear)
    proposed = visited(make_strategy(strategy, allowed, np.random.default_rng(0)), [10] * 4)
    assert len(set(proposed)) == len(proposed) == 40
    assert max(figures["macs"] for figures in exact(proposed, silent)) <= most
    assert len(counted.asked) < (30 if dear else 200) * len(proposed)


def test_a_latency_that_nothing_keeps_is_refused_with_the_nearest_after_few_measurements(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[Architecture] = []

    def of_size(self: LatencyScorer, archs: Sequence[Architecture], progress: Progress) -> list[Figures]:
        measured.extend(archs)
        kept: Any = self.build
        space: SearchSpace = kept.__self__.space
        return [{"latency_ms": figures["macs"] / 1e6} for figures in CostScorer(space)(archs, silent)]

    monkeypatch.setattr(LatencyScorer, "__call__", of_size)
    with pytest.raises(
        ValueError, match=r"was found to have latency_ms of at most 0.001: the nearest is .* latency_ms 0\."
    ):
        run(tmp_path / "run", strategy="random", trials=5, limits={"latency_ms": 1e-3})
    assert 0 < len(measured) < 100


@pytest.mark.parametrize("count", [36, 20])
def test_what_is_measured_is_all_proposed_where_little_is_left(count: int) -> None:
    space = make_space("resnet20-pooling", image_size=8)
    times = dict(zip(space.enumerate(), np.random.default_rng(0).permutation(36).tolist(), strict=True))
    allowed = within(
        space, {"latency_ms": count - 0.5}, [lambda archs, _: [{"latency_ms": times[a]} for a in archs]], dear=True
    )
    proposed = visited(make_strategy("random", allowed, np.random.default_rng(0)), [1] * 40)
    assert set(proposed) == {arch for arch, ms in times.items() if ms < count} and len(proposed) == count


def test_unknown_limits_are_refused() -> None:
    with pytest.raises(ValueError, match="no limit of a search is named 'mac'; did you mean macs"):
        configure("s", "d", limits={"mac": 1})
    with pytest.raises(ValueError, match="a limit of a search must be positive, got macs=0"):
        configure("resnet-elastic", "digits", limits={"macs": 0})


def test_a_measured_latency_limits_what_is_proposed_and_a_longer_run_remembers_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Times differ from call to call; what was refused once is refused for good."""
    asked: list[str] = []
    clock = np.random.default_rng(0)

    def measured(self: LatencyScorer, archs: Sequence[Architecture], progress: Progress) -> list[Figures]:
        asked.extend(arch.key for arch in archs)
        return [{"latency_ms": float(clock.uniform(1, 3)), "latency_p25_ms": 1.0, "latency_p75_ms": 3.0} for _ in archs]

    monkeypatch.setattr(LatencyScorer, "__call__", measured)
    settings: dict[str, Any] = {
        "evaluate": lambda arch: len(arch.key), "objectives": ["score:max"], "strategy": "random",
        "limits": {"latency_ms": 2.4, "macs": 1e8}, "out": tmp_path / "run",
    }  # fmt: skip
    short = search("resnet20-pooling", trials=5, **settings).trials
    grown = search("resnet20-pooling", trials=12, **settings).trials
    assert len(grown) == 12 and short["label"].equals(grown["label"][:5])
    assert (grown["latency_ms"] <= 2.4).all() and (grown["macs"] <= 1e8).all()
    assert len(asked) == len(set(asked)) > 12


def test_estimates_and_tables_limit_too(tmp_path: Path) -> None:
    space = make_space("resnet20-pooling", in_channels=1, image_size=8)
    table = measure_table(space, warmup_s=1e-4, runs=5, max_seconds=1e-4)
    table.save(tmp_path / "table.json")
    times = sorted(table.predict(space, arch) for arch in space.enumerate())
    given: dict[str, Any] = {"evaluate": lambda arch: len(arch.key), "objectives": ["score:max"]}
    study = search(
        space, limits={"latency_ms": times[9]}, latency_table=tmp_path / "table.json", out=tmp_path / "a", **given
    )
    assert len(study.trials) == 10 and study.trials["latency_ms"].max() == times[9]
    some = list(space.enumerate())[::12]
    peaks = {arch.key: peak_memory(space.build(arch), space.net.input_shape).peak_bytes for arch in some}
    few = replace(space, constraints=(Constraint("few", lambda values: space.architecture(values).key in peaks),))
    least = min(peaks.values())
    study = search(few, limits={"peak_memory_bytes": least}, out=tmp_path / "b", **given)
    assert set(study.trials["architecture"]) == {key for key, peak in peaks.items() if peak <= least} != set(peaks)
