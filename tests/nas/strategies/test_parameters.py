"""Spaces as other libraries' optimisers see them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.strategies.parameters import Parameter, Parameters
from search_spaces import Categorical, Integer, SearchSpace, Subset
from tests.search_spaces.core.test_space import spaces

FORMS = [(False, False), (True, False), (True, True)]


def _any(parameter: Parameter, rng: np.random.Generator) -> object:
    return parameter.values[rng.integers(len(parameter.values))] if parameter.values else float(rng.random())


@given(spaces(), st.sampled_from(FORMS), st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_parameters_say_every_architecture_and_nothing_else(
    drawn: tuple[SearchSpace, object], form: tuple[bool, bool], seed: int
) -> None:
    space, _ = drawn
    parameters, rng = Parameters(space, flat=form[0], keyed=form[1]), np.random.default_rng(seed)
    for arch in space.enumerate():
        written = parameters.written(arch)
        assert parameters.read(lambda parameter, of=written: of[parameter.name]) == dict(arch)
        assert parameters.found(written) == parameters.found(dict(arch)) == dict(arch)
        assert set(written) <= parameters.names
    free = SearchSpace("free", space.choices)
    descriptions = {arch.key for arch in free.enumerate()}
    for _ in range(20):
        assert free.architecture(parameters.read(lambda parameter: _any(parameter, rng))).key in descriptions


def test_what_is_asked_is_what_exists_unless_flat() -> None:
    space = SearchSpace(
        "two", (Categorical("op", ("conv", "pool")), Integer("kernel", (3, 5, 9), when={"op": ("conv",)}))
    )
    given = {"op": "pool", "kernel (position)": 2}
    assert Parameters(space).read(lambda parameter: given[parameter.name]) == {"op": "pool"}
    assert Parameters(space).written(space.architecture({"op": "pool"})) == {"op": "pool"}
    assert Parameters(space, flat=True).written(space.architecture({"op": "pool"})) == {
        "op": "pool",
        "kernel (position)": 0,
    }
    assert Parameters(space).found({"op": "conv", "kernel": 9}) == {"op": "conv", "kernel": 9}
    assert Parameters(space).found({"op": "conv"}) is None
    with pytest.raises(ValueError, match="4"):
        Parameters(space).found({"op": "conv", "kernel": 4})


def test_the_largest_keys_are_taken_and_of_equal_ones_the_earlier() -> None:
    space = SearchSpace("places", (Subset("place", ("a", "b", "c"), 2),))

    def read(*keys: float) -> object:
        given = dict(zip(("place['a']", "place['b']", "place['c']"), keys, strict=True))
        return Parameters(space).read(lambda parameter: given[parameter.name])["place"]

    assert read(0.1, 0.9, 0.5) == ("b", "c")
    assert read(0.5, 0.5, 0.5) == ("a", "b")
