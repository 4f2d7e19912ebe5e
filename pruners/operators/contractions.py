"""Operators that contract: convolution, linear, matrix products, attention, recurrent layers."""

from __future__ import annotations

from torch.fx import Node

from pruners.operators.axes import Axis, concat, factor, freeze, product, tie
from pruners.operators.nodes import number
from pruners.operators.rule import Arguments, Dims, Rule, Walk, broadcast, frozen, tie_vectors


def convolution(walk: Walk, node: Node, a: Arguments) -> Dims:
    """x (N, C, ...) with weight (O, C/groups, ...): C and O are groups x rest; the kernel and space stay."""
    x, weight = walk.dims(a["input"]), walk.dims(a["weight"])
    space = len(weight) - 2
    channel = len(x) - space - 1
    channels, groups = x[channel], number(a["groups"])
    transposed = "transpose" in str(node.target)
    if groups == 1:
        tie(channels, weight[0 if transposed else 1])
        out = weight[1 if transposed else 0]
    else:
        group, inner = factor(channels, (groups, channels.size // groups))
        if transposed:  # weight (C, O/groups, ...)
            tie(channels, weight[0])
            out = product((group, weight[1]))
        else:
            tie(inner, weight[1])
            same_group, _ = factor(weight[0], (groups, weight[0].size // groups))
            tie(group, same_group)
            out = weight[0]
    tie_vectors(walk, out, a["bias"])
    for axis in (*weight[2:], *x[channel + 1 :]):
        freeze(axis, "space of a convolution")
    shape = walk.shape(node)
    return [*x[:channel], out, *frozen(shape[channel + 1 :], "space of a convolution")]


def linear(walk: Walk, node: Node, a: Arguments) -> Dims:
    """x (..., I) with weight (O, I)."""
    x, weight = walk.dims(a["input"]), walk.dims(a["weight"])
    tie(x[-1], weight[-1])
    tie_vectors(walk, weight[0], a["bias"])
    return [*x[:-1], *weight[:-1]]


def bilinear(walk: Walk, node: Node, a: Arguments) -> Dims:
    """x (..., I) and y (..., J) with weight (O, I, J)."""
    x, y, weight = (walk.dims(a[name]) for name in ("input1", "input2", "weight"))
    tie(x[-1], weight[1])
    tie(y[-1], weight[2])
    tie_vectors(walk, weight[0], a["bias"])
    return [*broadcast(x[:-1], y[:-1]), weight[0]]


def matmul(walk: Walk, node: Node, a: Arguments) -> Dims:
    """(..., M, K) with (..., K, N); vectors as torch.matmul takes them; an added term broadcasts onto the result."""
    values = [value for value in a.values() if isinstance(value, Node)]
    left, right = (walk.dims(value) for value in values[-2:])
    tie(left[-1], right[-2] if len(right) > 1 else right[0])
    out = broadcast(left[:-2], right[:-2]) + left[-2:-1] + (right[-1:] if len(right) > 1 else [])
    return broadcast(out, walk.dims(values[0])) if len(values) == 3 else out


def einsum(walk: Walk, node: Node, a: Arguments) -> Dims:
    """One axis per letter; an ellipsis stands for axes that broadcast."""
    equation = a["equation"].replace(" ", "")
    inputs, _, output = equation.partition("->")
    letters: dict[str, Axis] = {}
    rest: Dims = []
    for term, operand in zip(inputs.split(","), a["tensors"], strict=True):
        dims = walk.dims(operand)
        before, dots, after = term.partition("...")
        if dots:
            rest = broadcast(rest, dims[len(before) : len(dims) - len(after)])
        named = list(zip(before, dims, strict=False)) + list(zip(after[::-1], dims[::-1], strict=False))
        for letter, axis in named:
            if axis.size != 1 and letters.setdefault(letter, axis).size == 1:
                letters[letter] = axis
            if letters.setdefault(letter, axis).size == axis.size:
                tie(letters[letter], axis)
    if "->" not in equation:
        flat = inputs.replace(",", "").replace("...", "")
        output = ("..." if "..." in inputs else "") + "".join(sorted(c for c in set(flat) if flat.count(c) == 1))
    before, dots, after = output.partition("...")
    return [letters[c] for c in before] + (rest if dots else []) + [letters[c] for c in after]


def attention(walk: Walk, node: Node, a: Arguments) -> Dims:
    """query (..., H, L, E), key (..., K, S, E), value (..., K, S, V): heads H are K x repeats; S is normalised over."""
    query, key, value = (walk.dims(a[name]) for name in ("query", "key", "value"))
    tie(query[-1], key[-1])
    tie(key[-2], value[-2])
    freeze(key[-2], "softmax over it")
    if len(query) > 2 and query[-3].size != key[-3].size and key[-3].size > 1:
        shared, _ = factor(query[-3], (key[-3].size, query[-3].size // key[-3].size))
        tie(shared, key[-3])
        tie(key[-3], value[-3])
        batch = [*broadcast(query[:-3], key[:-3], value[:-3]), query[-3]]
    else:
        batch = broadcast(query[:-2], key[:-2], value[:-2])
    if isinstance(a["attn_mask"], Node):
        broadcast([*batch, query[-2], key[-2]], walk.dims(a["attn_mask"]))
    return [*batch, query[-2], value[-1]]


def grouped_matmul(walk: Walk, node: Node, a: Arguments) -> Dims:
    """Rows (T, K) sorted by expert, with weights (experts, K, M)."""
    rows, weight, *_ = (walk.dims(value) for value in a.values() if isinstance(value, Node))
    tie(rows[-1], weight[-2])
    freeze(rows[0], "rows sorted by expert")
    freeze(weight[0], "experts chosen by data")
    return [rows[0], weight[-1]]


def recurrent(walk: Walk, node: Node, a: Arguments) -> list[Dims]:
    """LSTM (4 gates), GRU (3), plain RNN (1): x (..., I), weights (gates x H, I), (gates x H, H), biases (gates x H).

    A projected LSTM puts out P of its H units: weights (4 x H, P) and, as the last of a layer, (P, H). Its H stay, since torch tells
    a projection by P and H being different.
    """
    name = str(node.target)
    gates = 4 if "lstm" in name else 3 if "gru" in name else 1
    x = walk.dims(a["input"])
    states = [walk.dims(state) for state in (a["hx"] if isinstance(a["hx"], (list, tuple)) else [a["hx"]])]
    weights = [walk.dims(weight) for weight in a["params"]]
    directions = 2 if a["bidirectional"] else 1
    inputs, hidden, units = x[-1], states[0][-1], states[-1][-1]
    projected = hidden.size != units.size
    if projected:
        freeze(units, "units of a projected LSTM")
    per_layer = (4 if a["has_biases"] else 2) + projected
    for start in range(0, len(weights), per_layer * directions):
        for offset in range(start, start + per_layer * directions, per_layer):
            tie(weights[offset][1], inputs)
            for dims in weights[offset : offset + per_layer - projected]:
                gate, rows = factor(dims[0], (gates, dims[0].size // gates))
                freeze(gate, "gates of a recurrent layer")
                tie(rows, units)
            tie(weights[offset + 1][1], hidden)
            if projected:
                broadcast([hidden, units], weights[offset + per_layer - 1])
        inputs = concat([hidden] * directions)
    for state in states:
        freeze(state[0], "layers of a recurrent network")
    if not projected:
        tie(units, hidden)
    return [[*x[:-1], inputs], *states]


CONTRACTIONS: dict[str, Rule] = {
    "conv1d": convolution, "conv2d": convolution, "conv3d": convolution, "convolution": convolution,
    "conv_transpose1d": convolution, "conv_transpose2d": convolution, "conv_transpose3d": convolution,
    "linear": linear, "bilinear": bilinear,
    "matmul": matmul, "mm": matmul, "bmm": matmul, "addmm": matmul, "baddbmm": matmul, "mv": matmul, "addmv": matmul,
    "dot": matmul, "vdot": matmul,
    "einsum": einsum, "scaled_dot_product_attention": attention,
    "grouped_mm_fallback": grouped_matmul, "_grouped_mm": grouped_matmul,
    "lstm": recurrent, "gru": recurrent, "rnn_tanh": recurrent, "rnn_relu": recurrent,
}  # fmt: skip
