"""Batch norms and scales behind a layer, as what they multiply by and add."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import Node

from pruners.operators import arguments
from pruners.repair.lanes import InStep
from pruners.repair.readers import is_tensor

aten = torch.ops.aten


def affine(graph: InStep, norm: Node | None, like: Tensor) -> tuple[Tensor, Tensor]:
    """What a batch norm, or a scale, multiplies by and adds, shapes (C,), in the type of a tensor of that shape."""
    one, zero = torch.ones_like(like), torch.zeros_like(like)
    if norm is None:
        return one, zero
    a = arguments(norm)
    if norm.target is not aten.batch_norm.default:
        scale = next(graph.fetch_attr(str(x.target)) for x in (a["self"], a["other"]) if is_tensor(x))
        return scale.flatten().to(like.dtype) * one, zero
    mean, variance = (graph.fetch_attr(str(a[name].target)).to(like.dtype) for name in ("running_mean", "running_var"))
    slope = (variance + a["eps"]).rsqrt()
    if isinstance(a["weight"], Node):
        slope = slope * graph.fetch_attr(str(a["weight"].target)).to(like.dtype)
    shift = -mean * slope
    if isinstance(a["bias"], Node):
        shift = shift + graph.fetch_attr(str(a["bias"].target)).to(like.dtype)
    return slope, shift


def scales_channels(graph: InStep, norm: Node | None, shape: torch.Size, channel: int) -> bool:
    """Whether what follows a layer multiplies every channel of its output, of some shape, by one number."""
    if norm is None or norm.target is aten.batch_norm.default:
        return True
    (scale,) = [graph.fetch_attr(str(x.target)) for x in norm.all_input_nodes if is_tensor(x)]
    place = range(len(shape))[channel] - len(shape)
    return scale.dim() >= -place and scale.numel() == scale.shape[place] == shape[channel]


def keep_statistics_(graph: InStep, norm: Node) -> None:
    """Give a batch norm the statistics of its inputs, and scale and shift by which it computes the same as before.

    Then training, which normalises by the statistics of its batches, starts from what the repaired model computes.
    """
    a = arguments(norm)
    if not all(is_tensor(a[name]) for name in ("weight", "bias", "running_mean", "running_var")):
        return
    values = [x.transpose(0, 1).flatten(1).double() for x in graph.values(a["input"])]
    count = sum(x.shape[1] for x in values)
    if count < 2:
        return
    mean = sum(x.sum(1) for x in values) / count
    variance = sum((x - mean[:, None]).square().sum(1) for x in values) / (count - 1)
    slope, shift = affine(graph, norm, mean)
    used = variance > 0  # a constant channel has no spread to be scaled by
    for name, new in (
        ("weight", slope * (variance + a["eps"]).sqrt()),
        ("bias", shift + slope * mean),
        ("running_mean", mean),
        ("running_var", variance),
    ):
        tensor = graph.fetch_attr(str(a[name].target))
        tensor[used] = new[used].to(tensor.dtype)
