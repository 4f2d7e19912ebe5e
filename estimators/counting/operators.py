"""Which operators multiply and accumulate, and which are known to cost nothing in the toolkit's conventions.

Macs come from the formulas of `torch.utils.flop_counter` (flops // 2), among them those that a user registers for operators of their
own, and from a few more products that it leaves out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten


def _attention_flops(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **options: Any) -> int:
    """Two products: scores = query x key, and output = scores x value; masks save nothing."""
    return 2 * _scores(query, key) * (query.shape[-1] + value.shape[-1])


def _scores(query: Tensor, key: Tensor, *rest: Any, **options: Any) -> int:
    return prod(query.shape[:-1]) * key.shape[-2]


MORE_FLOPS: dict[Any, Callable[..., int]] = {
    aten.dot: lambda a, b: 2 * a.numel(),
    aten.vdot: lambda a, b: 2 * a.numel(),
    aten.mv: lambda matrix, vector: 2 * matrix.numel(),
    aten.addmv: lambda added, matrix, vector, **scales: 2 * matrix.numel(),
    aten.addbmm: lambda added, a, b, **scales: 2 * a.numel() * b.shape[-1],
    aten._int_mm: lambda a, b: 2 * a.numel() * b.shape[-1],
    aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    aten._scaled_dot_product_fused_attention_overrideable: _attention_flops,
}
FUSED_ATTENTION = frozenset(
    (
        aten._scaled_dot_product_cudnn_attention,
        aten._scaled_dot_product_efficient_attention,
        aten._scaled_dot_product_flash_attention,
        aten._scaled_dot_product_flash_attention_for_cpu,
        aten._scaled_dot_product_fused_attention_overrideable,
        torch.ops.higher_order.flex_attention,
    )
)

QUANTISED = frozenset(
    getattr(torch.ops.quantized, name)
    for name in (
        "linear", "linear_relu", "linear_dynamic", "linear_relu_dynamic", "conv1d", "conv1d_relu", "conv2d", "conv2d_relu", "conv3d",
        "conv3d_relu",
    )
)  # fmt: skip
"""Operators over (inputs, packed weights, ...)."""

COUNTS_NOTHING = frozenset(
    """
    arange bernoulli empty empty_like empty_permuted empty_strided exponential eye fill full full_like lift_fresh linspace logspace
    new_empty new_empty_strided new_full new_ones new_zeros normal ones ones_like rand rand_like randint randn randn_like randperm
    scalar_tensor uniform zero zeros zeros_like

    _assert_async _linalg_check_errors _local_scalar_dense
    _pack_padded_sequence _pad_packed_sequence as_strided detach squeeze swapaxes swapdims t transpose unsqueeze
    _reshape_alias _reshape_copy _resize_output _shape_as_tensor _to_copy _unsafe_index
    _unsafe_masked_index _unsafe_view block_diag cat channel_shuffle clone col2im constant_pad_nd copy embedding _embedding_bag
    _embedding_bag_forward_only flip gather im2col index index_add index_copy index_fill index_put index_select masked_fill
    masked_scatter masked_select native_channel_shuffle nonzero pixel_shuffle pixel_unshuffle reflection_pad1d reflection_pad2d
    reflection_pad3d repeat repeat_interleave replication_pad1d replication_pad2d replication_pad3d resize roll rot90 scatter
    scatter_add scatter_reduce select_scatter set slice_scatter split_with_sizes_copy stack take tril tril_indices triu triu_indices
    unfold_copy unsafe_split unsafe_split_with_sizes

    _log_softmax _safe_softmax _softmax all amax amin aminmax any argmax argmin argsort bincount bucketize count_nonzero cummax cummin
    cumprod cumsum equal kthvalue linalg_vector_norm logcumsumexp logsumexp max mean median min mode nansum norm prod
    searchsorted sort std std_mean sum topk unique_consecutive unique_dim _unique2 var var_mean

    _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool1d adaptive_max_pool2d adaptive_max_pool3d avg_pool2d avg_pool3d
    fractional_max_pool2d fractional_max_pool3d max_pool2d_with_indices max_pool3d_with_indices max_unpool2d max_unpool3d
    upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d
    upsample_trilinear3d _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d
    _upsample_nearest_exact3d

    _batch_norm_no_update _batch_norm_with_update _fused_rms_norm _native_batch_norm_legit _native_batch_norm_legit_no_training
    _weight_norm_interface cudnn_batch_norm miopen_batch_norm native_batch_norm native_dropout native_group_norm native_layer_norm

    glu grid_sampler_2d grid_sampler_3d hardswish log_sigmoid_forward prelu _prelu_kernel rrelu_with_noise
    """.split()
)
"""Makes, moves, compares, reduces, pools, normalises: names in aten, in-place twins included. Element-wise operators and views are
told by their tags and schemas instead."""


def macs_of(operator: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> int | None:
    """Multiply-accumulates of one call of an operator (an overload packet such as `torch.ops.aten.mm`); None if it has no formula."""
    if operator in flop_registry:
        return int(flop_registry[operator](*args, **kwargs, out_val=out)) // 2
    if operator in MORE_FLOPS:
        return MORE_FLOPS[operator](*args, **kwargs) // 2
    if operator in QUANTISED:
        weight, _ = args[1].unpack()
        return int(out.numel() * weight[0].numel())
    return None


def has_formula(operator: Any) -> bool:
    return operator in flop_registry or operator in MORE_FLOPS or operator in QUANTISED


def activations_of(operator: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> int:
    """Elements that one call puts out; fused attention counts its scores too, as if its two products ran one after the other."""
    first = out[0] if isinstance(out, (tuple, list)) else out
    return first.numel() + (_scores(*args, **kwargs) if operator in FUSED_ATTENTION else 0)


def counts_nothing(overload: Any) -> bool:
    """Whether an operator is known to multiply and accumulate nothing; of any other it is not known."""
    if overload.namespace in ("prim", "profiler") or overload.is_view or torch.Tag.pointwise in overload.tags:
        return True
    name = overload._overloadpacket.__name__
    return overload.namespace == "aten" and (name.removesuffix("_") in COUNTS_NOTHING)
