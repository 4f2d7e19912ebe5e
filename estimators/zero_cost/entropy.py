"""The most information that a convolutional network of given widths, depths and kernels can hold.

`layer_entropy`, `stage_entropies`, `deepmad_score`, `mae_score` and `effectiveness` are functions of numbers. `max_entropy` and
`deepmad` read these numbers off a model. Entropies are in nats and depend on the resolution: compare them within one problem only.

Reference: Shen et al., "DeepMAD: Mathematical Architecture Design for Deep Convolutional Neural Network", CVPR 2023, arXiv:2303.02165;
Sun et al., "MAE-DET: Revisiting Maximum Entropy Principle in Zero-Shot NAS for Efficient Object Detection", ICML 2022,
arXiv:2111.13336.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn

from estimators.zero_cost.working import Batch, Loss, rows, run


@dataclass(frozen=True)
class Conv:
    """What the entropy of a convolution depends on: input channels, kernel area (9 for 3x3) and groups."""

    c_in: int
    area: int
    groups: int = 1

    @property
    def width(self) -> float:
        """Values that each output is made of: c_in · k² / groups."""
        return self.c_in * self.area / self.groups


@dataclass(frozen=True)
class Stage:
    """Convolutions that run at one resolution: `side` pixels a side when they are done, with `channels` at the end."""

    channels: int
    side: float
    layers: tuple[Conv, ...]
    depth: int


def layer_entropy(c_in: int, area: int, groups: int = 1) -> float:
    """½ log(c_in · k² / groups) of a convolution; `area` is k²."""
    return math.log(c_in * area / groups) / 2


def stage_entropies(stages: Sequence[Stage]) -> list[float]:
    """Entropy of the layers up to the end of each stage."""
    return list(accumulate(sum(layer_entropy(c.c_in, c.area, c.groups) for c in stage.layers) for stage in stages))


def effectiveness(widths: Sequence[float]) -> float:
    """ρ = depth / geometric mean of the layers' widths (c_in · k² / groups): small means easy to train.

    Raises:
        ValueError: no widths, or one that is not positive.
    """
    if not widths or min(widths) <= 0:
        raise ValueError(f"`widths` must be positive numbers, one for each layer, got {list(widths)}")
    return len(widths) / math.exp(sum(map(math.log, widths)) / len(widths))


def most_effectiveness(stages: Sequence[Stage]) -> float:
    """The largest ρ of the networks that end after each stage, which DeepMAD limits: 0.3 at the size of ResNet-18."""
    layers = [list(part) for part in accumulate((list(stage.layers) for stage in stages), lambda a, b: a + b)]
    return max(effectiveness([layer.width for layer in part]) for part in layers)


def deepmad_score(stages: Sequence[Stage], weights: Sequence[float] | None = None) -> float:
    """Σ over stages of weight · log(channels · side²) · entropy so far, minus 10 exp(standard deviation of the depths).

    Args:
        stages: in order; the first does not count in the standard deviation.
        weights: of the stages; 1 for all but the last, which has 8.
    """
    used = [*[1.0] * (len(stages) - 1), 8.0] if weights is None else weights
    score = sum(
        weight * math.log(stage.channels * stage.side**2) * entropy
        for weight, stage, entropy in zip(used, stages, stage_entropies(stages), strict=True)
    )
    depths = [stage.depth for stage in stages[1:]] or [stages[0].depth]
    mean = sum(depths) / len(depths)
    return score - 10 * math.exp(math.sqrt(sum((depth - mean) ** 2 for depth in depths) / len(depths)))


def mae_score(stages: Sequence[Stage], weights: Sequence[float] | None = None) -> float:
    """Σ over stages of weight · (entropy so far + log channels).

    Args:
        stages: in order.
        weights: of the stages; 1, 1 and 6 for the last three and 0 for others, as for a detector's backbone.
    """
    used = ([0.0] * len(stages) + [1.0, 1.0, 6.0])[-len(stages) :] if weights is None else weights
    entropies = stage_entropies(stages)
    return sum(w * (e + math.log(s.channels)) for w, s, e in zip(used, stages, entropies, strict=True))


# --- of a model ---


def max_entropy(model: nn.Module, batch: Batch, loss: Loss, *, max_effectiveness: float = math.inf) -> float:
    """`mae_score` of a model's convolutions; minus infinity where ρ is above DeepMAD's limit.

    Convolutions that put out one resolution are a stage, wherever they are. Those on parallel branches count as if they ran one after
    another. Those that put out a single pixel before a module puts out more again are left out: they weight channels, as in
    squeeze-and-excitation.

    Raises:
        ValueError: the model has no such convolution.
    """
    stages = stages_of(model, batch)
    return mae_score(stages) if most_effectiveness(stages) <= max_effectiveness else -math.inf


def deepmad(model: nn.Module, batch: Batch, loss: Loss, *, max_effectiveness: float = math.inf) -> float:
    """`deepmad_score` of a model's convolutions, read off as by `max_entropy`."""
    stages = stages_of(model, batch)
    return deepmad_score(stages) if most_effectiveness(stages) <= max_effectiveness else -math.inf


@torch.no_grad()
def stages_of(model: nn.Module, batch: Batch) -> list[Stage]:
    """The stages of a model as it runs, in the order in which their resolutions first appear; see `max_entropy`."""
    calls: list[tuple[float, Conv, int]] = []
    gates = dims = 0  # calls before the latest output of several pixels, and the dimensions of such an output

    def keep(part: nn.Module, args: object, out: object) -> None:
        nonlocal gates, dims
        if not isinstance(out, Tensor):
            return
        side = math.prod(out.shape[2:]) ** 0.5
        if isinstance(part, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            calls.append((side, Conv(part.in_channels, math.prod(part.kernel_size), part.groups), part.out_channels))
            dims = out.dim()
        if side > 1 and out.dim() == dims:
            gates = len(calls)

    handles = [part.register_forward_hook(keep) for part in model.modules()]
    run(model, rows(batch, slice(1))[0])
    for handle in handles:
        handle.remove()
    stages: dict[float, list[tuple[Conv, int]]] = {}
    for at, (side, conv, channels) in enumerate(calls):
        if side > 1 or at >= gates:
            stages.setdefault(side, []).append((conv, channels))
    if not stages:
        raise ValueError(
            f"the entropy of a model is that of its convolutions, got none in {type(model).__name__}; use another score"
        )
    return [Stage(own[-1][1], side, tuple(conv for conv, _ in own), len(own)) for side, own in stages.items()]
