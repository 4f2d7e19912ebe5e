"""Search under limits: the part of a space whose architectures cost no more than allowed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial

from estimators.cost import CostModel
from nas.pruned import PrunedNetwork
from search_spaces import Architecture, Constraint, SearchSpace
from search_spaces.choices import Value


def within(space: SearchSpace, limits: Mapping[str, float]) -> SearchSpace:
    """The space with a constraint for each limit, for strategies to propose from.

    Args:
        space: with a network.
        limits: what stand-alone networks may cost at most: macs, params, activations or weight_bytes, by name.
    """
    cost = _cost(space)

    def holds(name: str, values: Mapping[str, Value]) -> bool:
        return cost(space.architecture(values))[name] <= limits[name]

    rules = [Constraint(f"at most {most:g} {name}", partial(holds, name)) for name, most in limits.items()]
    return replace(space, constraints=(*space.constraints, *rules))


def _cost(space: SearchSpace) -> Callable[[Architecture], Mapping[str, int]]:
    if isinstance(space.net, PrunedNetwork):
        return space.net.source.costs
    model = CostModel(space)
    return lambda arch: asdict(model.cost(arch))
