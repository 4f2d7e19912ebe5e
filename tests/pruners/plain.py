"""`prune` by weights alone and without repair, where a test does not say otherwise, and `allocate` without blocks."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import pruners
from pruners import PruneResult
from pruners.allocation import allocate as allocated
from pruners.operators import Axis

PLAIN = {"importance": "l2", "allocation": "global"}


def prune(model: nn.Module, example_inputs: Any, targets: Any, **settings: Any) -> PruneResult:
    """See `pruners.prune`."""
    plain = {} if "config" in settings else PLAIN
    return pruners.prune(model, example_inputs, targets, **{"recover": "none", **plain, **settings})


def allocate(*given: Any, **settings: Any) -> dict[Axis, torch.Tensor]:
    """What stays of each group that loses something, see `pruners.allocation.allocate`."""
    return allocated.allocate(*given, **settings).keep
