"""Blocks that are left out by `prune`: when, which, and what is refused; and bad data, each with its word."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruners import prune
from pruners.allocation import selection
from tests.pruners.surgery.test_blocks import Net
from tests.pruners.test_random import DroppedOut


def net(idle: int | None = 1) -> tuple[nn.Module, Tensor]:
    """Three residual steps, one of which adds nothing."""
    torch.manual_seed(0)
    model = Net(["plain"] * 3, False).eval()
    if idle is not None:
        nn.init.zeros_(model.steps[idle].down.weight)
        nn.init.zeros_(model.steps[idle].down.bias)
    return model, torch.randn(64, 5)


@pytest.mark.parametrize(("left", "goes"), [(0.6, True), (0.69, True), (0.71, False), (0.9, False)])
def test_blocks_go_by_default_where_the_target_is_tight(left: float, goes: bool) -> None:
    model, x = net()
    result = prune(model, x[:2], {"macs": left}, batches=[x])
    assert ("steps.1" in result.summary.blocks) == goes
    assert result.summary.after["macs"] <= left * result.summary.before["macs"]


def test_the_tightest_target_decides() -> None:
    model, x = net()
    assert "steps.1" in prune(model, x[:2], {"macs": 0.95, "params": 0.6}, batches=[x]).summary.blocks


@pytest.mark.parametrize(("left", "depth"), [(0.72, True), (0.5, False)])
def test_what_is_asked_for_overrides_the_default(left: float, depth: bool) -> None:
    model, x = net()
    blocks = prune(model, x[:2], {"macs": left}, batches=[x], depth=depth).summary.blocks
    assert ("steps.1" in blocks) == depth


def test_the_model_without_a_block_that_adds_nothing_is_the_same() -> None:
    model, x = net()
    result = prune(model, x[:2], {"macs": 0.72}, batches=[x], depth=True, recover="none")
    assert result.summary.blocks == ("steps.1",) and not result.plan.removed
    with torch.no_grad():
        torch.testing.assert_close(result.model(x), model(x))


@pytest.mark.parametrize(
    "settings", [{"depth": True}, {"depth": True, "importance": "l2"}, {"depth": True, "allocation": "global"}]
)
def test_depth_is_refused_where_nothing_prices_blocks(settings: dict[str, Any]) -> None:
    model, x = net()
    batches = [x] if len(settings) > 1 else None
    with pytest.raises(
        ValueError, match=r"`depth` needs `importance` curvature and `allocation` optimal, with `batches`"
    ):
        prune(model, x[:2], {"macs": 0.6}, batches=batches, **settings)


def test_a_target_that_only_depth_reaches() -> None:
    model, x = net()
    settings: dict[str, Any] = {"batches": [x], "max_ratio": 0.3}
    with pytest.raises(
        ValueError, match=r"reachable, got macs .*, or set `depth=True`, which .* reaches macs from \d+\."
    ):
        prune(model, x[:2], {"macs": 0.45}, depth=False, **settings)
    with pytest.raises(ValueError, match=r"protect fewer groups; `depth=True`, which .* reaches macs from \d+\."):
        prune(model, x[:2], {"macs": 0.05}, depth=False, **settings)
    result = prune(model, x[:2], {"macs": 0.45}, depth=True, **settings)
    assert len(result.summary.blocks) >= 1 and result.summary.after["macs"] <= 0.45 * result.summary.before["macs"]


def test_a_block_that_is_ignored_stays() -> None:
    model, x = net()
    result = prune(model, x[:2], {"macs": 0.6}, batches=[x], ignore=["steps.1"])
    assert "steps.1" not in result.summary.blocks
    assert result.model.steps[1].up.out_features == 10, "nor does it lose indices"


class Summed(nn.Module):
    """A step that is no module of its own: the block is called by its sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(5, 6), nn.Linear(6, 3)
        self.up, self.down = nn.Linear(6, 10), nn.Linear(10, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.head(x + self.down(self.up(x).relu()))


def test_a_block_is_ignored_by_whatever_it_is_called() -> None:
    torch.manual_seed(0)
    model, x = Summed().eval(), torch.randn(64, 5)
    nn.init.zeros_(model.down.weight)
    nn.init.zeros_(model.down.bias)
    (name,) = prune(model, x[:2], {"macs": 0.3}, batches=[x]).summary.blocks
    assert name not in dict(model.named_modules())
    assert not prune(model, x[:2], {"macs": 0.3}, batches=[x], ignore=[name]).summary.blocks
    with pytest.raises(ValueError, match=r"`ignore` must name groups, tensors or modules, got 'add_7'"):
        prune(model, x[:2], {"macs": 0.3}, batches=[x], ignore=["add_7"])


def test_batches_of_several_sizes_are_samples_like_any() -> None:
    model, x = net()
    several = prune(model, x[:2], {"macs": 0.6}, batches=[x[:7], x[7:40], x[40:]])
    assert several.summary.blocks and several.summary.chosen["recover"].startswith("least-squares")


def test_examples_of_another_size_than_the_model_takes_are_refused() -> None:
    model, x = net()
    with pytest.raises(ValueError, match="`batches` must hold inputs like `example_inputs`, here Nx5 .* got 64x4"):
        prune(model, x[:2], {"macs": 0.6}, batches=[x, x[:, :4]])


def test_examples_that_never_activate_a_layer_are_no_error() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3)).eval()
    nn.init.constant_(model[2].bias, -1e3)
    x = torch.randn(64, 5)
    result = prune(model, x[:2], {"macs": 0.6}, batches=[x])
    with torch.no_grad():
        torch.testing.assert_close(result.model(x), model(x))


