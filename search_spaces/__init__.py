"""What can vary: choices, search spaces and the networks they describe."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from inspect import Parameter, signature
from typing import NamedTuple

from search_spaces.core import (
    Architecture,
    Block,
    Categorical,
    Choice,
    Constraint,
    Integer,
    Labels,
    Network,
    OnSkip,
    SearchSpace,
    Subset,
    Supernet,
    first_line,
    largest,
    quoted,
    smallest,
    unknown_name,
)
from search_spaces.families import (
    channel_bench_macro_resnet,
    ensemble,
    mobilenet_elastic,
    nas_bench_201,
    nas_bench_macro,
    pooling_space,
    resnet_elastic,
)
from search_spaces.layers import (
    ElasticBatchNorm1d,
    ElasticBatchNorm2d,
    ElasticConv1d,
    ElasticConv2d,
    ElasticConvTranspose1d,
    ElasticConvTranspose2d,
    ElasticLayerNorm,
    ElasticLinear,
    Grouping,
    elastic_block,
)

__all__ = [
    "SPACES", "Architecture", "Block", "Categorical", "Choice", "Constraint", "ElasticBatchNorm1d", "ElasticBatchNorm2d",
    "ElasticConv1d", "ElasticConv2d", "ElasticConvTranspose1d", "ElasticConvTranspose2d", "ElasticLayerNorm",
    "ElasticLinear", "Grouping", "Integer", "Labels", "Network", "OnSkip", "SearchSpace", "Subset", "Supernet",
    "channel_bench_macro_resnet", "elastic_block", "ensemble", "largest", "make_space", "mobilenet_elastic",
    "nas_bench_201", "nas_bench_macro", "pooling_space", "resnet_elastic", "smallest",
]  # fmt: skip


class SpaceEntry(NamedTuple):
    """A built-in space: what varies in it, and its factory."""

    help: str
    make: Callable[..., SearchSpace]


SPACES: dict[str, SpaceEntry] = {
    **{
        f"resnet{depth}-pooling": SpaceEntry(f"where ResNet-{depth} pools", partial(pooling_space, depth))
        for depth in (20, 18, 50)
    },
    "nas-bench-macro": SpaceEntry(
        "the kind of each of 8 blocks: identity or an inverted residual, small or large; 3,969 networks, all of the published table",
        nas_bench_macro,
    ),
    "resnet-elastic": SpaceEntry(
        "choices of width, depth, groups, kernel, pooling, resolution, head, for depth=20 (also 32, 44, 56, 110, 18, "
        "34, 50, 101, 152)", resnet_elastic,
    ),
    "mobilenet-elastic": SpaceEntry(
        "choices of kernel, expansion, depth, width, resolution, se (squeeze-excitation), head", mobilenet_elastic
    ),
    "channel-bench-macro-resnet": SpaceEntry(
        "the channels of seven positions, all 16,384 of the published table", channel_bench_macro_resnet
    ),
    "nas-bench-201": SpaceEntry(
        "the operations of a cell of four nodes; the 15,625 cells of the published table, equal ones as one architecture",
        nas_bench_201,
    ),
}  # fmt: skip


def make_space(name: str, /, **options: object) -> SearchSpace:
    """The built-in search space of that name; `options` are the keyword arguments of its factory.

    Raises:
        ValueError: no space has that name or no such option (the nearest names are offered), or an option's value is not allowed.
    """
    if name not in SPACES:
        raise unknown_name("search space", name, SPACES)
    known = [p.name for p in signature(SPACES[name].make).parameters.values() if p.kind is Parameter.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            raise unknown_name(f"option of search space {name!r}", option, known)
    try:
        return SPACES[name].make(**options)
    except (TypeError, AttributeError, ArithmeticError) as error:
        raise ValueError(
            f"the options of search space {name!r} must have the types of its factory, got {quoted(options)} ({first_line(error)}); "
            "`nas spaces` shows the defaults"
        ) from error
