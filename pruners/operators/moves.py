"""Operators that move data: reshape, permute, concatenate, cut, pad, expand."""

from __future__ import annotations

import math

from torch.fx import Node

from pruners.operators.axes import Axis, concat, cut, factor, freeze, leaves, product, tie
from pruners.operators.nodes import number
from pruners.operators.rule import Arguments, Dims, Rule, Walk, broadcast


def view(walk: Walk, node: Node, a: Arguments) -> Dims:
    """Reshape: the shortest runs of dimensions with equal products are merged and taken apart again."""
    ours, theirs = list(walk.dims(next(v for v in a.values() if isinstance(v, Node)))), list(walk.shape(node))
    result: Dims = []
    while ours or theirs:
        taken = [ours.pop(0)] if ours else []
        sizes = [theirs.pop(0)] if theirs else []
        have, want = math.prod(axis.size for axis in taken), math.prod(sizes)
        while have != want:
            if have < want:
                taken.append(ours.pop(0))
                have *= taken[-1].size
            else:
                sizes.append(theirs.pop(0))
                want *= sizes[-1]
        result += factor(product(taken), sizes)
    return result


def permute(walk: Walk, node: Node, a: Arguments) -> Dims:
    x = walk.dims(a["self"])
    return [x[d] for d in a["dims"]]


def transpose(walk: Walk, node: Node, a: Arguments) -> Dims:
    """Two dimensions change places: `transpose`, `swapaxes` and `swapdims` name them, `t` takes both."""
    x = list(walk.dims(a["self"]))
    if len(x) > 1:
        i, j = next(((a[f"{name}0"], a[f"{name}1"]) for name in ("dim", "axis") if f"{name}0" in a), (0, 1))
        x[i], x[j] = x[j], x[i]
    return x


def unsqueeze(walk: Walk, node: Node, a: Arguments) -> Dims:
    x = list(walk.dims(a["self"]))
    x.insert(a["dim"] % (len(x) + 1), Axis(1))
    return x


def squeeze(walk: Walk, node: Node, a: Arguments) -> Dims:
    x = walk.dims(a["self"])
    given = a.get("dim")
    over = range(len(x)) if given is None else [given] if isinstance(given, int) else given
    gone = {d % len(x) for d in over if x[d].size == 1}
    return [axis for d, axis in enumerate(x) if d not in gone]


def expand(walk: Walk, node: Node, a: Arguments) -> Dims:
    """A dimension of size 1 becomes many copies, any of which may go; a free dimension stays."""
    x, shape = walk.dims(a["self"]), walk.shape(node)
    x = [Axis(1)] * (len(shape) - len(x)) + x
    sizes = a["size"]
    return [
        axis if axis.size == size else Axis(size, None if isinstance(given, int) else "free dimension")
        for axis, size, given in zip(x, shape, sizes, strict=True)
    ]


def repeat(walk: Walk, node: Node, a: Arguments) -> Dims:
    """Whole copies side by side: copies x indices."""
    x, repeats = walk.dims(a["self"]), [number(n) for n in a["repeats"]]
    x = [Axis(1)] * (len(repeats) - len(x)) + x
    return [product((Axis(n), axis)) for n, axis in zip(repeats, x, strict=True)]


def repeat_interleave(walk: Walk, node: Node, a: Arguments) -> Dims:
    """Each index several times: indices x copies."""
    x = list(walk.dims(a["self"]))
    x[a["dim"]] = product((x[a["dim"]], Axis(number(a["repeats"]))))
    return x


def cat(walk: Walk, node: Node, a: Arguments) -> Dims:
    operands = [dims for dims in map(walk.dims, a["tensors"]) if len(dims) == len(walk.shape(node))]
    d = (a["dim"] or 0) % len(operands[0])
    joined = concat(dims[d] for dims in operands)
    rest = broadcast(*([*dims[:d], Axis(1), *dims[d + 1 :]] for dims in operands))
    return [*rest[:d], joined, *rest[d + 1 :]]


def stack(walk: Walk, node: Node, a: Arguments) -> Dims:
    result = broadcast(*map(walk.dims, a["tensors"]))
    result.insert((a["dim"] or 0) % (len(result) + 1), Axis(len(a["tensors"]), "stacked tensors"))
    return result


def split(walk: Walk, node: Node, a: Arguments) -> list[Dims]:
    """Split, chunk: consecutive pieces."""
    x = walk.dims(a["self"])
    d = a["dim"] % len(x)
    pieces = cut(x[d], [shape[d] for shape in walk.shape(node)])
    return [[*x[:d], piece, *x[d + 1 :]] for piece in pieces]


