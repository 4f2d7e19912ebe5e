"""`prune` by weights alone and without repair, where a test does not say otherwise: for tests of everything else."""

from __future__ import annotations

from typing import Any

from torch import nn

import pruners
from pruners import PruneResult

PLAIN = {"importance": "l2", "allocation": "global"}


def prune(model: nn.Module, example_inputs: Any, targets: Any, **settings: Any) -> PruneResult:
    """See `pruners.prune`."""
    plain = {} if "config" in settings else PLAIN
    return pruners.prune(model, example_inputs, targets, **{"recover": "none", **plain, **settings})
