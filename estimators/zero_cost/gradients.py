"""Scores from the gradient of the loss on one batch, at the weights as they are.

w are the weights, as `working.weights` finds them, g the gradient of the loss with respect to them.

Reference: Abdelfattah, Mehrotra, Dudziak, Lane, "Zero-Cost Proxies for Lightweight NAS", ICLR 2021, arXiv:2101.08134, for all of
them as scores of architectures.
"""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from estimators.zero_cost.working import LAYERS, Batch, Loss, gradients, run, weights


def grad_norm(model: nn.Module, batch: Batch, loss: Loss) -> float:
    """Sum over layers of ‖g‖₂."""
    own = weights(model)
    return sum(g.norm().item() for g in gradients(loss(run(model, batch[0]), batch[1]), own))


def snip(model: nn.Module, batch: Batch, loss: Loss) -> float:
    """Σ |w · g|: how much the loss would change, to first order, if each weight were removed.

    Reference: Lee, Ajanthan, Torr, "SNIP: Single-Shot Network Pruning Based on Connection Sensitivity", ICLR 2019.
    """
    own = weights(model)
    found = gradients(loss(run(model, batch[0]), batch[1]), own)
    return sum((w * g).abs().sum().item() for w, g in zip(own, found, strict=True))


def grasp(model: nn.Module, batch: Batch, loss: Loss) -> float:
    """Σ −w · (Hg), H the Hessian of the loss: how much the flow of gradients would shrink without the weights.

    Reference: Wang, Zhang, Grosse, "Picking Winning Tickets Before Training by Preserving Gradient Flow", ICLR 2020.
    Differs: no temperature, as in the reference of this module.
    """
    own = weights(model)
    first = gradients(loss(run(model, batch[0]), batch[1]), own, create_graph=True)
    product = sum((g * g.detach()).sum() for g in first)
    assert isinstance(product, Tensor)
    return sum(-(w * hg).sum().item() for w, hg in zip(own, gradients(product, own), strict=True))


def fisher(model: nn.Module, batch: Batch, loss: Loss) -> float:
    """Sum over output channels of ½ · mean over samples of (Σ over positions of a · ∂L/∂a)², a the output of a layer.

    Reference: Turner et al., "BlockSwap: Fisher-guided Block Substitution for Network Compression on a Budget", ICLR 2020.
    """
    return sum(per_channel.sum().item() for _, per_channel in _fisher(model, batch, loss))


def fisher_fan_in(model: nn.Module, batch: Batch, loss: Loss) -> float:
    """`fisher` with each channel counted once for every weight that makes it, as in the reference's release."""
    return sum(
        per_channel.sum().item() * cast(Tensor, layer.weight)[0].numel()
        for layer, per_channel in _fisher(model, batch, loss)
    )


def _fisher(model: nn.Module, batch: Batch, loss: Loss) -> list[tuple[nn.Module, Tensor]]:
    """Each call of a convolution or linear layer with its score per output channel."""
    calls: list[tuple[nn.Module, Tensor]] = []

    def keep(layer: nn.Module, args: Any, out: Tensor) -> None:
        calls.append((layer, out))

    handles = [layer.register_forward_hook(keep) for layer in model.modules() if isinstance(layer, LAYERS)]
    value = loss(run(model, batch[0]), batch[1])
    for handle in handles:
        handle.remove()
    if not calls:
        raise ValueError(
            f"`fisher` looks at outputs of convolutions and linear layers, got none in {type(model).__name__}; use another score"
        )
    found = gradients(value, [out for _, out in calls])
    return [(layer, _per_channel(layer, out * g)) for (layer, out), g in zip(calls, found, strict=True)]


def _per_channel(layer: nn.Module, product: Tensor) -> Tensor:
    if not isinstance(layer, nn.Linear):
        product = product.movedim(1, -1)
    return product.flatten(1, -2).sum(1).square().mean(0) / 2 if product.dim() > 2 else product.square().mean(0) / 2


def l2_norm(model: nn.Module, batch: Batch, loss: Loss) -> float:
    """Sum over layers of ‖w‖₂; looks at neither the batch nor the loss."""
    return sum(w.norm().item() for w in weights(model))
