"""One pruned model that many tests look at."""

from __future__ import annotations

import pytest
from torch import Tensor, nn

from pruners import PruneResult
from tests.pruners.networks import build
from tests.pruners.plain import prune


@pytest.fixture(scope="session")
def residual() -> tuple[nn.Module, tuple[Tensor, ...], PruneResult]:
    model, example = build("residual")
    return model, example, prune(model, example, {"macs": 0.5})
