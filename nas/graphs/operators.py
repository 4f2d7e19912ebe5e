"""The operators that a graph in a file may name: functions of tensors and sizes that write nothing but their result.

None of them reaches files, memory that is not its own, random numbers outside dropout, or what a tensor's values decide the size of.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, cast

import torch

from search_spaces.core import quoted, unknown_name

MODES = {
    "aten.batch_norm.default": "training",
    "aten.dropout.default": "train",
    "aten.feature_dropout.default": "train",
    "aten.alpha_dropout.default": "train",
}
"""Operators that compute something else while a network is trained, and the argument that says so."""

LEFT_OUT = ("device", "layout", "pin_memory")
"""Arguments that no file holds: results stand where the network's input does."""

ATEN = (
    # layers
    "conv1d.default", "conv2d.default", "conv3d.default", "conv1d.padding", "conv2d.padding", "conv3d.padding",
    "conv_transpose1d.default", "conv_transpose2d.input", "conv_transpose3d.input", "linear.default", "bilinear.default",
    "embedding.default", "batch_norm.default", "layer_norm.default", "group_norm.default", "instance_norm.default",
    "rms_norm.default", "dropout.default", "feature_dropout.default", "alpha_dropout.default", "prelu.default",
    "scaled_dot_product_attention.default",
    # products of matrices
    "matmul.default", "mm.default", "bmm.default", "mv.default", "dot.default", "addmm.default", "baddbmm.default", "einsum.default",
    # pooling and resizing
    "max_pool1d.default", "max_pool2d.default", "max_pool3d.default",
    "avg_pool1d.default", "avg_pool2d.default", "avg_pool3d.default",
    "adaptive_avg_pool1d.default", "adaptive_avg_pool2d.default", "adaptive_avg_pool3d.default",
    "upsample_nearest1d.vec", "upsample_nearest2d.vec", "upsample_nearest3d.vec", "upsample_linear1d.vec",
    "upsample_bilinear2d.vec", "upsample_bicubic2d.vec", "upsample_trilinear3d.vec",
    "upsample_nearest1d.default", "upsample_nearest2d.default", "upsample_linear1d.default", "upsample_bilinear2d.default",
    "upsample_bicubic2d.default", "pixel_shuffle.default", "pixel_unshuffle.default", "channel_shuffle.default",
    "adaptive_max_pool1d.default", "adaptive_max_pool2d.default", "adaptive_max_pool3d.default", "grid_sampler.default",
    "max_pool2d_with_indices.default", "im2col.default", "col2im.default",
    # activations
    "relu.default", "relu6.default", "leaky_relu.default", "elu.default", "selu.default", "celu.default", "gelu.default",
    "silu.default", "mish.default", "sigmoid.default", "tanh.default", "hardtanh.default", "hardsigmoid.default",
    "hardswish.default", "softplus.default", "log_sigmoid.default", "glu.default", "threshold.default",
    "hardshrink.default", "softshrink.default", "softmax.int", "log_softmax.int", "_softmax.default", "_log_softmax.default",
    # arithmetic
    "add.Tensor", "add.Scalar", "sub.Tensor", "sub.Scalar", "rsub.Scalar", "mul.Tensor", "mul.Scalar", "div.Tensor",
    "div.Scalar", "div.Tensor_mode", "div.Scalar_mode", "floor_divide.default", "remainder.Scalar", "remainder.Tensor",
    "pow.Tensor_Scalar", "pow.Tensor_Tensor", "pow.Scalar", "neg.default", "abs.default", "sign.default", "square.default",
    "sqrt.default", "rsqrt.default", "reciprocal.default", "exp.default", "expm1.default", "log.default", "log1p.default",
    "log2.default", "sin.default", "cos.default", "tan.default", "atan.default", "atan2.default", "erf.default",
    "floor.default", "ceil.default", "round.default", "trunc.default", "clamp.default", "clamp.Tensor", "clamp_min.default",
    "clamp_max.default", "maximum.default", "minimum.default", "max.other", "min.other", "addcmul.default",
    "addcdiv.default", "lerp.Scalar", "lerp.Tensor", "where.self", "where.ScalarOther", "where.ScalarSelf", "where.Scalar",
    "masked_fill.Scalar", "masked_fill.Tensor", "eq.Scalar", "eq.Tensor", "ne.Scalar", "ne.Tensor", "lt.Scalar", "lt.Tensor",
    "le.Scalar", "le.Tensor", "gt.Scalar", "gt.Tensor", "ge.Scalar", "ge.Tensor", "logical_and.default",
    "logical_or.default", "logical_not.default", "logical_xor.default", "bitwise_and.Tensor", "bitwise_or.Tensor",
    "bitwise_not.default", "isnan.default", "isinf.default", "isfinite.default", "nan_to_num.default",
    # reductions
    "sum.default", "sum.dim_IntList", "mean.default", "mean.dim", "amax.default", "amin.default", "argmax.default",
    "argmin.default", "prod.dim_int", "var.correction", "std.correction", "var.dim", "std.dim", "logsumexp.default",
    "linalg_vector_norm.default", "norm.ScalarOpt_dim", "cumsum.default", "any.dim", "all.dim", "max.default", "min.default", "max.dim",
    "min.dim", "topk.default", "sort.default",
    # shapes and places
    "view.default", "reshape.default", "_unsafe_view.default", "flatten.using_ints", "unflatten.int", "squeeze.dim",
    "squeeze.dims", "squeeze.default", "unsqueeze.default", "permute.default", "transpose.int", "t.default", "expand.default",
    "expand_as.default", "view_as.default", "reshape_as.default", "repeat.default", "repeat_interleave.self_int",
    "contiguous.default", "clone.default", "alias.default", "detach.default", "lift_fresh_copy.default", "cat.default",
    "stack.default", "slice.Tensor", "select.int", "narrow.default", "slice_scatter.default", "select_scatter.default",
    "flip.default", "roll.default", "pad.default", "constant_pad_nd.default", "index_select.default", "gather.default",
    "index.Tensor", "tril.default", "triu.default", "swapaxes.default", "swapdims.default", "movedim.int",
    # tensors of a size, and other types
    "zeros.default", "ones.default", "full.default", "arange.default", "arange.start", "arange.start_step", "eye.default",
    "scalar_tensor.default", "zeros_like.default", "ones_like.default", "full_like.default", "new_zeros.default",
    "new_ones.default", "new_full.default", "zero.default", "to.dtype", "_to_copy.default", "type_as.default", "sym_size.int",
)  # fmt: skip

