"""The benchmark of pooling rankings: its comparison, its methods within their budgets, and that it goes on where it stopped."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from scipy.stats import kendalltau

from benchmarks import pooling_ranking as benchmark
from nas.data.dataset import ImageData
from nas.tasks import Examples
from nas.training.config import TrainingConfig
from search_spaces import make_space

SPACE = make_space("resnet20-pooling", in_channels=1, image_size=8)
LABELS = [SPACE.label(arch) for arch in SPACE.enumerate()]
CPU = torch.device("cpu")


def table(scores: list[float], method: str = "method") -> pd.DataFrame:
    return pd.DataFrame(
        {"method": method, "seed": 0, "architecture": LABELS, "score": scores, "steps": 5, "seconds": 1.0}
    )


def alone(accuracies: list[float], seed: int = 0) -> pd.DataFrame:
    macs = range(1, len(LABELS) + 1)
    return pd.DataFrame({"architecture": LABELS, "seed": seed, "macs": macs, "accuracy": accuracies})


def test_comparison_knows_order_pick_and_front() -> None:
    truth = [at / 100 for at in range(36)]
    scores = [*truth[:-2], truth[-1], truth[-2]]  # the best two the wrong way round
    ranking, front = benchmark.compare(alone(truth), table(scores))
    row = ranking.iloc[0]
    assert row["kendall_tau"] == round(1 - 2 * 1 / (36 * 35 / 2), 3)
    assert (row["pick"], row["true_rank"], row["accuracy_alone"]) == (LABELS[-2], 2, truth[-2])
    assert list(front["architecture"]) == LABELS[:-1]


def test_the_truth_is_the_mean_over_seeds() -> None:
    both = pd.concat([alone([0.0] * 35 + [0.9]), alone([0.0] * 34 + [0.9, 0.2], seed=1)])
    ranking, _ = benchmark.compare(both, table([0.0] * 35 + [1.0]))
    assert ranking.iloc[0]["accuracy_alone"] == pytest.approx(0.55)
    assert ranking.iloc[0]["true_rank"] == 1


def test_each_training_alone_is_compared_with_the_mean_of_the_others() -> None:
    first, second = [at / 100 for at in range(36)], [at / 100 for at in range(36)]
    second[0], second[35] = 0.355, -0.01  # the best becomes the worst, and the worst the best
    third = [(a + b) / 2 for a, b in zip(first, second, strict=True)]
    runs = pd.concat([alone(run, seed).assign(seconds=2.0) for seed, run in enumerate((first, second, third))])
    table = benchmark.agreement(runs)
    assert list(table["seed"]) == [0, 1, 2] and set(table["seconds"]) == {72.0}
    assert table["kendall_tau"].iloc[2] == 1  # the others' mean is the third
    expected = kendalltau(first, [(b + c) / 2 for b, c in zip(second, third, strict=True)]).statistic
    assert table["kendall_tau"].iloc[0] == round(expected, 3) < 1


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch, digits: ImageData) -> list[int]:
    """Steps of each training, in place of the training itself."""
    taken: list[int] = []

    def count(learner: Any, part: Examples, config: TrainingConfig, **_: Any) -> None:
        taken.append(part.steps(config.batch_size) * config.epochs)

    monkeypatch.setattr(benchmark, "fit", count)
    monkeypatch.setattr(benchmark, "accuracy", lambda *_: 0.5)
    monkeypatch.setattr(benchmark, "SPACE", SPACE)
    monkeypatch.setattr(benchmark, "ARCHS", tuple(SPACE.enumerate()))
    return taken


@pytest.mark.parametrize("method", benchmark.ALONE)
def test_controls_take_no_more_steps_than_supernets(method: str, steps: list[int], digits: ImageData) -> None:
    config = TrainingConfig(epochs=40, batch_size=4)
    scores = benchmark.ALONE[method](0, digits, config, CPU)
    budget = len(digits.train) // config.batch_size * config.epochs
    assert len(scores) == 36 and 0.9 * budget <= sum(steps) <= budget * 1.02


@pytest.mark.parametrize("method", ["single", "mixture-2", "resolution", "resolution-2", "grouped"])
def test_supernets_score_every_placement(
    method: str, steps: list[int], digits: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    spaces: list[object] = []
    monkeypatch.setattr(
        benchmark,
        "BY_RESOLUTION",
        make_space("resnet20-pooling", in_channels=1, image_size=8, weights="per-resolution"),
    )
    monkeypatch.setattr(benchmark, "SupernetScorer", lambda learner, space, *_: _Scorer(learner, space, spaces))
    scores = benchmark.by_supernet(method, 0, digits, TrainingConfig(epochs=1, batch_size=8), CPU)
    assert len(scores) == 36 and steps == [len(digits.train) // 8]
    own = benchmark.BY_RESOLUTION if method.startswith(("resolution", "grouped")) else SPACE
    assert spaces == [(own, 2 if method.endswith("2") else 1)]


class _Scorer:
    """Notes what is scored."""

    def __init__(self, learner: Any, space: object, seen: list[object]) -> None:
        seen.append((space, len(learner.members)))

    def __call__(self, archs: Any, *_: Any) -> list[dict[str, float]]:
        return [{"accuracy": 0.5} for _ in archs]


def test_halving_trains_half_of_them_on(steps: list[int], digits: ImageData) -> None:
    benchmark.by_halving(0, digits, TrainingConfig(epochs=40, batch_size=4), CPU)
    assert len(steps) == 36 + 18 + 9 + 5 + 3 + 2


def test_it_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(benchmark, "SPACE", SPACE)
    monkeypatch.setattr(benchmark, "ARCHS", tuple(SPACE.enumerate()))
    accuracies = iter(range(36))
    monkeypatch.setattr(benchmark, "train_alone", lambda *_: {"accuracy": next(accuracies) / 36, "seconds": 1.0})
    monkeypatch.setattr(benchmark, "by_supernet", lambda method, *_: asked.append(method) or list(range(36)))
    out = tmp_path / "out"

    def run(*options: str) -> None:
        arguments = ["--data", "digits", "--out", str(out), "--seeds", "1", "--epochs", "6", *options]
        monkeypatch.setattr(sys, "argv", ["pooling_ranking", *arguments])
        benchmark.main()

    run("--methods", "single")
    run("--methods", "single", "split-early", "macs")
    assert asked == ["single", "split-early"]
    assert list(pd.read_csv(out / "ranking.csv")["method"]) == ["single", "split-early", "macs"]
    assert len(pd.read_csv(out / "alone.csv")) == 36 and (out / "ranking.png").exists()
