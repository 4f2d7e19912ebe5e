"""Whether the samples' gradients agree."""

from __future__ import annotations

import torch
from torch import nn

from estimators.zero_cost.working import Batch, Loss, gradients, run, samples, size, total, weights


def gradsign(model: nn.Module, batch: Batch, loss: Loss) -> float:
    """Σ over weights of |Σ over samples of sign(∂ℓ(sample)/∂w)|; more where the samples pull weights the same way.

    Every sample is a batch of its own, forwards and backwards, so batch norms take the statistics of one image. NaN counts as 0.
    Scores of different numbers of samples cannot be compared.

    Reference: Zhang, Jia, "GradSign: Model Performance Inference with Theoretical Insights", ICLR 2022, arXiv:2110.08616.
    """
    own = weights(model)
    agreement = [torch.zeros_like(w) for w in own]
    for inputs, targets in samples(batch):
        for sum_, g in zip(agreement, gradients(loss(run(model, inputs), targets), own), strict=True):
            sum_ += g.sign().nan_to_num(0)
    return sum(sum_.abs().sum().item() for sum_ in agreement)


def ntk_condition(model: nn.Module, batch: Batch, loss: Loss, *, most: int = 16) -> float:
    """Condition number of the neural tangent kernel on at most `most` samples: 1 where they can be learned equally fast.

    Entry (i, j) is the inner product of the weights' gradients of Σ outputs for samples i and j, each a batch of its own. Eigenvalues
    at or below the rounding of float32 count as that rounding. Infinite where no weight reaches the outputs.

    Reference: Chen, Huang, Du, Song, Wang, Zhou, "Auto-scaling Vision Transformers without Training", ICLR 2022, arXiv:2202.11921.
    """
    own = weights(model)
    part = [
        torch.cat([g.flatten() for g in gradients(total(run(model, inputs)), own)])
        for inputs, _ in samples(batch, min(most, size(batch)))
    ]
    jacobian = torch.stack(part).double()
    values = torch.linalg.eigvalsh(jacobian @ jacobian.T)
    largest = values[-1].item()
    floor = largest * torch.finfo(torch.float32).eps
    return largest / max(values[0].item(), floor) if largest > 0 else float("inf")
