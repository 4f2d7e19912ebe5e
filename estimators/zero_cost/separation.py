"""Whether an untrained network tells the samples of a batch apart. Labels and loss are not looked at."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from estimators.zero_cost.working import Batch, Loss, gradients, image_like, put, run, size, total

aten = torch.ops.aten
ACTIVATIONS = frozenset(
    (aten.relu, aten.relu_, aten.hardtanh, aten.hardtanh_, aten.leaky_relu, aten.leaky_relu_, aten.gelu, aten.gelu_,
     aten.silu, aten.silu_, aten.hardswish, aten.hardswish_, aten.elu, aten.elu_, aten._prelu_kernel, aten.mish, aten.mish_)
)  # fmt: skip


class _Codes(TorchDispatchMode):
    """Adds up how many units of the activations two samples switch alike, as the model runs."""

    def __init__(self, samples: int) -> None:
        super().__init__()
        self.alike = torch.zeros(samples, samples, dtype=torch.float64)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._overloadpacket in ACTIVATIONS and len(args[0]) == len(self.alike):
            on = (args[0] > 0).flatten(1).float()
            self.alike += (on @ on.T + (1 - on) @ (1 - on).T).double().cpu()
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def naswot(model: nn.Module, batch: Batch, loss: Loss) -> float:
    """log |det K|, where K counts for each pair of samples the units that are on in both or off in both.

    Units are the inputs of ReLU and of its smooth relatives; on means above 0. Two samples that switch every unit alike make it
    minus infinity.

    Reference: Mellor, Turner, Storkey, Crowley, "Neural Architecture Search without Training", ICML 2021, arXiv:2006.04647.

    Raises:
        ValueError: the model has no such activation.
    """
    with _Codes(size(batch)) as codes:
        run(model, batch[0])
    if not codes.alike.any():
        raise ValueError(
            f"`naswot` needs activations such as ReLU or GELU, got a {type(model).__name__} without any; use another score"
        )
    return torch.linalg.slogdet(codes.alike).logabsdet.item()


def jacob_cov(model: nn.Module, batch: Batch, loss: Loss) -> float:
    """−Σ over eigenvalues v of R of log(v + 1e-5) + 1 / (v + 1e-5), R the correlations between the samples' input gradients.

    The gradients are those of the sum of the outputs. −n for n samples without correlation is the most it can be, up to 1e-5. NaN where
    an input gradient is constant.

    Reference: Mellor et al., "Neural Architecture Search without Training", arXiv:2006.04647v1; Abdelfattah et al., ICLR 2021.
    """
    x = image_like(batch[0], "jacob_cov").detach().requires_grad_()
    jacobian = gradients(total(run(model, put(batch[0], x))), [x])[0].flatten(1).double()
    return correlation_score(jacobian)


def correlation_score(jacobian: Tensor) -> float:
    """The score of `jacob_cov` for gradients of shape (samples, inputs)."""
    centred = jacobian - jacobian.mean(1, keepdim=True)
    directions = centred / centred.norm(dim=1, keepdim=True)
    if not directions.isfinite().all():
        return float("nan")
    values = torch.linalg.eigvalsh(directions @ directions.T).clamp(min=0) + 1e-5
    return -(values.log() + 1 / values).sum().item()
