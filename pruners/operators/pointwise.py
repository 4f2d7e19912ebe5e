"""Operators that work entry by entry, copy, or fill."""

from __future__ import annotations

from torch.fx import Node

from pruners.operators.axes import Axis, freeze, tie
from pruners.operators.nodes import number
from pruners.operators.rule import Arguments, Dims, Rule, Walk, broadcast, frozen


def elementwise(walk: Walk, node: Node, a: Arguments) -> Dims:
    """Any operator that computes each output entry from the entries at the same place."""
    tensors = [value for value in a.values() if isinstance(value, Node)]
    tensors += [
        item for value in a.values() if isinstance(value, (list, tuple)) for item in value if isinstance(item, Node)
    ]
    return broadcast(*(walk.dims(tensor) for tensor in tensors))


def prelu(walk: Walk, node: Node, a: Arguments) -> Dims:
    """One slope for all, or one per channel, which is dimension 1."""
    x, slopes = walk.dims(a["self"]), walk.dims(a["weight"])
    if slopes and slopes[0].size > 1:
        tie(x[1], slopes[0])
    return x


def like(walk: Walk, node: Node, a: Arguments) -> Dims:
    """The first tensor's axes, unchanged: copies, casts, `zeros_like`."""
    return walk.dims(next(value for value in a.values() if isinstance(value, Node)))


def filled(walk: Walk, node: Node, a: Arguments) -> Dims:
    """A new constant tensor: every entry is alike, so that any of them may go; a free dimension stays."""
    return [Axis(number(size), None if isinstance(size, int) else "free dimension") for size in a["size"]]


def by_position(walk: Walk, node: Node, a: Arguments) -> Dims:
    """Entries computed from their own position (arange), or counted over all: everything stays."""
    for source in node.all_input_nodes:
        for axis in walk.dims(source):
            freeze(axis, f"{node.target} addresses it")
    return frozen(walk.shape(node), f"{node.target} counts along it")


COPIES: dict[str, Rule] = {
    **dict.fromkeys(
        ("clone", "alias", "detach", "contiguous", "dropout", "feature_dropout", "alpha_dropout", "to", "_to_copy",
         "real", "imag", "conj", "resolve_conj", "zeros_like", "ones_like", "full_like", "empty_like", "lift_fresh_copy",
         "rand_like", "randn_like", "bernoulli",
         "fill", "zero", "type_as"), like),
    **dict.fromkeys(("arange", "linspace", "eye", "scalar_tensor", "histc", "one_hot", "bincount", "tril", "triu"),
                    by_position),
    **dict.fromkeys(("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty"), filled),
}  # fmt: skip

POINTWISE: dict[str, Rule] = {"prelu": prelu, **dict.fromkeys(
    ("copy", "masked_fill", "addcmul", "addcdiv", "gelu", "silu", "mish", "hardswish", "hardsigmoid", "hardtanh", "relu6",
     "leaky_relu", "elu", "selu", "celu", "softplus", "softsign", "clamp", "lerp", "__and__", "__or__",
     "floor_divide", "log_sigmoid", "polar", "complex", "expand_as",
     "greater", "greater_equal", "less", "less_equal", "not_equal"),
    elementwise,
)}  # fmt: skip
