"""What is refused before any work, and in words: options that do not exist, data that are missing, values of another kind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruners import PrunableSpace, prune


class Idle(nn.Module):
    """Fails where it is run or traced."""

    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"importance": "taylor"}, r"`importance='taylor'` needs `batches`, .*; without data take one of l1, l2, lamp"),
        ({"importance": "obs", "allocation": "optimal"}, "`importance='obs'` needs `batches`"),
        ({"importance": "magic"}, "`importance` must be one of l1, .* got 'magic'"),
        ({"importance": None}, "`importance` must be one of l1, .* got None"),
        ({"aggregate": "median"}, "`aggregate` must be one of sum, mean, max, got 'median'"),
        ({"aggregate": sum}, "`aggregate` must be one of sum, mean, max, got <built-in"),
        ({"normalise": "std"}, "`normalise` must be one of mean, max, sum, none, None, got 'std'"),
        ({"allocation": "best"}, "`allocation` must be one of uniform, .*, got 'best'"),
        ({"allocation": "distortion"}, r"needs `batches`, .*; without data take one of uniform, global, isomorphic, optimal"),
        ({"targets": 0.5}, r"`targets` must be a mapping from macs, .* got 0.5; write {'macs': 0.5}"),
        ({"targets": {"macs": None}}, r"`targets\['macs'\]` must be positive, got None"),
        ({"targets": {"flops": 0.5}}, "`targets` must be among macs, .*, got 'flops'"),
        ({"targets": {"macs": -1}}, "must be positive, got -1"),
    ],
)  # fmt: skip
def test_what_needs_no_work_is_refused_before_the_model_runs(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prune(Idle(), torch.zeros(2, 3), **{"targets": {"macs": 0.5}, **settings})


def test_a_space_asks_for_data_before_the_model_runs() -> None:
    with pytest.raises(ValueError, match="`importance='fisher'` needs `batches`"):
        PrunableSpace(Idle(), torch.zeros(2, 3), importance="fisher")
