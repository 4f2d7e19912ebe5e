"""The zoo list with Torch-Pruning as its README uses it, no setting per model: the other columns of `prune_zoo`.

Its pruner takes group magnitudes, ignores the classifier (the last linear or convolutional layer) and removes 5 % of the channels
of every layer at a time until half of the macs are left, as its own benchmark does with finer steps.
"""

from __future__ import annotations

import time
import warnings
from typing import Any

import torch
from torch import nn

from estimators import count
from tests.zoo import Definition, build, tensors

STEPS = 20  # to a pruning ratio of 1


def available() -> bool:
    """Whether Torch-Pruning can be imported."""
    try:
        import torch_pruning  # noqa: F401
    except ImportError:
        return False
    return True


def measure(definition: Definition) -> dict[str, Any]:
    """Macs left, seconds, whether it finished with a model that runs, and whether outputs kept their shapes."""
    import torch_pruning

    warnings.simplefilter("ignore")
    model, example = build(definition)
    with torch.no_grad():
        shapes = [x.shape for x in tensors(model(*example))]
    macs = before = count(model, example).total.macs
    start = time.perf_counter()
    pruner = torch_pruning.pruner.BasePruner(
        model,
        example[0],
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=1.0,
        iterative_steps=STEPS,
        ignored_layers=[[m for m in model.modules() if isinstance(m, (nn.Linear, nn.modules.conv._ConvNd))][-1]],
    )
    for _ in range(STEPS - 1):
        pruner.step()
        with torch.no_grad():
            model(*example)  # raises what the user would see
        macs = count(model, example).total.macs
        if macs <= 0.5 * before:
            break
    seconds = time.perf_counter() - start
    with torch.no_grad():
        same = [x.shape for x in tensors(model(*example))] == shapes
    return {
        "tp_finished": macs <= 0.5 * before,
        "tp_macs": macs,
        "tp_same_shapes": same,
        "tp_seconds": round(seconds, 2),
        "tp_error": "" if macs <= 0.5 * before else "half of the macs not reached",
    }
