"""The smallest and the largest architecture of a space, for ways of training that start from them."""

from __future__ import annotations

from estimators.counting import CostModel
from nas.runtime import stream
from search_spaces import Architecture, SearchSpace, largest, smallest

LOOKED_AT = 64


def extremes(space: SearchSpace) -> tuple[Architecture, Architecture]:
    """The architecture of the first value of every choice, and that of the last value.

    Raises:
        ValueError: a constraint forbids one of them, or they are not the cheapest and the dearest: among them and 64 architectures
            drawn at random, another one has fewer or more macs, so the space has no order of size.
    """
    try:
        small, large = smallest(space), largest(space)
    except ValueError as error:
        raise ValueError(
            f"the first or the last values of {space.name!r} make no architecture, so it has no order of size ({error}); use a sampler "
            "that needs none, such as uniform"
        ) from error
    codes = space.encode([small, large, *_drawn(space)])
    macs = CostModel(space).batch(codes)["macs"]
    if macs[0] == macs[1] or macs[0] > macs.min() or macs[1] < macs.max():
        raise ValueError(
            f"space {space.name!r} has no order of size: its first and last values have {macs[0]} and {macs[1]} macs, others "
            f"{macs[2:].min()} to {macs[2:].max()}; use a sampler that needs none, such as uniform"
        )
    return small, large


def cheap_and_dear(space: SearchSpace) -> tuple[Architecture, Architecture]:
    """The extremes of a space; without an order of size, of 64 architectures drawn at random those of the fewest and most macs."""
    try:
        return extremes(space)
    except ValueError:
        archs = _drawn(space)
        macs = CostModel(space).batch(space.encode(archs))["macs"]
        return archs[int(macs.argmin())], archs[int(macs.argmax())]


def _drawn(space: SearchSpace) -> list[Architecture]:
    rng = stream(0, "extremes")
    return [space.sample(rng) for _ in range(LOOKED_AT)]