def test_where_examples_do_not_determine_the_outputs_auto_still_ends_and_says_what_it_left_out() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 6)
    result = prune(DroppedOut().eval(), x[:3], {"params": 0.6}, batches=[x])
    assert (
        result.summary.chosen["recover"].startswith("none: ") and "random numbers" in result.summary.chosen["recover"]
    )
    with pytest.raises(ValueError, match="random numbers"):
        prune(DroppedOut().eval(), x[:3], {"params": 0.6}, batches=[x], recover="least-squares")


def test_very_little_time_is_kept_to_and_said() -> None:
    model, x = net()
    result = prune(model, x[:2], {"macs": 0.6}, batches=[x[:7], x[7:40], x[40:]], max_seconds=1e-6)
    assert result.summary.after["macs"] <= 0.6 * result.summary.before["macs"]
    assert [note for note in result.summary.notes if "`max_seconds`" in note] == [
        f"{step}: 7 of 64 samples were used, as many as `max_seconds` of 1e-06 allows; more time or faster hardware uses more"
        for step in ("curvature", "blocks left out")
    ]


def test_no_word_on_samples_where_all_are_used() -> None:
    model, x = net()
    assert not prune(model, x[:2], {"macs": 0.6}, batches=[x[:32]]).summary.notes


def test_a_bound_on_work_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = net()
    monkeypatch.setattr(selection, "WORK", 1)
    notes = prune(model, x[:2], {"macs": 0.6}, batches=[x]).summary.notes
    assert [note.partition(", as")[0] for note in notes] == [
        f"{step}: 4 of 64 samples were used" for step in ("curvature", "blocks left out")
    ]


def test_blocks_are_priced_on_some_samples_which_is_said() -> None:
    model, _ = net()
    x = torch.randn(33, 5)
    (note,) = prune(model, x[:2], {"macs": 0.6}, batches=[x]).summary.notes
    assert note == "blocks left out: 32 of 33 samples were used, as many as the price of a block takes"


def test_memory_too_small_for_a_sample_is_refused() -> None:
    model, x = net()
    with pytest.raises(
        ValueError, match=r"`max_bytes` must hold .* one sample at least, got 100 where .* about \d+; give"
    ):
        prune(model, x[:2], {"macs": 0.6}, batches=[x], max_bytes=100)


def test_pictures_and_texts_of_several_sizes_are_refused_though_the_model_takes_them() -> None:
    torch.manual_seed(0)
    pooled = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)).eval()
    x = torch.randn(4, 3, 9, 9)
    refused = "`batches` must hold inputs like `example_inputs`, here {} .* got {} .*; crop, pad or convert them"
    with pytest.raises(ValueError, match=refused.format("Nx3x9x9", "4x3x7x7")):
        prune(pooled, x[:2], {"macs": 0.6}, batches=[x, x[:, :, :7, :7]])
    texts = nn.Sequential(nn.Embedding(9, 6), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    tokens = torch.randint(0, 9, (4, 12))
    with pytest.raises(ValueError, match=refused.format("Nx12", "4x5")):
        prune(texts, tokens[:2], {"macs": 0.6}, batches=[tokens, tokens[:, :5]])
