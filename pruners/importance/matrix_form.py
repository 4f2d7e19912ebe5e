"""Convolution and linear layers as one matrix product: weights (O, Q) times columns (Q, P) of inputs.

Shapes: N samples, C input channels, K kernel positions, Q = C K, O outputs, P positions (all samples together).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import Node

from pruners.operators import arguments

aten = torch.ops.aten
ENOUGH = 100_000  # positions per layer that a solution is based on
CHUNK = 64  # samples unfolded at a time


def is_product(node: Node) -> bool:
    """Whether an operator is a linear layer, or a convolution in one or two dimensions without groups."""
    if node.target in (aten.conv2d.default, aten.conv1d.default):
        return bool(arguments(node)["groups"] == 1)
    return node.target is aten.linear.default


def columns(node: Node, x: Tensor, kernel: torch.Size) -> Tensor:
    """What the weights of a layer multiply: shape (Q, P).

    Args:
        node: an operator for which `is_product` holds.
        x: its input.
        kernel: spatial size of its weight, empty for a linear layer.
    """
    if node.target is aten.linear.default:
        return x.reshape(-1, x.shape[-1]).t()
    a = arguments(node)
    padding, dilation, stride = a["padding"], a["dilation"], a["stride"]
    if node.target is aten.conv1d.default:
        x, kernel = x.unsqueeze(2), torch.Size((1, *kernel))
        padding, dilation, stride = (0, *padding), (1, *dilation), (1, *stride)
    return F.unfold(x, kernel, dilation, padding, stride).transpose(0, 1).flatten(1)


def rows(node: Node, y: Tensor) -> Tensor:
    """A layer's output, or anything of that shape, as (O, P) in the order of `columns`."""
    if node.target is aten.linear.default:
        return y.reshape(-1, y.shape[-1]).t()
    return y.flatten(2).transpose(0, 1).flatten(1)


def sampled(
    node: Node, x: Tensor, kernel: torch.Size, outputs: list[Tensor], enough: int = ENOUGH
) -> Iterator[tuple[Tensor, ...]]:
    """Columns of the input and rows of each output, some samples at a time, at about `enough` positions in all."""
    if not len(x):  # an expert that no token was routed to
        return
    per_sample = max(1, outputs[0].numel() // len(outputs[0]) // outputs[0].shape[_channel(node)])
    thin = max(1, len(x) * per_sample // (4 * enough))  # whole samples are left out first: unfolding takes long
    values = [value[::thin] for value in (x, *outputs)]
    step = max(1, len(values[0]) * per_sample // enough)
    while step > 1 and per_sample % step == 0:  # would see the same places of every sample
        step += 1
    for parts in zip(*(value.split(CHUNK) for value in values), strict=True):
        matrices = columns(node, parts[0], kernel), *(rows(node, part) for part in parts[1:])
        yield tuple(matrix[:, ::step].contiguous() for matrix in matrices)


def _channel(node: Node) -> int:
    return -1 if node.target is aten.linear.default else 1


def bounds(node: Node | None) -> tuple[float, float] | None:
    """The range that a clipping activation (ReLU, ReLU6, hard tanh) lets through, or None for other operators."""
    if node is None or node.op != "call_function":
        return None
    if node.target is aten.relu.default:
        return 0.0, float("inf")
    if node.target is aten.hardtanh.default:
        a: dict[str, Any] = arguments(node)
        return float(a["min_val"]), float(a["max_val"])
    return None
