"""Pooling operators behind one interface, usable on their own, and what placing them in a network asks for.

make_pooling("gem", channels=64)             # (B, 64, H, W) -> (B, 64, H/2, W/2)
make_global_pooling("simpool", channels=64)  # (B, 64, H, W) or (B, N, 64) -> (B, 64)
"""

from search_spaces.pooling.attention import LEAST, SimPool
from search_spaces.pooling.learned import GatedPool2d, MixedPool2d, TreePool2d
from search_spaces.pooling.operators import (
    GLOBAL_POOLINGS,
    POOLINGS,
    GlobalAveragePool,
    make_global_pooling,
    make_pooling,
)
from search_spaces.pooling.placement import check_image_size, check_operators, stride
from search_spaces.pooling.power import GeMPool2d, GlobalGeMPool
from search_spaces.pooling.transport import GeneralisedSumPool
from search_spaces.pooling.weighted import AdaPool2d, SoftPool2d
from search_spaces.pooling.windows import WindowPool, tokens

__all__ = [
    "GLOBAL_POOLINGS", "LEAST", "POOLINGS", "AdaPool2d", "GatedPool2d", "GeMPool2d", "GeneralisedSumPool",
    "GlobalAveragePool", "GlobalGeMPool", "MixedPool2d", "SimPool", "SoftPool2d", "TreePool2d", "WindowPool",
    "check_image_size", "check_operators", "make_global_pooling", "make_pooling", "stride", "tokens",
]  # fmt: skip
