"""Operators along a dimension: normalisation, reduction, softmax and sorting, pooling and resizing."""

from __future__ import annotations

from collections.abc import Sequence

from torch.fx import Node

from pruners.operators.axes import Axis, factor, freeze, tie
from pruners.operators.rule import Arguments, Dims, Rule, Walk, broadcast, frozen, tie_vectors


def batch_norm(walk: Walk, node: Node, a: Arguments) -> list[Dims] | Dims:
    """Statistics per channel, which is dimension 1."""
    x = walk.dims(a["input"])
    for name in ("weight", "bias", "running_mean", "running_var"):
        tie_vectors(walk, x[1], a.get(name))
    if a.get("training", a.get("use_input_stats", False)):
        walk.statistic(node)
    return _with_extras(walk, node, x)


def layer_norm(walk: Walk, node: Node, a: Arguments) -> Dims:
    """Statistics over the last dimensions, which weight and bias share."""
    x = walk.dims(a["input"])
    for name in ("weight", "bias"):
        if isinstance(a.get(name), Node):
            for axis, other in zip(x[-len(a["normalized_shape"]) :], walk.dims(a[name]), strict=True):
                tie(axis, other)
    walk.statistic(node)
    return x


def group_norm(walk: Walk, node: Node, a: Arguments) -> Dims:
    """Channels are groups x rest; statistics over the rest and space."""
    x = walk.dims(a["input"])
    factor(x[1], (a["num_groups"], x[1].size // a["num_groups"]))
    for name in ("weight", "bias"):
        tie_vectors(walk, x[1], a[name])
    walk.statistic(node)
    return x


def weight_norm(walk: Walk, node: Node, a: Arguments) -> Dims:
    """Direction v (O, ...) scaled to the length g, which has v's size in one dimension and 1 elsewhere."""
    walk.statistic(node)
    return broadcast(walk.dims(a["v"]), walk.dims(a["g"]))


def reduction(walk: Walk, node: Node, a: Arguments) -> Dims | list[Dims]:
    """Dimensions disappear or become 1; a mean counts its indices, hence a statistic."""
    x = walk.dims(next(value for value in a.values() if isinstance(value, Node)))
    given = a.get("dim")
    over = range(len(x)) if given in (None, []) else [given] if isinstance(given, int) else given
    gone = {d % len(x) for d in over} if x else set()
    walk.statistic(node)
    if a.get("keepdim"):
        out = [Axis(1) if d in gone else axis for d, axis in enumerate(x)]
    else:
        out = [axis for d, axis in enumerate(x) if d not in gone]
    return [out, out] if isinstance(node.meta["val"], (tuple, list)) else out


def loss(walk: Walk, node: Node, a: Arguments) -> Dims:
    """Entry by entry, then averaged or added up over all unless `reduction` is 0."""
    if a["reduction"]:
        walk.statistic(node)
    entries = broadcast(walk.dims(a["self"]), walk.dims(a["target"]))
    return [] if a["reduction"] else entries


def along(walk: Walk, node: Node, a: Arguments) -> Dims | list[Dims]:
    """What depends on every index of a dimension, or on their order: it stays, the other dimensions pass."""
    x = walk.dims(next(value for value in a.values() if isinstance(value, Node)))
    over = along_dims(a, len(x))
    for d in over:
        freeze(x[d], f"{node.target} along it")

    gone = {d % len(x) for d in over}

    def out(shape: Sequence[int]) -> Dims:
        if len(shape) < len(x):
            return [axis for d, axis in enumerate(x) if d not in gone]
        reason = f"{node.target} along it"
        return [axis if axis.size == size else Axis(size, reason) for axis, size in zip(x, shape, strict=True)]

    shape = walk.shape(node)
    return [out(s) for s in shape] if isinstance(node.meta["val"], (tuple, list)) else out(shape)


def along_dims(a: Arguments, rank: int) -> Sequence[int]:
    """The dimensions that an operator runs along: those it names, else all."""
    given = a.get("dim", a.get("dims"))
    return range(rank) if given in (None, []) else [given] if isinstance(given, int) else given


def spatial(walk: Walk, node: Node, a: Arguments) -> Dims | list[Dims]:
    """Pooling and resizing: leading dimensions pass, those that change size or are pooled over stay."""
    x = walk.dims(next(value for value in a.values() if isinstance(value, Node)))
    several = isinstance(node.meta["val"], (tuple, list))
    shape = walk.shape(node)[0] if several else walk.shape(node)
    rank = next(n for n in (1, 2, 3) if f"{n}d" in str(node.target))
    for axis in x[-rank:]:
        freeze(axis, "space of a pooling")
    out = [*x[:-rank], *frozen(shape[-rank:], "space of a pooling")]
    return [out, out] if several else out


def _with_extras(walk: Walk, node: Node, first: Dims) -> list[Dims] | Dims:
    """Axes of the first output, and frozen ones for saved statistics beside it."""
    if not isinstance(node.meta["val"], (tuple, list)):
        return first
    return [first, *(frozen(shape, "saved statistics") for shape in walk.shape(node)[1:])]


NORMS: dict[str, Rule] = {
    "batch_norm": batch_norm, "_native_batch_norm_legit": batch_norm, "_native_batch_norm_legit_no_training": batch_norm,
    "_native_batch_norm_legit_functional": batch_norm, "instance_norm": batch_norm,
    "layer_norm": layer_norm, "rms_norm": layer_norm, "group_norm": group_norm, "_weight_norm": weight_norm,
}  # fmt: skip

REDUCTIONS: dict[str, Rule] = {
    **dict.fromkeys(
        (
            "sum",
            "mean",
            "var",
            "var_mean",
            "std",
            "std_mean",
            "amax",
            "amin",
            "linalg_vector_norm",
            "norm",
            "any",
            "all",
        ),
        reduction,
    ),
    **dict.fromkeys(("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "soft_margin_loss"), loss),
}

ALONG: dict[str, Rule] = dict.fromkeys(
    ("softmax", "_softmax", "log_softmax", "logsumexp", "cumsum", "cumprod", "sort", "argsort", "topk", "argmax", "argmin",
     "max", "min", "flip", "roll", "prod", "diff", "kthvalue", "median",
     *(f"fft_{inverse}{kind}" for inverse in ("", "i") for kind in ("fft", "fft2", "fftn", "rfft", "rfft2", "rfftn"))),
    along,
)  # fmt: skip

SPATIAL: dict[str, Rule] = dict.fromkeys(
    (*(f"{kind}_pool{n}d" for kind in ("max", "avg", "adaptive_avg", "adaptive_max", "lp") for n in (1, 2, 3)),
     *(f"max_pool{n}d_with_indices" for n in (1, 2, 3)),
     *(f"upsample_{kind}" for kind in ("nearest1d", "nearest2d", "nearest3d", "bilinear2d", "bicubic2d", "linear1d")),
     "upsample_trilinear3d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa",
     *(f"_upsample_nearest_exact{n}d" for n in (1, 2, 3))),
    spatial,
)  # fmt: skip
