"""Where NaN or infinity first appears in a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from pruners.operators import owner, several
from pruners.surgery import GraphModel
from pruners.tracing import Runner


def refuse_not_finite(model: GraphModel, values: Sequence[Any], read: str) -> NoReturn:
    """Say which layer is the first to compute what is no number, or infinity, from some inputs.

    Minus infinity is passed over: masks hold it.

    Args:
        model: the rewritten graph.
        values: its inputs, of one batch.
        read: name of an operator whose values or gradients are not finite, for where no value is.

    Raises:
        ValueError: always.
    """
    what, where = "finite gradients", f"at {read!r}"
    if any(_bad(x) for x in values):
        what, where = "finite values", "in the inputs themselves"
    else:
        with torch.no_grad():
            for node, value in Runner(model).steps(list(values)):
                if any(_bad(x) for x in several(value)):
                    name = owner(node)
                    inside = f" of {name!r}" if name else ""
                    what, where = "finite values", f"first at {node.name!r}{inside}"
                    break
    raise ValueError(
        f"`batches` must give every layer {what}, got NaN or infinity {where}; look for them in the data and the weights."
    )


def _bad(value: Any) -> bool:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return False
    return bool((value.isnan() | value.isposinf()).any())
