"""Which subnets a step of supernet training takes."""

from nas.samplers.basic import Delayed, Draw, Fair, Groups, Sampler, Sandwich, Uniform, nested
from nas.samplers.complexity import Complexity, Performance
from nas.samplers.narrowing import Narrowing
from nas.samplers.progressive import Progressive
from nas.samplers.size_order import cheap_and_dear, extremes

__all__ = [
    "Complexity", "Delayed", "Draw", "Fair", "Groups", "Narrowing", "Performance", "Progressive", "Sampler", "Sandwich",
    "Uniform", "cheap_and_dear", "extremes", "nested",
]  # fmt: skip
