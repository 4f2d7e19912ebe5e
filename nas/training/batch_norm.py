"""Batch normalisation whose statistics are those of the batches of all processes that train together.

Reference: Ioffe, Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift", ICML 2015,
arXiv:1502.03167.
Differs: torch's SyncBatchNorm takes modules, and GPUs alone; here it is the function that modules of any kind call, on CPUs too, so
that slices of shared weights and norms of one's own are served.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from nas.runtime import ranks


def common_statistics() -> AbstractContextManager[object]:
    """Within it, `F.batch_norm` in training takes mean and variance over the batches of all processes, and running ones from there.

    All processes have to call it equally often and in the same order, and to go back through it so, too.
    """
    return _Common() if ranks.share().of > 1 else nullcontext()


class _Common(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (batch_norm if func is F.batch_norm else func)(*args, **(kwargs or {}))


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`F.batch_norm` of (N, C, ...), in training over the batches of all processes; running variances are unbiased, as torch's are."""
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    out, mean, variance, count = _Normalised.apply(x, weight, bias, eps)
    with torch.no_grad():
        if running_mean is not None:
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        if running_var is not None:
            running_var.lerp_((variance * count / (count - 1)).to(running_var.dtype), momentum)
    return out


class _Normalised(torch.autograd.Function):
    """x -> normalised x, and mean, biased variance and count (each (C,)) of all processes' values of a channel."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        variance, mean = torch.var_mean(_wide(x), _axes(x), correction=0)
        count = torch.full_like(mean, x.numel() / x.shape[1])
        variances, means, counts = ranks.gathered(torch.stack([variance, mean, count])).unbind(1)
        count = counts.sum(0)
        mean = (means * counts).sum(0) / count
        variance = ((variances + (means - mean).square()) * counts).sum(0) / count
        out = F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)
        ctx.save_for_backward(x, weight, mean, (variance + eps).rsqrt(), count)
        ctx.mark_non_differentiable(mean, variance, count)
        return out, mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale, count = ctx.saved_tensors
        shape = (1, -1, *(1,) * (x.dim() - 2))
        slope = _wide(grads[0])
        unit = (_wide(x) - mean.view(shape)) * scale.view(shape)
        own = torch.stack([slope.sum(_axes(x)), (slope * unit).sum(_axes(x))])
        shift, along = (ranks.summed(own) / count).view(2, *shape)
        factor = scale if weight is None else scale * weight
        back = (slope - shift - unit * along) * factor.view(shape)
        own = own if weight is None else own.to(weight.dtype)
        _, learns_scale, learns_shift, _ = ctx.needs_input_grad
        return back.to(x.dtype), own[1] if learns_scale else None, own[0] if learns_shift else None, None


def _wide(x: Tensor) -> Tensor:
    """In the precision that statistics have."""
    return x if x.dtype == torch.float64 else x.float()


def _axes(x: Tensor) -> list[int]:
    """All but that of the channels."""
    return [0, *range(2, x.dim())]
