"""Layers as products of matrices, one per group of channels: weights (G, O, Q) times columns (G, Q, P) of inputs.

Shapes: G groups, O outputs of a group, Q columns of a group (its channels times kernel positions), P positions (of all samples
together). A norm's scale and shift are a layer, too, with as many groups as channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import Node

from pruners.operators import arguments

aten = torch.ops.aten
Arguments = dict[str, Any]


class Form(NamedTuple):
    """How an operator is written as products of matrices.

    Attributes:
        inputs: names of the arguments that are the input, the weights and the bias.
        groups: how many groups there are, of weights and arguments.
        matrix: weights as (G, O, Q), of weights and arguments.
        weights: the same back, of a matrix, the weights' shape and arguments.
        columns: what the matrices multiply, (G, Q, P), of an input, the weights' shape and arguments.
        channel: which dimension of the output holds the channels, of how many it has.
    """

    inputs: tuple[str, str, str]
    groups: Callable[[Tensor, Arguments], int]
    matrix: Callable[[Tensor, Arguments], Tensor]
    weights: Callable[[Tensor, torch.Size, Arguments], Tensor]
    columns: Callable[[Tensor, torch.Size, Arguments], Tensor]
    channel: Callable[[torch.Size], int]


@dataclass(frozen=True)
class Reader:
    """A layer that multiplies its input by weights of its own.

    Attributes:
        node: its operator.
        input: what it reads.
        weight: node of its weights.
        bias: node of what it adds, if anything.
        form: how it is written as products of matrices.
    """

    node: Node
    input: Node
    weight: Node
    bias: Node | None
    form: Form

    @property
    def name(self) -> str:
        """Of the module that holds the weights, or of the weights where they are no module's `weight`."""
        return str(self.weight.target).removesuffix(".weight")

    @property
    def is_affine(self) -> bool:
        """Whether it multiplies each channel by one number."""
        return self.form.groups is _channels

    def matrix(self, weight: Tensor) -> Tensor:
        """Weights as (G, O, Q)."""
        return self.form.matrix(weight, arguments(self.node))

    def weights(self, matrix: Tensor, shape: torch.Size) -> Tensor:
        """Weights of a shape from their matrices."""
        return self.form.weights(matrix, shape, arguments(self.node))

    def columns(self, x: Tensor, weight: Tensor) -> Tensor:
        """What the matrices multiply, (G, Q, P)."""
        return self.form.columns(x, weight.shape, arguments(self.node))

    def rows(self, y: Tensor, weight: Tensor) -> Tensor:
        """The output, or anything of that shape, as (G, O, P) in the order of `columns`."""
        y = y.movedim(self.form.channel(y.shape), 0)
        groups = self.form.groups(weight, arguments(self.node))
        return y.reshape(groups, len(y) // groups, -1)


def reader(node: Node) -> Reader | None:
    """A node as a layer, or None if it is none that can be solved by itself."""
    form = FORMS.get(node.target) if node.op == "call_function" else None
    if form is None:
        return None
    a = arguments(node)
    x, weight, bias = (a.get(name) for name in form.inputs)
    if form is ELEMENTWISE and not is_tensor(weight):
        x, weight = weight, x  # either may come first
    if not (isinstance(x, Node) and isinstance(weight, Node)) or is_tensor(x) or not is_tensor(weight):
        return None
    if bias is not None and not is_tensor(bias):
        return None
    return Reader(node, x, weight, bias, form)


def is_tensor(value: Any) -> bool:
    """Whether a node is a tensor of the model."""
    return isinstance(value, Node) and value.op == "get_attr"


def _one(weight: Tensor, a: Arguments) -> int:
    return 1


def _channels(weight: Tensor, a: Arguments) -> int:
    return len(weight)


def _groups(weight: Tensor, a: Arguments) -> int:
    return int(a["groups"])


def _last(shape: torch.Size) -> int:
    return -1


def _second(shape: torch.Size) -> int:
    return 1


# --- linear layers -----------------------------------------------------------------------------------------------------


def _linear_columns(x: Tensor, shape: torch.Size, a: Arguments) -> Tensor:
    return x.reshape(-1, x.shape[-1]).t()[None]


LINEAR = Form(
    ("input", "weight", "bias"),
    _one,
    lambda weight, a: weight[None],
    lambda matrix, shape, a: matrix[0],
    _linear_columns,
    _last,
)
TURNED = Form(
    ("self", "mat2", ""),
    _one,
    lambda weight, a: weight.t()[None],
    lambda matrix, shape, a: matrix[0].t(),
    _linear_columns,
    _last,
)


# --- convolutions ------------------------------------------------------------------------------------------------------


def _convolution_matrix(weight: Tensor, a: Arguments) -> Tensor:
    groups = int(a["groups"])
    return weight.reshape(groups, len(weight) // groups, -1)


def _convolution_columns(x: Tensor, shape: torch.Size, a: Arguments) -> Tensor:
    kernel = shape[2:]
    stride, dilation = (_each(a[name], len(kernel)) for name in ("stride", "dilation"))
    if isinstance(a["padding"], str):
        whole = [d * (k - 1) * (a["padding"] == "same") for k, d in zip(kernel, dilation, strict=True)]
        padding = [(n // 2, n - n // 2) for n in whole]
    else:
        padding = [(n, n) for n in _each(a["padding"], len(kernel))]
    return _unfolded(x, kernel, stride, padding, dilation, int(a["groups"]))


def _unfolded(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """What every kernel position sees: (G, C / G times kernel positions, P)."""
    if x.dim() == len(kernel) + 1:
        x = x[None]
    x = F.pad(x, [n for pair in reversed(padding) for n in pair])
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    lengths = [(size - span) // s + 1 for size, span, s in zip(x.shape[2:], spans, stride, strict=True)]

    def seen(offset: Sequence[int]) -> Tensor:
        places = zip(offset, dilation, lengths, stride, strict=True)
        steps = [slice(o * d, o * d + s * (length - 1) + 1, s) for o, d, length, s in places]
        return x[(slice(None), slice(None), *steps)]

    columns = torch.stack([seen(offset) for offset in product(*map(range, kernel))], 2).flatten(3)
    samples, channels, positions, _ = columns.shape
    return (
        columns.view(samples, groups, channels // groups * positions, -1)
        .permute(1, 2, 0, 3)
        .reshape(groups, channels // groups * positions, -1)
    )


def _transposed_matrix(weight: Tensor, a: Arguments) -> Tensor:
    groups = int(a["groups"])
    flipped = weight.flip(tuple(range(2, weight.dim()))).flatten(2)
    return flipped.view(groups, len(weight) // groups, *flipped.shape[1:]).transpose(1, 2).flatten(2)


def _transposed_weights(matrix: Tensor, shape: torch.Size, a: Arguments) -> Tensor:
    groups = int(a["groups"])
    by_channel = matrix.view(groups, shape[1], shape[0] // groups, -1).transpose(1, 2)
    return by_channel.reshape(shape).flip(tuple(range(2, len(shape))))


def _transposed_columns(x: Tensor, shape: torch.Size, a: Arguments) -> Tensor:
    """Those of the convolution, with stride 1, of the input with zeros between its values."""
    kernel = shape[2:]
    space = len(kernel)
    stride, padding, further, dilation = (
        _each(a[name], space) for name in ("stride", "padding", "output_padding", "dilation")
    )
    if x.dim() == space + 1:
        x = x[None]
    apart = x.new_zeros(*x.shape[:2], *((n - 1) * s + 1 for n, s in zip(x.shape[2:], stride, strict=True)))
    apart[(slice(None), slice(None), *(slice(None, None, s) for s in stride))] = x
    sides = [
        (d * (k - 1) - p, d * (k - 1) - p + more)
        for k, p, more, d in zip(kernel, padding, further, dilation, strict=True)
    ]
    return _unfolded(apart, kernel, [1] * space, sides, dilation, int(a["groups"]))


def _each(value: Any, space: int) -> list[int]:
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return [int(n) for n in (values * space if len(values) == 1 else values)]


CONVOLUTION = Form(
    ("input", "weight", "bias"),
    _groups,
    _convolution_matrix,
    lambda matrix, shape, a: matrix.reshape(shape),
    _convolution_columns,
    lambda shape: 1,
)
TRANSPOSED = Form(
    ("input", "weight", "bias"), _groups, _transposed_matrix, _transposed_weights, _transposed_columns, _second
)


# --- scales and shifts -------------------------------------------------------------------------------------------------


def _layer_normed(x: Tensor, shape: torch.Size, a: Arguments) -> Tensor:
    return _by_channel(F.layer_norm(x, shape, None, None, a["eps"]), -1)


def _root_normed(x: Tensor, shape: torch.Size, a: Arguments) -> Tensor:
    return _by_channel(F.rms_norm(x, shape, None, a["eps"]), -1)


def _group_normed(x: Tensor, shape: torch.Size, a: Arguments) -> Tensor:
    return _by_channel(F.group_norm(x, int(a["num_groups"]), None, None, a["eps"]), 1)


def _by_channel(x: Tensor, channel: int) -> Tensor:
    x = x.movedim(channel, 0)
    return x.reshape(len(x), 1, -1)


def _affine(inputs: tuple[str, str, str], columns: Any, channel: Callable[[torch.Size], int]) -> Form:
    return Form(
        inputs,
        _channels,
        lambda weight, a: weight.reshape(-1, 1, 1),
        lambda matrix, shape, a: matrix.reshape(shape),
        columns,
        channel,
    )


LAYER_NORM = _affine(("input", "weight", "bias"), _layer_normed, _last)
ROOT_NORM = _affine(("input", "weight", ""), _root_normed, _last)
GROUP_NORM = _affine(("input", "weight", "bias"), _group_normed, _second)
ELEMENTWISE = _affine(("self", "other", ""), lambda x, shape, a: _by_channel(x, -1), _last)

FORMS: dict[Any, Form] = {
    aten.linear.default: LINEAR,
    aten.mm.default: TURNED,
    aten.matmul.default: TURNED._replace(inputs=("self", "other", "")),
    aten.addmm.default: TURNED._replace(inputs=("mat1", "mat2", "self")),
    aten.conv1d.default: CONVOLUTION,
    aten.conv2d.default: CONVOLUTION,
    aten.conv3d.default: CONVOLUTION,
    aten.conv1d.padding: CONVOLUTION,
    aten.conv2d.padding: CONVOLUTION,
    aten.conv3d.padding: CONVOLUTION,
    aten.conv_transpose1d.default: TRANSPOSED,
    aten.conv_transpose2d.input: TRANSPOSED,
    aten.conv_transpose3d.input: TRANSPOSED,
    aten.layer_norm.default: LAYER_NORM,
    aten.rms_norm.default: ROOT_NORM,
    aten.group_norm.default: GROUP_NORM,
    aten.mul.Tensor: ELEMENTWISE,
}
