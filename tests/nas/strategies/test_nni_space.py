"""Search spaces in NNI's JSON."""

from __future__ import annotations

import json

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nas.strategies import read_nni_space, write_nni_space
from search_spaces import Categorical, Constraint, Integer, SearchSpace, Subset
from tests.search_spaces.core.test_space import choices

NESTED = {
    "layer": {
        "_type": "choice",
        "_value": [
            {
                "_name": "conv",
                "kernel": {"_type": "choice", "_value": [3, 5]},
                "bias": {"_type": "choice", "_value": ["no", "yes"]},
            },
            {
                "_name": "pool",
                "kernel": {"_type": "choice", "_value": [3, 5]},
                "size": {"_type": "randint", "_value": [2, 5]},
            },
            {"_name": "skip"},
        ],
    },
    "width": {"_type": "quniform", "_value": [16, 48, 16]},
}


def _flat(proposal: dict) -> dict:
    """A proposal of NNI as values by the names of choices that keep theirs."""
    found = {}
    for name, value in proposal.items():
        if isinstance(value, dict):
            found[name] = value["_name"]
            found |= _flat({inner: each for inner, each in value.items() if inner != "_name"})
        else:
            found[name] = value
    return found


def test_a_nested_space_is_read() -> None:
    space = read_nni_space(NESTED, "layers")
    assert space.choices == (
        Categorical("layer", ("conv", "pool", "skip")),
        Integer("kernel", (3, 5), {"layer": ("conv", "pool")}),
        Categorical("bias", ("no", "yes"), {"layer": ("conv",)}),
        Integer("size", (2, 3, 4), {"layer": ("pool",)}),
        Integer("width", (16, 32, 48)),
    )
    assert space.name == "layers" and space.size == (2 * 2 + 2 * 3 + 1) * 3


def test_parameters_of_one_name_that_differ_are_named_by_where_they_stand() -> None:
    inner = {"_type": "choice", "_value": [1, 2]}
    document = {
        "a": {
            "_type": "choice",
            "_value": [{"_name": "x", "k": inner}, {"_name": "y", "k": {"_type": "choice", "_value": [5]}}],
        },
        "b": {"_type": "choice", "_value": [{"_name": "x", "k": inner}]},
    }
    assert [choice.name for choice in read_nni_space(document).choices] == ["a", "a.x.k", "a.y.k", "b", "b.x.k"]


@given(choices(), st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_what_is_written_reads_as_the_same_architectures_and_nni_proposes_those(made: tuple, seed: int) -> None:
    space = SearchSpace("nni", made)
    try:
        document = json.loads(json.dumps(write_nni_space(space)))
    except ValueError:
        assume(False)
    read = read_nni_space(document)
    assert {frozenset(arch.items()) for arch in read.enumerate()} == {
        frozenset(arch.items()) for arch in space.enumerate()
    }
    from nni.algorithms.hpo.random_tuner import RandomTuner

    tuner = RandomTuner(seed=seed)
    tuner.update_search_space(document)
    assert space.check(space.architecture(_flat(tuner.generate_parameters(0)))) is None


def test_most_random_spaces_without_subsets_can_be_written() -> None:
    written = 0

    @given(choices())
    @settings(max_examples=100, deadline=None, database=None, derandomize=True)
    def count(made: tuple) -> None:
        nonlocal written
        try:
            write_nni_space(SearchSpace("nni", made))
            written += 1
        except ValueError as error:
            assert any(what in str(error) for what in ("subsets", "depends on one other", "nested three deep"))

    count()
    assert written >= 20


def test_what_nni_cannot_say_is_refused() -> None:
    op, kernel = Categorical("op", ("a", "b")), Integer("kernel", (3, 5))
    both = Integer("x", (1, 2), when={"op": ("a",), "kernel": (3,)})
    never = Integer("x", (1, 2), when=())
    for space, what in (
        (SearchSpace("s", (op,), (Constraint("a", lambda v: v["op"] == "a"),)), "no constraints, and 's' has"),
        (SearchSpace("s", (op,), canonical=lambda v: v), "no a canonical form"),
        (SearchSpace("s", (Subset("p", (1, 2), 1),)), "no subsets"),
        (SearchSpace("s", (op, kernel, both)), "depends on one other, and 'x' on kernel, op"),
        (SearchSpace("s", (op, never)), "'x' on what never holds"),
    ):
        with pytest.raises(ValueError, match=what):
            write_nni_space(space)
    chain = [Integer("x0", (0, 1)), *(Integer(f"x{at}", (0, 1), when={f"x{at - 1}": (1,)}) for at in (1, 2))]
    with pytest.raises(ValueError, match="nested three deep, and 'x2' depends on 'x1', which depends on 'x0'"):
        write_nni_space(SearchSpace("chain", tuple(chain)))
    wide = [Integer("x", range(200)), *(Integer(f"x{at}", (0, 1), when={"x": range(200)}) for at in range(100))]
    with pytest.raises(ValueError, match="more than 10000 parameters"):
        write_nni_space(SearchSpace("wide", tuple(wide)))


@pytest.mark.parametrize(
    ("document", "what"),
    [
        ([], "must be a JSON object of parameters"),
        ({"x": 3}, "'x' of NNI must have a `_type` and a list as `_value`, got 3"),
        ({"x": {"_type": "choice"}}, "must have a `_type`"),
        ({"x": {"_type": "choice", "_value": 3}}, "must have a `_type`"),
        ({"x": {"_type": "choice", "_value": []}}, "at least one value"),
        ({"x": {"_type": "choice", "_value": [0.1, 0.2]}}, "must be integers or strings"),
        ({"x": {"_type": "choice", "_value": [1, 1]}}, "no value twice"),
        ({"x": {"_type": "choice", "_value": [{"_name": "a"}, "b"]}}, "each value has a `_name`"),
        ({"x": {"_type": "choice", "_value": [{"name": "a"}]}}, "each value has a `_name`"),
        ({"x": {"_type": "choice", "_value": [{"_name": "a", "y": 3}]}}, "'y' of NNI must have a `_type`"),
        ({"x": {"_type": "uniform", "_value": [0, 1]}}, "'x' must take one of some values"),
        ({"x": {"_type": "loguniform", "_value": [1, 2]}}, "write the values to try as a `choice`"),
        ({"x": {"_type": "randint", "_value": [0, 10**9]}}, "up to 10000 integers"),
        ({"x": {"_type": "randint", "_value": [3, 3]}}, "must take one of some values"),
        ({"x": {"_type": "randint", "_value": [3]}}, "must take one of some values"),
        ({"x": {"_type": "randint", "_value": ["a", "b"]}}, "must take one of some values"),
        ({"x": {"_type": "quniform", "_value": [0, 1, 0.1]}}, "must take one of some values"),
        ({"x": {"_type": "quniform", "_value": [0, 10, 0]}}, "must take one of some values"),
        ({"x": {"_type": "quniform", "_value": [0, 7, 2]}}, "must take one of some values"),
    ],
)
def test_what_is_no_space_of_values_is_refused(document: object, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        read_nni_space(document)  # type: ignore[arg-type]
