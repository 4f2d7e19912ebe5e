"""What can vary: choices, search spaces and the networks they describe."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from inspect import Parameter, signature

from search_spaces.core import (
    Architecture,
    Block,
    Categorical,
    Choice,
    Constraint,
    Integer,
    Labels,
    Network,
    SearchSpace,
    Subset,
    Supernet,
    largest,
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
    ElasticBatchNorm2d,
    ElasticConv2d,
    ElasticLayerNorm,
    ElasticLinear,
    Grouping,
    elastic_block,
)

__all__ = [
    "SPACES",
    "Architecture",
    "Block",
    "Categorical",
    "Choice",
    "Constraint",
    "ElasticBatchNorm2d",
    "ElasticConv2d",
    "ElasticLayerNorm",
    "ElasticLinear",
    "Grouping",
    "Integer",
    "Labels",
    "Network",
    "SearchSpace",
    "Subset",
    "Supernet",
    "channel_bench_macro_resnet",
    "elastic_block",
    "ensemble",
    "largest",
    "make_space",
    "mobilenet_elastic",
    "nas_bench_201",
    "nas_bench_macro",
    "pooling_space",
    "resnet_elastic",
    "smallest",
]

SPACES: dict[str, Callable[..., SearchSpace]] = {
    "resnet20-pooling": partial(pooling_space, 20),
    "resnet18-pooling": partial(pooling_space, 18),
    "resnet50-pooling": partial(pooling_space, 50),
    "nas-bench-macro": nas_bench_macro,
    "resnet-elastic": resnet_elastic,
    "mobilenet-elastic": mobilenet_elastic,
    "channel-bench-macro-resnet": channel_bench_macro_resnet,
    "nas-bench-201": nas_bench_201,
}


def make_space(name: str, /, **options: object) -> SearchSpace:
    """The built-in search space of that name; `options` are the keyword arguments of its factory.

    Raises:
        ValueError: no space has that name or no such option (the nearest names are offered), or an option's value is not allowed.
    """
    if name not in SPACES:
        raise unknown_name("search space", name, SPACES)
    known = [p.name for p in signature(SPACES[name]).parameters.values() if p.kind is Parameter.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            raise unknown_name(f"option of search space {name!r}", option, known)
    return SPACES[name](**options)
