"""Two ways of cutting, of which the one that ends better on images held out is taken."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nas import prune
from nas.data import ImageData
from nas.pruning import paths
from nas.tasks import Examples, Images, Task
from pruners import PruneResult
from tests.nas.test_prune import small

EXAMPLE = torch.zeros(1, 1, 8, 8)


class Residual(nn.Module):
    """Two convolutions around a shortcut, whose sum a third reads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1)
        self.outer, self.last = nn.Conv2d(12, 8, 3, padding=1), nn.Conv2d(8, 6, 3)
        self.head = nn.Linear(6 * 36, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = (x + self.outer(self.inner(x).relu())).relu()
        return self.head(self.last(x).flatten(1))


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What judges give in turn, and the examples that they were shown."""
    told: dict[str, Any] = {"figures": [], "examples": []}

    def judge(model: nn.Module, task: Task, examples: Examples) -> dict[str, float]:
        told["examples"].append(examples)
        return {"accuracy": float(told["figures"].pop(0))}

    monkeypatch.setattr(paths, "measure", judge)
    monkeypatch.setattr(paths, "STEPS", 4)
    return told


def halved(data: ImageData, **settings: Any) -> tuple[PruneResult, dict[str, Any]]:
    torch.manual_seed(0)
    return prune(
        Residual(),
        EXAMPLE,
        {"macs": 0.7},
        data=data,
        milliseconds=False,
        learning_rate=0.01,
        **{"recover": ["auto", "finetune:1"], **settings},
    )


@pytest.mark.parametrize(
    ("figures", "named"),
    [
        ([0.85, 0.85], {"importance": "curvature", "allocation": "optimal"}),
        (
            [0.8, 0.841],
            {"importance": "l2", "allocation": "global", "steps": 4, "ignore": ["stem.weight:0"]},
        ),
    ],
)
def test_the_path_that_ends_better_is_taken_and_named(
    figures: list[float], named: dict[str, Any], judged: dict[str, Any], digits: ImageData
) -> None:
    judged["figures"] = list(figures)
    result, summary = halved(digits)
    assert [judge.split for judge in judged["examples"]] == [digits.validation] * 2
    first, second = (f"{100 * figure:.1f} %" for figure in figures)
    trained = len(digits.train)
    assert summary["chosen"]["paths"] == (
        f"curvature {first}, many steps {second} accuracy on {len(digits.validation)} held-out images "
        f"after training on {trained} others"
    )
    for setting, value in named.items():
        said = summary["chosen"][setting]
        assert said.startswith(value[0] if isinstance(value, list) else str(value)), setting
    assert result.summary.chosen == summary["chosen"]
    again, told = halved(digits, **named)
    assert "paths" not in told["chosen"] and again.plan == result.plan
    assert told["test"] == summary["test"]


def test_only_the_images_that_do_not_judge_are_seen(
    judged: dict[str, Any], digits: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "FEWEST", 40)
    judged["figures"] = [0.5, 0.6]
    seen = []
    made = paths.Repair

    def watched(model: nn.Module, task: Task, examples: Images, *rest: Any, **settings: Any) -> Any:
        seen.append(examples.split.images)
        return made(model, task, examples, *rest, **settings)

    monkeypatch.setattr(paths, "Repair", watched)
    halved(digits)
    allowed = {image.numpy().tobytes() for image in digits.train.images}
    (images,) = seen
    assert len(images) == max(len(digits.train) // 5, 40)
    assert {image.numpy().tobytes() for image in images} <= allowed


@pytest.mark.parametrize(
    "settings",
    [
        {"importance": "l2"},
        {"allocation": "global"},
        {"steps": 2},
        {"depth": True, "importance": "curvature", "allocation": "optimal"},
        {"recover": ["auto", "calibrate"]},
    ],
)
def test_nothing_is_tried_where_something_is_named_or_nothing_trains(
    settings: dict[str, Any], judged: dict[str, Any], digits: ImageData
) -> None:
    assert "paths" not in halved(digits, **settings)[1]["chosen"] and judged["examples"] == []


def test_a_path_that_cannot_be_cut_is_none(
    judged: dict[str, Any], digits: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        paths, "reaching_shortcuts", lambda model, example: ["stem.weight:0", "inner.weight:0", "last.weight:0"]
    )
    judged["figures"] = [0.1]
    chosen = halved(digits)[1]["chosen"]
    assert chosen["paths"].startswith("curvature 10.0 %, many steps not to be had (") and "steps" not in chosen


def test_channels_of_a_shortcut_are_found() -> None:
    assert paths.reaching_shortcuts(Residual(), EXAMPLE) == ["stem.weight:0"]
    assert paths.reaching_shortcuts(small(), EXAMPLE) == []
