"""How much a random network's features move when its input does."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from estimators.zero_cost.working import Batch, BatchNorm, Loss, image_like, put, rows, run, size


@torch.no_grad()
def zen(model: nn.Module, batch: Batch, loss: Loss, *, repeats: int = 1, samples: int = 16) -> float:
    """log of the mean change of the last feature map under noise, plus what batch norms took out of it.

    Weights of convolutions and linear layers are drawn from N(0, 1); other parameters stay. With x and e from N(0, 1), the change of
    a sample is Σ |f(x) − f(x + 0.01 e)|; each batch norm adds log √(mean over channels of its variance). The batch only tells the
    shape of an input. A draw that overflows in float32, as plain networks of some 30 layers do, is computed in float64; NaN where it
    overflows there too.

    Args:
        model: a working copy.
        batch: of any images of the right shape.
        loss: not looked at.
        repeats: draws of weights and inputs to average over; the reference takes 32, and 1 inside a search.
        samples: in each draw.

    Reference: Lin et al., "Zen-NAS: A Zero-Shot NAS for High-Performance Image Recognition", ICCV 2021, arXiv:2102.01063.
    Differs: shortcuts stay, because a model in general does not run without them. The last feature map is the last output of a
    module that still has height and width, else the model's output. A norm's variance is that of the batch itself.
    """
    image = image_like(batch[0], "zen")
    inputs = rows(batch, slice(samples))[0]
    shape = (min(samples, size(batch)), *image.shape[1:])
    found = []
    for _ in range(repeats):
        for part in model.modules():
            if isinstance(part, (nn.modules.conv._ConvNd, nn.Linear)):
                nn.init.normal_(part.weight)
        x, e = (torch.randn(shape, device=image.device) for _ in range(2))
        moved = x + 0.01 * e
        value = expressivity(model, put(inputs, x), put(inputs, moved))
        if not value < math.inf:
            value = expressivity(model.double(), put(inputs, x.double()), put(inputs, moved.double()))
            model.float()
        found.append(value if value < math.inf else math.nan)
    return sum(found) / repeats


def expressivity(model: nn.Module, x: Any, moved: Any) -> float:
    """The score for given weights and inputs; infinite or NaN where features overflow."""
    norms: list[float] = []
    maps: list[Tensor] = []

    def spread(part: nn.Module, args: tuple[Tensor, ...]) -> None:
        others = [dim for dim in range(args[0].dim()) if dim != 1]
        norms.append(args[0].var(others, unbiased=False).mean().sqrt().log().item())

    def keep(part: nn.Module, args: object, out: object) -> None:
        if isinstance(out, Tensor) and out.dim() == 4 and math.prod(out.shape[2:]) > 1:
            maps[:] = [out]

    def features(inputs: Any) -> Tensor:
        maps.clear()
        out = run(model, inputs)
        return (maps or [out])[0]

    keepers = [part.register_forward_hook(keep) for part in model.modules()]
    after = features(moved)
    spreads = [p.register_forward_pre_hook(spread) for p in model.modules() if isinstance(p, BatchNorm)]
    before = features(x)
    for handle in keepers + spreads:
        handle.remove()
    change = (before - after).abs().flatten(1).sum(1).mean().item()
    return (-math.inf if change == 0 else math.log(change)) + sum(norms)
