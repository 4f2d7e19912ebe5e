"""Stochastic gradient descent: which parameters decay, a step, and what is checked after it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.runtime import precision
from nas.training.config import NotFinite, TrainingConfig
from search_spaces.layers import ElasticConv
from search_spaces.pooling import WindowPool


def decaying(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The parameters of a network with weight decay, and those without.

    Weight decay spares parameters with fewer than two dimensions: biases, and scales and shifts of normalisations. It
    also spares the transforms of smaller kernels, which should stay near the identity, and the parameters of local
    pooling.

    Reference: Cai et al., "Once-for-All: Train One Network and Specialize it for Efficient Deployment", ICLR 2020, arXiv:1908.09791,
    for biases and normalisations; Lee, Gallagher, Tu, "Generalizing Pooling Functions in Convolutional Neural Networks", AISTATS 2016,
    arXiv:1509.08985, for the gates of pooling.
    Differs: the filters, shares and exponents of pooling are spared as its gates are.
    """
    spared = {parameter for parameter in module.parameters() if parameter.ndim < 2}
    for layer in module.modules():
        if isinstance(layer, ElasticConv):
            spared |= set(layer.transforms.values())
        elif isinstance(layer, WindowPool):
            spared |= set(layer.parameters())
    every = list(module.parameters())
    return [p for p in every if p not in spared], [p for p in every if p in spared]


def sgd(module: nn.Module, config: TrainingConfig) -> torch.optim.SGD:
    """SGD over all parameters; those without a part in a step are left alone by it. For weight decay see `decaying`."""
    decayed, spared = decaying(module) if config.weight_decay else (list(module.parameters()), [])
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": spared}]
    filled = [group for group in groups if group["params"]]
    return torch.optim.SGD(filled, lr=config.learning_rate, momentum=config.momentum)


def set_rate_(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Let the next step have this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def cross_entropy(logits: Tensor, labels: Tensor, config: TrainingConfig) -> Tensor:
    """Mean cross-entropy of logits (batch, classes) in float32; of several heads (batch, heads, classes), the sum of theirs."""
    if logits.ndim == 3:
        return torch.stack([cross_entropy(head, labels, config) for head in logits.unbind(1)]).sum()
    return F.cross_entropy(logits.float(), labels, label_smoothing=config.label_smoothing)


def descend(
    optimizer: torch.optim.Optimizer, compute: Callable[[], Tensor], device: torch.device, learning_rate: float
) -> float:
    """One step down the loss that `compute` gives; returns the loss before the step."""
    set_rate_(optimizer, learning_rate)
    optimizer.zero_grad(set_to_none=True)
    with precision(device):
        loss = compute()
    value = loss.item()
    if not math.isfinite(value):
        raise NotFinite(f"the training loss must be finite, got {value}; lower `learning_rate` (now {learning_rate:g})")
    loss.backward()
    optimizer.step()
    return value


def check_weights(optimizer: torch.optim.Optimizer) -> None:
    """Raise NotFinite unless all weights and momenta have finite squares: larger ones make the next loss NaN or infinite.

    Losses are taken before a step, so that no loss of its epoch shows what an epoch's last step did.
    """
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    tensors = [*weights, *momenta(optimizer).values()]
    with torch.no_grad():
        sums = torch.stack([tensor.float().square().sum() for tensor in tensors])
    if not sums.isfinite().all():
        raise NotFinite(
            f"weights must have finite squares after an epoch, got a sum of {sums.max().item()}; lower `learning_rate` (now "
            f"{optimizer.param_groups[0]['lr']:g})"
        )


def momenta(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's momentum buffers, by the number of the parameter."""
    buffers = optimizer.state_dict()["state"]
    return {
        f"{index}": entry["momentum_buffer"]
        for index, entry in buffers.items()
        if entry.get("momentum_buffer") is not None
    }


def restore_momenta_(optimizer: torch.optim.Optimizer, buffers: Mapping[str, Tensor]) -> None:
    """Put back what `momenta` gave."""
    state = optimizer.state_dict()
    state["state"] = {int(index): {"momentum_buffer": buffer} for index, buffer in buffers.items()}
    optimizer.load_state_dict(state)
