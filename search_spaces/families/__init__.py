"""The search spaces that exist."""

from search_spaces.families.cells import nas_bench_201
from search_spaces.families.channel_bench import channel_bench_macro_resnet
from search_spaces.families.ensemble import ensemble, origin
from search_spaces.families.mobilenet_elastic import mobilenet_elastic
from search_spaces.families.nas_bench_macro import nas_bench_macro
from search_spaces.families.resnet import pooling_space
from search_spaces.families.resnet_elastic import resnet_elastic

__all__ = [
    "channel_bench_macro_resnet", "ensemble", "mobilenet_elastic", "nas_bench_201", "nas_bench_macro", "origin",
    "pooling_space", "resnet_elastic",
]  # fmt: skip
