"""Curves of distortion against the masked model run whole, and an allocation that they guide."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pruners.allocation.allocate import Limits
from pruners.groups.dependency import dependency_groups, tie_axes
from pruners.groups.ragged import keep_highest
from pruners.importance.distortion import SAMPLES, distortion_curves
from pruners.importance.score import score_groups
from pruners.surgery.rewrite import Removal, rewrite
from pruners.tracing.trace import trace
from tests.pruners.networks import build
from tests.pruners.plain import prune
from tests.pruners.test_invariants import analysed


@pytest.mark.parametrize(
    "name", ["residual", "residual group norm", "dense", "fused qkv", "shared", "recurrent", "grouped and shuffled"]
)
def test_curves_are_changes_of_the_smaller_models_outputs(name: str) -> None:
    _, example, graph = analysed(name)
    free = [group for group in dependency_groups(graph) if not group.protected]
    scores = score_groups(graph, free)
    limits = Limits(max_ratio=1)
    levels = {group.name: limits.levels(group) for group in free}
    told: list[tuple[float, float]] = []
    curves = distortion_curves(graph, free, scores, levels, [example], {}, lambda d, n: told.append((d, n)))
    (whole,) = run(Removal(graph, {}), example)
    for group in free:
        curve = curves[group.name]
        assert len(curve) == group.size + 1 and curve[0] == 0
        highest = 0.0
        for removed in range(1, group.size):
            if group.size > 10:  # only some are measured
                break
            (part,) = run(Removal(graph, {group.axis: keep_highest(scores[group.name], removed)}), example)
            highest = max(highest, float((part - whole).square().mean()))
            assert curve[removed] == pytest.approx(highest, rel=1e-3, abs=1e-9)
    assert told[-1][0] == told[-1][1] == len(told)


def run(removal: Removal, example: tuple[Tensor, ...]) -> list[Tensor]:
    with torch.no_grad():
        return [rewrite(removal)(*example)]


def test_curves_of_what_is_left() -> None:
    """With indices gone before, a curve starts at them, and compares with what they left."""
    _, example, graph = analysed("residual")
    free = [group for group in dependency_groups(graph) if not group.protected]
    keep = {free[0].axis: keep_highest(torch.arange(8.0), 3)}
    scores = score_groups(graph, free, model=rewrite(Removal(graph, keep)), keep=keep)
    levels = {group.name: Limits().levels(group, 3 if group is free[0] else 0) for group in free}
    curves = distortion_curves(graph, free, scores, levels, [example], keep, lambda d, n: None)
    assert curves[free[0].name][3] == 0 < curves[free[0].name][4]
    (before,), (after,) = (
        run(Removal(graph, {free[0].axis: keep_highest(scores[free[0].name], n)}), example) for n in (3, 4)
    )
    assert curves[free[0].name][4] == pytest.approx(float((after - before).square().mean()), rel=1e-3)


def test_a_group_that_does_nothing_is_emptied_first() -> None:
    model, example = build("residual")
    with torch.no_grad():
        model.outer.weight.zero_()
    batches = [torch.randn(8, 3, 8, 8)]
    result = prune(model, example, {"macs": 0.45}, allocation="distortion", batches=batches)
    assert list(result.summary.groups) == ["inner.weight:0"]
    assert result.summary.targets["macs"]["measured"] <= result.summary.targets["macs"]["asked"]


def test_less_distortion_than_by_ranking() -> None:
    better = 0
    for seed in range(5):
        model, example = build("residual", seed)
        batches = [torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(seed))]
        changes = []
        for allocation in ("global", "distortion"):
            smaller = prune(model, example, {"macs": 0.6}, allocation=allocation, batches=batches).model
            with torch.no_grad():
                changes.append(float((smaller(batches[0]) - model(batches[0])).square().mean()))
        better += changes[1] <= changes[0]
    assert better >= 4


def test_at_most_so_many_samples_are_used() -> None:
    model, example = build("residual")
    graph = tie_axes(trace(model, example))
    free = [group for group in dependency_groups(graph) if not group.protected]
    scores, levels = score_groups(graph, free), {group.name: Limits().levels(group) for group in free}
    x = torch.randn(SAMPLES + 50, 3, 8, 8)
    spoilt = x.clone()
    spoilt[SAMPLES:] = 1e4
    curves = [
        distortion_curves(graph, free, scores, levels, list(batch.split(100)), {}, lambda d, n: None)
        for batch in (x, spoilt)
    ]
    for name in curves[0]:
        assert curves[0][name].tolist() == curves[1][name].tolist()


def test_batches_that_do_not_fit_are_refused() -> None:
    model, example = build("residual")
    with pytest.raises(
        ValueError, match=r"`batches` must hold as many inputs as `example_inputs` \(1 tensors\), got 2"
    ):
        x = torch.randn(2, 3, 8, 8)
        prune(model, example, {"macs": 0.5}, allocation="distortion", batches=[((x, x), torch.zeros(2))])
