"""What the outputs lose with a block, against the model that is built without it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pruners.importance.leaving_out import left_out_damages
from pruners.importance.outputs import Measure
from pruners.progress import silent
from pruners.surgery.rewrite import Removal, rewrite
from tests.pruners.networks import build
from tests.pruners.surgery.test_blocks import Net, Opened


def damages(opened: Opened, *batches: Tensor) -> dict[str, float]:
    whole = rewrite(Removal(opened.graph, {}))
    return left_out_damages(whole, opened.blocks, [[x] for x in batches], Measure(opened.graph.trace), silent)


@pytest.mark.parametrize(
    "kinds", [["plain", "scaled"], ["post-norm", "post-norm"], ["parallel", "plain"], ["rectified", "subtracted"]]
)
def test_it_is_what_changes_in_a_model_without_it(kinds: list[str]) -> None:
    torch.manual_seed(0)
    opened = Opened(Net(kinds, False).eval(), torch.randn(4, 5))
    x = torch.randn(30, 5)
    found = damages(opened, x)
    assert found.keys() == {block.name for block in opened.blocks} and len(found) >= 2
    with torch.no_grad():
        before = opened.model(x)
        for block in opened.blocks:
            after = opened.without([block]).model(x)
            expected = float((before - after).square().sum() / 30 / before.var(0).sum())
            assert found[block.name] == pytest.approx(expected, rel=1e-3) and expected > 1e-4


def test_terms_of_one_sum_are_left_out_one_by_one() -> None:
    opened = Opened(*build("looped experts"))
    (x,) = opened.args
    found = damages(opened, x)
    with torch.no_grad():
        before = opened.model(x)
        for block in opened.blocks:
            after = opened.without([block]).model(x)
            expected = float((before - after).square().sum() / len(x) / before.var(0).sum())
            assert found[block.name] == pytest.approx(expected, rel=1e-3)


def test_batches_are_averaged_and_reported() -> None:
    torch.manual_seed(0)
    opened = Opened(Net(["plain"], False).eval(), torch.randn(4, 5))
    x, told = torch.randn(30, 5), []
    whole, measure = rewrite(Removal(opened.graph, {})), Measure(opened.graph.trace)
    found = left_out_damages(whole, opened.blocks, [[x], [x]], measure, lambda *given: told.append(given))
    assert found == pytest.approx(damages(opened, x))
    assert told == [("blocks left out", 1, 1), ("blocks left out", 2, 2)]