OF_PYTHON: Mapping[str, Callable[[Any, Any], Any]] = {
    "getitem": operator.getitem,
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "floordiv": operator.floordiv,
    "mod": operator.mod,
}
"""By Python's names, each of `a` and `b`: one of the tensors that an operator returns, and arithmetic of sizes, such as the batch."""


NAMES = (*(f"aten.{name}" for name in ATEN), *OF_PYTHON)
KNOWN = frozenset(NAMES)


@cache
def function(name: str) -> Callable[..., Any]:
    """What an operator computes; all of its arguments are given by name.

    Raises:
        ValueError: none that a file may name is called that, or this version of torch lacks it.
    """
    if name not in KNOWN:
        raise unknown_name("operator of a graph", name, NAMES)
    if name in OF_PYTHON:
        return partial(_of_python, name)
    _, packet, overload = name.split(".")
    found = getattr(getattr(torch.ops.aten, packet, None), overload, None)
    if found is None:
        raise ValueError(
            f"operator {name} must be one of torch, which is {torch.__version__} here; install a later one"
        )
    return cast(Callable[..., Any], found)


def _of_python(name: str, *, a: Any, b: Any) -> Any:
    """Text and lists, too, can be multiplied and filled in, to any length."""
    for value in (b,) if name == "getitem" else (a, b):
        if not isinstance(value, (int, torch.SymInt)):
            raise ValueError(f"{name} must be of sizes, got {quoted(value)}")
    return OF_PYTHON[name](a, b)


@cache
def parameters(name: str) -> tuple[str, ...]:
    """Names of an operator's arguments."""
    return ("a", "b") if name in OF_PYTHON else tuple(argument.name for argument in _schema(name))


@cache
def defaults(name: str) -> Mapping[str, Any]:
    """The defaults of those arguments of an operator that have one."""
    given = () if name in OF_PYTHON else (argument for argument in _schema(name) if argument.has_default_value())
    return {argument.name: argument.default_value for argument in given}


def _schema(name: str) -> Any:
    return cast(Any, function(name))._schema.arguments
