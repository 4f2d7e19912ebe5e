"""How much can flow through the absolute weights, without data."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils._pytree import tree_map

from estimators.zero_cost.working import Batch, BatchNorm, Loss, floating, gradients, rows, run, total, weights, without


def synflow(model: nn.Module, batch: Batch, loss: Loss) -> float:
    """Σ |w · ∂R/∂w|, where R is the sum of the outputs for one input of ones.

    Parameters and floating-point buffers are replaced by their absolute values, batch norms by nothing, and all is computed in float64.
    What holds an infinity, such as an attention mask, stays. The batch only tells the shape of an input; the loss is not looked at.

    Reference: Tanaka, Kunin, Yamins, Ganguli, "Pruning neural networks without any data by iteratively conserving synaptic flow",
    NeurIPS 2020, arXiv:2006.05467; as a score: Abdelfattah et al., ICLR 2021, arXiv:2101.08134.
    """
    model.double()
    without(model, (BatchNorm,))
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if floating(tensor) and tensor.isfinite().all():
                tensor.abs_()
    inputs = tree_map(
        lambda leaf: torch.ones_like(leaf, dtype=torch.float64) if floating(leaf) else leaf, rows(batch, slice(1))[0]
    )
    own = weights(model)
    found = gradients(total(run(model, inputs)), own)
    return sum((w * g).abs().sum().item() for w, g in zip(own, found, strict=True))
