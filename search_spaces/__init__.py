"""What can vary: choices, search spaces and the networks they describe."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from inspect import Parameter, signature

from search_spaces.core.architecture import Architecture
from search_spaces.core.choices import Categorical, Choice, Integer, Subset
from search_spaces.core.extremes import largest, smallest
from search_spaces.core.naming import unknown_name
from search_spaces.core.network import Block, Network, Supernet
from search_spaces.core.space import Constraint, Labels, SearchSpace
from search_spaces.families.cells import nas_bench_201
from search_spaces.families.channel_bench import channel_bench_macro_resnet
from search_spaces.families.ensemble import ensemble
from search_spaces.families.mobilenet_elastic import mobilenet_elastic
from search_spaces.families.nas_bench_macro import nas_bench_macro
from search_spaces.families.resnet import pooling_space
from search_spaces.families.resnet_elastic import resnet_elastic
from search_spaces.layers.elastic import ElasticBatchNorm2d, ElasticConv2d, ElasticLayerNorm, ElasticLinear
from search_spaces.layers.elastic_block import elastic_block
from search_spaces.layers.grouping import Grouping

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
