"""Optimisers: which parameters decay, a step, what is checked after it, and what a checkpoint keeps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nas.runtime import precision
from nas.training.config import NotFinite, TrainingConfig
from search_spaces.layers import ElasticConv
from search_spaces.pooling import WindowPool

SQUARES = 0.999
"""Beta2 of AdamW: what its mean of squared gradients keeps in a step."""
MOMENTUM = "momentum_buffer"


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


def make_optimizer(module: nn.Module, config: TrainingConfig) -> torch.optim.SGD | torch.optim.AdamW:
    """SGD or AdamW over all parameters; those without a part in a step are left alone by it. For weight decay see `decaying`.

    Reference: for AdamW, Loshchilov, Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, arXiv:1711.05101.
    """
    decayed, spared = decaying(module) if config.weight_decay else (list(module.parameters()), [])
    # the spared have to say 0: torch's AdamW decays by default
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
    filled = [group for group in groups if group["params"]]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(filled, lr=config.learning_rate, betas=(config.momentum, SQUARES))
    return torch.optim.SGD(filled, lr=config.learning_rate, momentum=config.momentum)


def set_rate_(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Let the next step have this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def clip_(parameters: Iterable[nn.Parameter], largest: float | None) -> None:
    """Scale the gradient of all parameters together down to this norm, if it is longer; None leaves it as it is.

    Reference: Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks", ICML 2013, arXiv:1211.5063.
    """
    if largest is not None:
        nn.utils.clip_grad_norm_(parameters, largest)


def descend(
    optimizer: torch.optim.Optimizer,
    compute: Callable[[], Tensor],
    device: torch.device,
    learning_rate: float,
    clip: float | None = None,
) -> float:
    """One step down the loss that `compute` gives, with a gradient clipped as `clip_` does; returns the loss before the step."""
    set_rate_(optimizer, learning_rate)
    optimizer.zero_grad(set_to_none=True)
    with precision(device):
        loss = compute()
    value = loss.item()
    if not math.isfinite(value):
        raise NotFinite(f"the training loss must be finite, got {value}; lower `learning_rate` (now {learning_rate:g})")
    loss.backward()
    clip_((weight for group in optimizer.param_groups for weight in group["params"]), clip)
    optimizer.step()
    return value


def check_weights(optimizer: torch.optim.Optimizer) -> None:
    """Raise NotFinite unless all weights and the optimiser's state have finite squares: larger ones make the next loss NaN or infinite.

    Losses are taken before a step, so that no loss of its epoch shows what an epoch's last step did.
    """
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    tensors = [*weights, *state_tensors(optimizer).values()]
    with torch.no_grad():
        sums = torch.stack([tensor.float().square().sum().to(weights[0].device) for tensor in tensors])
    if not sums.isfinite().all():
        raise NotFinite(
            f"weights must have finite squares after an epoch, got a sum of {sums.max().item()}; lower `learning_rate` (now "
            f"{optimizer.param_groups[0]['lr']:g})"
        )


def state_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What the optimiser remembers, by the number of the parameter: its momentum as `3`, all else as `3.exp_avg`."""
    return {
        str(index) if name == MOMENTUM else f"{index}.{name}": value
        for index, entry in optimizer.state_dict()["state"].items()
        for name, value in entry.items()
        if value is not None
    }


def restore_state_(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `state_tensors` gave."""
    entries: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        entries.setdefault(int(index), {})[name or MOMENTUM] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": entries})
