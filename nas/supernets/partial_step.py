"""A step of the optimiser on the part of a supernet's parameters that its subnets use.

The gradient is zero elsewhere, but what the optimiser remembers and weight decay would move the rest, too. So only that part is
updated, of the weights and of what is remembered of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd

from nas.supernets.slices import Box, Part, Scattered, whole

Group = Mapping[str, Any]
Parts = Mapping[nn.Parameter, Part]


def step_(optimizer: torch.optim.Optimizer, partial: Parts) -> None:
    """One step of `optimizer` that leaves the rest of the partial parameters, and its state, as they are to the bit.

    Args:
        optimizer: `torch.optim.SGD` or `torch.optim.AdamW`, as `nas.training.make_optimizer` makes them; gradients that it steps along
            by parts are taken away.
        partial: the part to move of parameters that do not move whole.
    """
    with torch.no_grad():
        for group in optimizer.param_groups:
            STEPS[type(optimizer)](optimizer, group, partial)
    optimizer.step()


def _sgd_(optimizer: torch.optim.Optimizer, group: Group, partial: Parts) -> None:
    """Step on the parts of parameters of one group."""
    parameters: list[Tensor] = []
    gradients: list[Tensor] = []
    buffers: list[Tensor | None] = []
    scattered: list[tuple[Tensor, Tensor, Tensor]] = []
    for parameter in group["params"]:
        if parameter not in partial or parameter.grad is None:
            continue
        state = optimizer.state[parameter]
        if group["momentum"] and state.get("momentum_buffer") is None:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer: Tensor | None = state.get("momentum_buffer")
        where = _index(partial[parameter], parameter.device)
        parameters.append(parameter[where])
        gradients.append(parameter.grad[where])
        inside = None if buffer is None else buffer[where]
        buffers.append(inside)
        if isinstance(where, Tensor):  # indexing by a mask gave copies
            scattered.append((parameter, where, parameters[-1]))
            if buffer is not None and inside is not None:
                scattered.append((buffer, where, inside))
        parameter.grad = None
    if parameters:
        sgd(
            parameters,
            gradients,
            buffers,
            lr=group["lr"],
            momentum=group["momentum"],
            weight_decay=group["weight_decay"],
            dampening=group["dampening"],
            nesterov=group["nesterov"],
            maximize=group["maximize"],
        )
    for tensor, where, values in scattered:
        tensor[where] = values


def _adamw_(optimizer: torch.optim.Optimizer, group: Group, partial: Parts) -> None:
    """Step on the parts of parameters of one group, and on all of those that moved in part before.

    Steps are counted for each element: one that starts to move late has moments of few gradients, whatever the step.

    Reference: Loshchilov, Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, arXiv:1711.05101.
    Differs: counts per element, kept once along axes that every part so far spans.
    """
    for parameter in group["params"]:
        if parameter.grad is None:
            continue
        state = optimizer.state[parameter]
        part = partial.get(parameter)
        if part is None and state.get("step", NO_STEPS).ndim == 0:
            continue  # torch's own step serves
        if not state:
            state.update(step=NO_STEPS, exp_avg=torch.zeros_like(parameter), exp_avg_sq=torch.zeros_like(parameter))
        part = part or whole(tuple(parameter.shape))
        state["step"] = _counts(state["step"], parameter, part)
        tensors = (parameter, state["exp_avg"], state["exp_avg_sq"], state["step"])
        where = _index(part, parameter.device)
        inside = [tensor[where] for tensor in tensors]
        adamw_(parameter.grad[where], *inside, **{name: group[name] for name in ("lr", "betas", "eps", "weight_decay")})
        if isinstance(where, Tensor):  # indexing by a mask gave copies
            for tensor, values in zip(tensors, inside, strict=True):
                tensor[where] = values
        parameter.grad = None


def adamw_(
    gradient: Tensor,
    weight: Tensor,
    mean: Tensor,
    square: Tensor,
    counts: Tensor,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> None:
    """A step of AdamW on elements that have taken different numbers of steps.

    Args:
        gradient: of any shape.
        weight: of the same shape; changed in place, as are the following three.
        mean: running mean of the gradient, of the same shape.
        square: running mean of its square, of the same shape.
        counts: steps taken before; it broadcasts to that shape.
        lr: learning rate.
        betas: what the two means keep in a step.
        eps: added to the root of the squares.
        weight_decay: share of a weight that a step of rate 1 takes away.
    """
    counts += 1
    weight.mul_(1 - lr * weight_decay)
    mean.lerp_(gradient, 1 - betas[0])
    square.mul_(betas[1]).addcmul_(gradient, gradient, value=1 - betas[1])
    of_mean, of_square = (_correction(beta, counts) for beta in betas)
    scale = (square.sqrt() / of_square.sqrt()).add_(eps).mul_(of_mean)
    weight.addcdiv_(mean, scale, value=-lr)


def _correction(beta: float, counts: Tensor) -> Tensor:
    """1 - beta^counts: what the gradients so far weigh in a running mean that started at 0."""
    return -torch.expm1(counts * (math.log(beta) if beta else -math.inf))


def _counts(counts: Tensor, parameter: Tensor, part: Part) -> Tensor:
    """Counts of steps that can differ along the axes that `part` does not span.

    Args:
        counts: a scalar while the parameter moves whole, then what this returned.
        parameter: whose elements are counted.
        part: what moves now.

    Returns:
        Counts that broadcast to the parameter's shape: of size 1 along axes that every part so far spans.
    """
    axes = range(parameter.ndim)
    spans = [isinstance(part, Box) and part.stop[d] - part.start[d] == parameter.shape[d] for d in axes]
    counts = counts.to(parameter.device).reshape(counts.shape or (1,) * parameter.ndim)
    return counts.expand([counts.shape[d] if spans[d] else parameter.shape[d] for d in axes]).clone()


def _index(part: Part, device: torch.device) -> Tensor | tuple[slice, ...]:
    return part.mask.to(device) if isinstance(part, Scattered) else part.slices


NO_STEPS = torch.zeros(())
"""No step taken."""
STEPS: dict[type, Callable[[torch.optim.Optimizer, Group, Parts], None]] = {
    torch.optim.SGD: _sgd_,
    torch.optim.AdamW: _adamw_,
}