def gated_half(walk: Walk, node: Node, a: Arguments) -> Dims:
    """GLU: the first half times the sigmoid of the second."""
    x = list(walk.dims(a["self"]))
    first, second = cut(x[a["dim"]], [x[a["dim"]].size // 2] * 2)
    tie(first, second)
    x[a["dim"]] = first
    return x


def unbind(walk: Walk, node: Node, a: Arguments) -> list[Dims]:
    x = walk.dims(a["self"])
    d = a["dim"] % len(x)
    freeze(x[d], "taken apart index by index")
    return [[*x[:d], *x[d + 1 :]] for _ in range(x[d].size)]


def select(walk: Walk, node: Node, a: Arguments) -> Dims:
    x = walk.dims(a["self"])
    d = a["dim"] % len(x)
    freeze(x[d], "one index selected")
    return [*x[:d], *x[d + 1 :]]


def take_slice(walk: Walk, node: Node, a: Arguments) -> Dims:
    """A piece of consecutive indices; with a step the dimension stays as it is."""
    x = list(walk.dims(a["self"]))
    d = a["dim"] % len(x)
    size, kept = x[d].size, walk.shape(node)[d]
    if kept != size:
        if a["step"] == 1:
            start = slice_bounds(a, size)[0]
            x[d] = cut(x[d], (start, kept, size - start - kept))[1]
        else:
            freeze(x[d], "sliced with a step")
            x[d] = Axis(kept, "sliced with a step")
    return x


def slice_scatter(walk: Walk, node: Node, a: Arguments) -> Dims:
    """A piece of consecutive indices is written over; what is written with a step, or index by index, stays as it is."""
    x, source = walk.dims(a["self"]), walk.dims(a["src"])
    d = a["dim"] % len(x)
    size, written = x[d].size, source[d].size
    if a["step"] == 1 and written > 1 and not all(leaf.frozen for leaf in leaves(x[d])):
        start = slice_bounds(a, size)[0]
        tie(cut(x[d], (start, written, size - start - written))[1], source[d])
    else:
        for axis in (x[d], source[d]):
            freeze(axis, "a slice of it is written")
    broadcast([*x[:d], Axis(1), *x[d + 1 :]], [*source[:d], Axis(1), *source[d + 1 :]])
    return x


def select_scatter(walk: Walk, node: Node, a: Arguments) -> Dims:
    x, source = walk.dims(a["self"]), walk.dims(a["src"])
    d = a["dim"] % len(x)
    freeze(x[d], "one index of it is written")
    broadcast([*x[:d], *x[d + 1 :]], source)
    return x


def slice_bounds(a: Arguments, size: int) -> tuple[int, int]:
    """First and last (excluded) index of a slice along a dimension of `size` indices."""
    start = 0 if a["start"] is None else number(a["start"])
    end = size if a["end"] is None else number(a["end"])
    return slice(start, end).indices(size)[:2]


def pad(walk: Walk, node: Node, a: Arguments) -> Dims:
    """Constant padding adds alike indices on both sides, any of which may go; other padding copies what is there."""
    x = list(walk.dims(a["self"]))
    amounts = [number(n) for n in a["pad"]]
    constant = a.get("mode", "constant") == "constant"
    for i in range(len(amounts) // 2):
        before, after = amounts[2 * i : 2 * i + 2]
        d = len(x) - 1 - i
        if constant and before >= 0 and after >= 0:
            x[d] = concat((Axis(before), x[d], Axis(after)))
        elif before or after:
            freeze(x[d], "padded with its own values or cropped")
            x[d] = Axis(walk.shape(node)[d], "padded with its own values or cropped")
    return x


def complex_as_pairs(walk: Walk, node: Node, a: Arguments) -> Dims:
    return [*walk.dims(a["self"]), Axis(2, "real and imaginary parts")]


def pairs_as_complex(walk: Walk, node: Node, a: Arguments) -> Dims:
    *x, pair = walk.dims(a["self"])
    freeze(pair, "real and imaginary parts")
    return x


MOVES: dict[str, Rule] = {
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "flatten", "unflatten", "reshape_as"), view),
    **dict.fromkeys(("split", "split_with_sizes", "chunk", "unsafe_split", "unsafe_chunk"), split),
    **dict.fromkeys(("pad", "constant_pad_nd"), pad),
    **dict.fromkeys(("transpose", "swapaxes", "swapdims", "t"), transpose),
    "permute": permute, "unsqueeze": unsqueeze, "squeeze": squeeze, "expand": expand, "repeat": repeat,
    "repeat_interleave": repeat_interleave, "cat": cat, "stack": stack, "glu": gated_half, "unbind": unbind,
    "select": select, "slice": take_slice, "slice_scatter": slice_scatter, "select_scatter": select_scatter,
    "view_as_real": complex_as_pairs, "view_as_complex": pairs_as_complex,
}  # fmt: skip
