"""Steps: what is left is scored again, and everything is one plan of the given model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruners import PruneResult, least_squares_, recalibrate_
from pruners.allocation import ALLOCATIONS, SCHEDULES
from tests.pruners.networks import build
from tests.pruners.plain import prune


def batches_of(example: tuple[Tensor, ...]) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(4, *example[0].shape[1:], generator=generator), torch.arange(4)) for _ in range(2)]


def composed(first: PruneResult, second: PruneResult) -> dict[str, list[int]]:
    """What two prunes after each other removed, in indices of the first model."""
    removed = {name: list(gone) for name, gone in first.plan.removed.items()}
    for name, gone in second.plan.removed.items():
        size = first.plan.sizes.get(name, second.plan.sizes[name])
        stays = [i for i in range(size) if i not in removed.get(name, [])]
        removed[name] = sorted(removed.get(name, []) + [stays[i] for i in gone])
    return removed


CRITERIA = ["l2", "lamp", "bn_scale", "fpgm", "taylor", "fisher", "activation", "lrp"]


@pytest.mark.parametrize(
    ("name", "importance"),
    [
        *(("residual", importance) for importance in CRITERIA),
        ("dense", "taylor"),
        *(pytest.param("dense", other, marks=pytest.mark.slow) for other in CRITERIA if other != "taylor"),
    ],
)
def test_two_steps_are_two_prunes(name: str, importance: str) -> None:
    model, example = build(name)
    settings: dict[str, Any] = {"importance": importance, "batches": batches_of(example)}
    settings |= {"max_ratio": 1.0, "min_kept": 2}  # a group of one index is none any more, and others take its name
    both = prune(model, example, {"macs": 0.36}, steps=2, schedule="geometric", **settings)
    first = prune(model, example, {"macs": 0.6}, **settings)
    whole = both.summary.before["macs"]
    second = prune(first.model, example, {"macs": 0.36 * whole}, **settings)
    assert {name: list(gone) for name, gone in both.plan.removed.items()} == composed(first, second)
    assert both.summary.after == second.summary.after


def test_scores_of_what_is_left_differ() -> None:
    """Distances to other filters change when some of them go: steps find another plan than one cut."""
    model, example = build("residual")
    plans = [prune(model, example, {"macs": 0.3}, importance="fpgm", steps=steps).plan.removed for steps in (1, 6)]
    assert plans[0] != plans[1]


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_targets_and_limits_hold_for_all_steps_together(allocation: str, schedule: str) -> None:
    model, example = build("residual")
    seen: list[int] = []
    result = prune(
        model, example, {"macs": 0.35, "params": 0.6}, allocation=allocation, steps=4, schedule=schedule, round_to=2,
        max_ratio=0.75, batches=batches_of(example), between=lambda smaller: seen.append(parameters(smaller)),
    )  # fmt: skip
    assert all(found["measured"] <= found["asked"] for found in result.summary.targets.values())
    assert all(after % 2 == 0 and after >= before / 4 for before, after in result.summary.groups.values())
    assert len(seen) == 3
    assert parameters(model) >= seen[0] >= seen[1] >= seen[2] >= parameters(result.model)
    assert result.summary.difference is not None and result.summary.difference < 1e-5


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_what_is_done_between_steps_changes_scores_and_no_weights() -> None:
    model, example = build("residual")

    def spoil(smaller: nn.Module) -> None:
        for parameter in smaller.parameters():
            parameter.data.neg_().add_(torch.linspace(0, 3, parameter.numel()).view_as(parameter))

    plain = prune(model, example, {"macs": 0.3}, steps=2)
    spoilt = prune(model, example, {"macs": 0.3}, steps=2, between=spoil)
    assert plain.plan.removed != spoilt.plan.removed
    stays = [i for i in range(12) if i not in spoilt.plan.removed["inner.weight:0"]]
    assert torch.equal(spoilt.model.inner_norm.weight, model.inner_norm.weight[stays])


def test_a_measured_target_with_steps() -> None:
    model, example = build("residual")
    result = prune(model, example, {"size": 0.5}, steps=3, estimators={"size": lambda m, inputs: float(parameters(m))})
    report = result.summary.targets["size"]
    assert 0.4 * parameters(model) < report["measured"] <= report["asked"] == 0.5 * parameters(model)


def test_batches_may_be_a_generator() -> None:
    model, example = build("residual")
    batches = batches_of(example)
    settings: dict[str, Any] = {"importance": "taylor", "steps": 2}
    once = prune(model, example, {"macs": 0.5}, batches=(batch for batch in batches), **settings)
    assert once.plan.removed == prune(model, example, {"macs": 0.5}, batches=batches, **settings).plan.removed


def test_progress_is_told_and_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    model, example = build("residual")
    told: dict[str, list[tuple[float, float]]] = {}
    prune(
        model, example, {"macs": 0.5}, importance="taylor", allocation="distortion", steps=2, batches=batches_of(example),
        progress=lambda step, done, total: told.setdefault(step, []).append((done, total)),
    )  # fmt: skip
    stages = [f"{stage} {step}/2" for step in (1, 2) for stage in ("inputs of layers", "importance", "distortion")]
    assert list(told) == [*stages, "pruning steps"]
    for reports in told.values():
        done = [d for d, _ in reports]
        assert done == sorted(done) and reports[-1][0] == reports[-1][1]
    assert capfd.readouterr() == ("", "")


def test_repair_and_the_search_for_measured_targets_tell_where_they_are(capfd: pytest.CaptureFixture[str]) -> None:
    model, example = build("residual")
    told: dict[str, list[tuple[float, float]]] = {}

    def progress(step: str, done: float, total: float) -> None:
        told.setdefault(step, []).append((done, total))

    estimators = {"size": lambda m, inputs: float(parameters(m))}
    result = prune(model, example, {"size": 0.5}, estimators=estimators, progress=progress)
    batches = batches_of(example)
    recalibrate_(result.model, batches, progress)
    assert least_squares_(result.model, model, result.plan, batches, progress=progress).solved
    assert list(told) == ["importance", "measured targets", "batch statistics", "least squares"][-len(told) :]
    assert told["batch statistics"] == [(1, 2), (2, 2)]
    layers = int(told["least squares"][0][1])
    assert told["least squares"] == [(done, layers) for done in range(1, layers + 1)]
    searched = told["measured targets"]
    assert [done for done, _ in searched] == list(range(1, int(searched[0][1]) + 1))
    told.clear()
    prune(model, example, {"size": 1.0}, estimators=estimators, progress=progress)
    recalibrate_(result.model, (batch for batch in batches), progress)
    assert all(reports[-1][0] == reports[-1][1] for reports in told.values()) and len(told) == 2
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "`steps` must be a whole number of at least 1, got 0"),
        ({"schedule": "cosine"}, "`schedule` must be one of linear, geometric, got 'cosine'"),
        ({"allocation": "distortion"}, "needs `batches`"),
        ({"allocation": "distortion", "batches": []}, "at least one batch"),
        ({"allocation": "best"}, "`allocation` must be one of auto, uniform, global, isomorphic, optimal, distortion"),
        ({"importance": "lrp"}, "needs `batches`"),
        (
            {"importance": "lrp", "batches": [(torch.zeros(2, 3, 8, 8), torch.zeros(2))]},
            r"labels \(N,\) of these classes, got",
        ),
        ({"importance": "lrp", "batches": [torch.zeros(2, 3, 8, 8)]}, "got no labels"),
        ({"importance": lambda tensors: {"nowhere": torch.ones(2)}}, "for 'nowhere' of shape None"),
        ({"importance": lambda tensors: {"head.bias": torch.ones(2)}}, r"got \(2,\) for 'head.bias' of shape \(5,\)"),
        ({"importance": lambda tensors: {"head.bias": torch.full((5,), torch.nan)}}, "finite scores"),
    ],
)
def test_bad_input_is_refused(settings: Any, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    model, example = build("residual")
    with pytest.raises(ValueError, match=message):
        prune(model, example, {"macs": 0.5}, **settings)
    assert capfd.readouterr() == ("", "")
