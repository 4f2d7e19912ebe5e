"""The language of choices, against a walk over every description."""

from __future__ import annotations

import itertools
import json
import pickle
from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces import (
    Architecture,
    Categorical,
    Choice,
    Constraint,
    Integer,
    Labels,
    SearchSpace,
    Subset,
    make_space,
)
from tests.conformance import check_space

KERNELS = SearchSpace(
    "kernels",
    (
        Categorical("op", ("conv", "pool")),
        Integer("kernel", (3, 5, 7), when={"op": ("conv",)}),
        Subset("taps", ("a", "b", "c"), 2),
    ),
)


def _values(choice: Choice) -> list[object]:
    if isinstance(choice, Subset):
        return list(itertools.combinations(choice.items, choice.taken))
    return list(choice.values)  # type: ignore[attr-defined]


def _described(choices: tuple[Choice, ...]) -> list[dict[str, object]]:
    """Every description that keeps the conditions, in the order of the choices' values."""
    found: list[dict[str, object]] = [{}]
    for choice in choices:
        longer = []
        for values in found:
            exists = all(parent in values and values[parent] in allowed for parent, allowed in choice.when.items())
            longer += [{**values, choice.name: value} for value in _values(choice)] if exists else [values]
        found = longer
    return found


@st.composite
def choices(draw: st.DrawFn) -> tuple[Choice, ...]:
    """One to four choices of any kind, some under conditions on earlier ones."""
    made: list[Choice] = []
    for name in draw(st.lists(st.sampled_from("uvwxyz"), min_size=1, max_size=4, unique=True)):
        when = {}
        for parent in draw(st.lists(st.sampled_from(made), max_size=2, unique_by=id)) if made else []:
            allowed = draw(st.lists(st.sampled_from(_values(parent)), min_size=1, max_size=3, unique=True))
            when[parent.name] = tuple(allowed)
        size = draw(st.integers(1, 4))
        kind = draw(st.sampled_from("cis"))
        if kind == "c":
            made.append(Categorical(name, draw(st.permutations(("a", 1, "1", 2)))[:size], when))
        elif kind == "i":
            made.append(Integer(name, (1, 3, 4, 8)[:size], when))
        else:
            made.append(Subset(name, (3, "b", 1, 2)[:size], draw(st.integers(0, size)), when))
    return tuple(made)


def _frozen(values: Mapping[str, object]) -> frozenset[object]:
    return frozenset(values.items())


@st.composite
def spaces(draw: st.DrawFn) -> tuple[SearchSpace, list[dict[str, object]]]:
    """A space and its canonical descriptions: some descriptions forbidden, the others folded together at random."""
    made = draw(choices())
    described = _described(made)
    classes = draw(st.one_of(st.none(), st.integers(1, 12)))
    forbidden = draw(st.one_of(st.none(), st.sets(st.sampled_from(range(len(described))), max_size=len(described) - 1)))
    valid = [values for at, values in enumerate(described) if at not in (forbidden or ())]
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    groups = range(len(valid)) if classes is None else random.integers(classes, size=len(valid)).tolist()
    stands: dict[int, dict[str, object]] = {}
    for group, values in zip(groups, valid, strict=True):
        stands.setdefault(group, values)
    folded = {_frozen(values): stands[group] for group, values in zip(groups, valid, strict=True)}
    space = SearchSpace(
        "random",
        made,
        () if forbidden is None else (Constraint("it is allowed", lambda values: _frozen(values) in folded),),
        None if classes is None else lambda values: dict(folded[_frozen(values)]),  # type: ignore[return-value]
    )
    return space, list(stands.values())


@given(spaces())
@settings(max_examples=25, deadline=None)
def test_random_spaces_agree_with_a_walk_over_all_descriptions(
    drawn: tuple[SearchSpace, list[dict[str, object]]],
) -> None:
    space, canonical = drawn
    assert [dict(arch) for arch in space.enumerate()] == canonical
    assert space.raw_size == len(_described(space.choices))
    assert space.size == len(canonical)
    check_space(space)


@given(spaces())
@settings(max_examples=60, deadline=None)
def test_every_description_is_brought_to_its_canonical_form_or_refused(
    drawn: tuple[SearchSpace, list[dict[str, object]]],
) -> None:
    space, canonical = drawn
    for values in _described(space.choices):
        if all(constraint.holds(values) for constraint in space.constraints):  # type: ignore[arg-type]
            assert dict(space.architecture(values)) in canonical
        else:
            with pytest.raises(ValueError, match="must keep the rule: it is allowed; got"):
                space.architecture(values)


def test_conditions_reach_through_choices_that_do_not_exist() -> None:
    space = SearchSpace(
        "chain",
        (
            Categorical("a", ("x", "y")),
            Categorical("b", ("x", "y"), when={"a": ("x",)}),
            Categorical("c", (1, 2, 3), when={"b": ("x",)}),
        ),
    )
    assert space.size == 3 + 1 + 1
    assert [arch.key for arch in space.enumerate()][3:] == ['{"a":"x","b":"y"}', '{"a":"y"}']


def test_sizes_and_samples_of_huge_spaces() -> None:
    bits = SearchSpace("bits", tuple(Categorical(f"b{at}", (0, 1)) for at in range(100)))
    assert bits.size == bits.raw_size == 2**100
    codes = bits.encode([bits.sample(np.random.default_rng(seed)) for seed in range(400)])
    assert abs(codes.mean(axis=0) - 0.5).max() < 0.12  # sd 0.025
    many = SearchSpace(
        "many",
        tuple(Integer(f"d{at}", (1, 2, 3), when={f"d{at - 1}": (2, 3)} if at % 5 else {}) for at in range(1500)),
    )
    # a run of five: s(n) = 1 + 2 s(n-1), s(1) = 3
    assert many.size == 63**300
    rng = np.random.default_rng(0)
    arch = many.sample(rng)
    child = many.mutate(arch, rng, edits=3)
    assert arch != child and many.decode(many.encode([arch, child])) == [arch, child]
    assert many.crossover(arch, child, rng)
    plain = SearchSpace("plain", tuple(Integer(f"d{at}", (1, 2, 3)) for at in range(3000)))
    assert plain.size == 3**3000 and plain.sample(rng)


def test_counting_a_space_that_is_too_large_says_what_to_use() -> None:
    space = SearchSpace("bits", tuple(Categorical(f"b{at}", (0, 1)) for at in range(40)), canonical=lambda v: v)
    with pytest.raises(ValueError, match=r"`size` of 'bits' needs a walk over 1099511627776 .*use `raw_size`"):
        space.size  # noqa: B018


def test_sampling_a_space_without_architectures_names_the_rules() -> None:
    space = SearchSpace("none", KERNELS.choices, (Constraint("nothing is allowed", lambda values: False),))
    assert space.size == 0
    with pytest.raises(ValueError, match=r"samples of 'none' kept its constraints \(nothing is allowed\); loosen"):
        space.sample(np.random.default_rng(0))


# --- one architecture ---


def test_architectures_are_immutable_mappings_with_a_stable_key() -> None:
    arch = KERNELS.architecture({"taps": ["c", "a"], "kernel": 5, "op": "conv"})
    assert dict(arch) == {"op": "conv", "kernel": 5, "taps": ("a", "c")}
    assert list(arch) == ["op", "kernel", "taps"] and len(arch) == 3 and "kernel" in arch and "kern" not in arch
    assert arch.key == '{"op":"conv","kernel":5,"taps":["a","c"]}'
    assert arch.to_json() == {"space": "kernels", "choices": {"op": "conv", "kernel": 5, "taps": ["a", "c"]}}
    assert repr(arch) == f"Architecture(kernels, {arch.key})"
    with pytest.raises(AttributeError):
        arch.space = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        arch["op"] = "pool"  # type: ignore[index]
    copy = pickle.loads(pickle.dumps(arch))
    assert copy == arch and hash(copy) == hash(arch) and copy["kernel"] == 5
    assert arch != KERNELS.architecture({"op": "pool", "taps": ["a", "c"]})
    assert arch != dict(arch) and arch != Architecture("other", arch.items_)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"op": "skip", "taps": "ab"}, "choice 'op' must be one of 'conv', 'pool'; got 'skip'"),
        ({"op": "conv", "kernel": 4, "taps": ["a", "b"]}, "choice 'kernel' must be one of 3, 5, 7; got 4"),
        ({"op": "conv", "kernel": "3", "taps": ["a", "b"]}, "choice 'kernel' must be one of 3, 5, 7; got '3'"),
        ({"op": "conv", "kernel": 3.0, "taps": ["a", "b"]}, "choice 'kernel' must be one of 3, 5, 7; got 3.0"),
        ({"op": "conv", "taps": ["a", "b"]}, "choice 'kernel' of 'kernels' is missing; allowed: one of 3, 5, 7"),
        ({"op": "pool", "taps": "ab"}, "choice 'taps' must be 2 different items of 'a', 'b', 'c'; got 'ab'"),
        ({"op": "pool", "taps": ["a"]}, "choice 'taps' must be 2 different items of 'a', 'b', 'c'; got ['a']"),
        ({"op": "pool", "taps": ["a", "a"]}, "choice 'taps' must be 2 different items of 'a', 'b', 'c'"),
        ({"op": "pool", "taps": ["a", "d"]}, "choice 'taps' must be 2 different items of 'a', 'b', 'c'"),
        ({"op": "pool", "taps": [["a"], "d"]}, "choice 'taps' must be 2 different items of 'a', 'b', 'c'"),
        ({"op": "pool", "kernel": 3, "taps": ["a", "b"]}, "'kernel' of 'kernels' exists only when op is 'conv'; leave"),
        ({"op": "pool", "tap": ["a", "b"]}, "no choice of 'kernels' is named 'tap'; did you mean taps?"),
        ({"op": "pool", "taps": ["a", "b"], "z": 1}, "no choice of 'kernels' is named 'z'; known: op, kernel, taps"),
    ],
)
def test_errors_name_the_choice_and_what_is_allowed(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        KERNELS.architecture(values)
    assert message in str(caught.value)


def test_a_choice_that_does_not_exist_may_be_none() -> None:
    assert dict(KERNELS.architecture({"op": "pool", "kernel": None, "taps": ("a", "b")})) == {
        "op": "pool",
        "taps": ("a", "b"),
    }


def test_long_lists_of_allowed_values_are_cut() -> None:
    space = SearchSpace("long", (Integer("width", tuple(range(100))),))
    with pytest.raises(ValueError, match=r"'width' must be one of 0, 1, .*, 11, … \(100 in all\); got -1"):
        space.architecture({"width": -1})


def test_reading_json_refuses_what_is_no_architecture_of_the_space() -> None:
    arch = KERNELS.architecture({"op": "pool", "taps": ["a", "b"]})
    assert KERNELS.from_json(dict(arch)) == KERNELS.from_json(json.loads(arch.key)) == arch
    for data, message in (
        ([1], "must be a JSON object of a value per choice, got [1]"),
        ({"space": "kernels", "choices": [1]}, "must be a JSON object of a value per choice, got [1]"),
        ({"space": "other", "choices": dict(arch)}, "expected an architecture of 'kernels', got one of 'other'"),
    ):
        with pytest.raises(ValueError) as caught:
            KERNELS.from_json(data)
        assert message in str(caught.value)
    with pytest.raises(ValueError, match=r"must be valid JSON, got '\{oops'"):
        KERNELS.parse("{oops")
    with pytest.raises(ValueError, match="must be a JSON object of its choices, got 'conv'"):
        KERNELS.parse("conv")


def test_labels_are_read_and_written() -> None:
    labels = Labels(lambda v: f"x{v['x']}", lambda text: {"x": int(text[1:])})
    space = SearchSpace("line", (Integer("x", (1, 2)),), labels=labels)
    arch = space.parse("x2")
    assert arch["x"] == 2 and space.label(arch) == "x2" and space.parse(' {"x": 2}') == arch
    assert KERNELS.label(KERNELS.parse('{"op":"pool","taps":["b","a"]}')) == '{"op":"pool","taps":["a","b"]}'


def test_check_refuses_strangers_and_other_forms() -> None:
    space = SearchSpace("fold", (Integer("x", (1, 2)),), canonical=lambda values: {"x": 1})
    space.check(space.architecture({"x": 2}))
    with pytest.raises(ValueError, match="is not in canonical form"):
        space.check(Architecture("fold", (("x", 2),)))
    with pytest.raises(ValueError, match="expected an architecture of 'fold', got one of 'kernels'"):
        space.check(KERNELS.architecture({"op": "pool", "taps": ["a", "b"]}))


# --- definitions ---


@pytest.mark.parametrize(
    ("define", "message"),
    [
        (lambda: Categorical("op", ()), "choice 'op' needs at least one value and no value twice, got []"),
        (lambda: Categorical("op", ("a", "a")), "choice 'op' needs at least one value and no value twice"),
        (lambda: Categorical("op", ("a", None)), "values of choice 'op' must be integers or strings, got None"),
        (lambda: Categorical("op", ((1, 2),)), "values of choice 'op' must be integers or strings, got (1, 2)"),
        (lambda: Integer("w", (2, 1)), "choice 'w' needs integers in rising order, got [2, 1]"),
        (lambda: Integer("w", ("1", "2")), "choice 'w' needs integers in rising order, got ['1', '2']"),
        (lambda: Subset("s", (1, 2), 3), "choice 's' can take 0 to 2 items, got taken=3"),
        (lambda: Integer("w", (1, 2), kind="widht"), "no kind of choice is named 'widht'; did you mean width?"),
        (lambda: SearchSpace("d", (Integer("w", (1,)), Integer("w", (2,)))), "'d' has two choices named 'w'; rename"),
        (
            lambda: SearchSpace("d", (Integer("w", (1,), when={"op": ("a",)}), Categorical("op", ("a",)))),
            "choice 'w' depends on 'op', which must be an earlier choice of 'd'",
        ),
        (
            lambda: SearchSpace("d", (Categorical("op", ("a",)), Integer("w", (1,), when={"op": ("b",)}))),
            "choice 'op' must be one of 'a'; got 'b'",
        ),
        (
            lambda: SearchSpace("d", (Subset("s", (1, 2, 3), 2), Integer("w", (1,), when={"s": ((2, 1),)}))),
            "the condition of choice 'w' must name (1, 2) as choice 's' writes it, got (2, 1)",
        ),
    ],
)
def test_definitions_that_make_no_sense_are_refused(define: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        define()
    assert message in str(caught.value)


def test_fingerprints_tell_definitions_apart() -> None:
    def make(**changes: object) -> str:
        parts: dict[str, object] = {"name": "s", "choices": (Integer("w", (1, 2)),), **changes}
        return SearchSpace(**parts).fingerprint  # type: ignore[arg-type]

    rule = (Constraint("w is odd", lambda values: True),)
    changed = [
        make(),
        make(name="t"),
        make(choices=(Integer("w", (1, 3)),)),
        make(choices=(Categorical("w", (1, 2)),)),
        make(options={"classes": 10}),
        make(constraints=rule),
    ]
    assert len(set(changed)) == 6 and make() == changed[0] and len(make()) == 12


def test_a_space_without_a_network_says_so() -> None:
    with pytest.raises(ValueError, match="'kernels' describes no network, so it can be searched but not built"):
        KERNELS.locals(KERNELS.sample(np.random.default_rng(0)))


# --- arrays ---


def test_encoding_by_hand() -> None:
    assert [column.name for column in KERNELS.columns] == ["op", "kernel", "taps[a]", "taps[b]", "taps[c]"]
    archs = [
        KERNELS.architecture({"op": "conv", "kernel": 7, "taps": ["a", "c"]}),
        KERNELS.architecture({"op": "pool", "taps": ["b", "c"]}),
    ]
    codes = KERNELS.encode(archs)
    assert codes.tolist() == [[0, 2, 1, 0, 1], [1, -1, 0, 1, 1]] and codes.dtype == np.int32
    assert KERNELS.column_values(archs[1]) == {"op": "pool", "kernel": None, "taps[a]": 0, "taps[b]": 1, "taps[c]": 1}
    assert KERNELS.encode([]).shape == (0, 5) and KERNELS.decode(KERNELS.encode([])) == []


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([0, 3, 1, 0, 1], "column 'kernel' of 'kernels' run from 0 to 2, or are -1 .* got 3 in row 0"),
        ([-2, 0, 1, 1, 0], "column 'op' of 'kernels' run from 0 to 1, .* got -2 in row 0"),
        ([0, -1, 1, 0, 1], "choice 'kernel' of 'kernels' is missing"),
        ([1, 0, 1, 0, 1], "choice 'kernel' of 'kernels' exists only when op is 'conv'"),
        ([1, -1, 1, 1, 1], "choice 'taps' must be 2 different items"),
        ([0, 0], r"must have shape \(n, 5\), got \(1, 2\)"),
    ],
)
def test_codes_of_no_architecture_are_refused(row: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KERNELS.decode(np.array([row]))


# --- variation ---


def test_a_mutation_is_one_small_step() -> None:
    rng = np.random.default_rng(0)
    arch = KERNELS.architecture({"op": "conv", "kernel": 3, "taps": ["a", "b"]})
    steps = Counter(KERNELS.mutate(arch, rng).key for _ in range(600))
    assert set(steps) == {
        '{"op":"pool","taps":["a","b"]}',
        '{"op":"conv","kernel":5,"taps":["a","b"]}',
        '{"op":"conv","kernel":3,"taps":["a","c"]}',
        '{"op":"conv","kernel":3,"taps":["b","c"]}',
    }
    assert min(steps.values()) > 60
    born = {
        KERNELS.mutate(KERNELS.architecture({"op": "pool", "taps": ["a", "b"]}), rng).get("kernel") for _ in range(99)
    }
    assert born == {None, 3, 5, 7}
    wide = SearchSpace("wide", tuple(Categorical(f"c{at}", tuple(range(5))) for at in range(8)))
    a = wide.sample(rng)
    for edits in (1, 3, 8, 20):
        child = wide.mutate(a, rng, edits)
        assert sum(child[name] != a[name] for name in a) == min(edits, 8)


def test_mutation_crosses_gaps_and_stays_put_only_where_nothing_else_is() -> None:
    rng = np.random.default_rng(0)
    gaps = SearchSpace(
        "gaps", (Integer("x", tuple(range(50))),), (Constraint("x is 0, 20 or 40", lambda v: v["x"] % 20 == 0),)
    )
    arch = gaps.architecture({"x": 20})
    assert {gaps.mutate(arch, rng)["x"] for _ in range(20)} == {0, 40}
    pair = SearchSpace(
        "pair", tuple(Categorical(n, (0, 1)) for n in "ab"), (Constraint("a equals b", lambda v: v["a"] == v["b"]),)
    )
    assert dict(pair.mutate(pair.architecture({"a": 0, "b": 0}), rng)) == {"a": 1, "b": 1}
    alone = SearchSpace("alone", pair.choices, (Constraint("both are 1", lambda v: v["a"] == v["b"] == 1),))
    assert alone.mutate(alone.sample(rng), rng) == alone.sample(rng)
    with pytest.raises(ValueError, match="expected an architecture of 'alone'"):
        alone.mutate(arch, rng)


def test_crossover_takes_every_choice_from_a_parent() -> None:
    rng = np.random.default_rng(0)
    space = SearchSpace(
        "s", (*(Integer(f"w{at}", tuple(range(9))) for at in range(6)), Subset("t", tuple(range(9)), 4))
    )
    mixed = 0
    for _ in range(50):
        a, b = space.sample(rng), space.sample(rng)
        child = space.crossover(a, b, rng)
        assert all(child[f"w{at}"] in (a[f"w{at}"], b[f"w{at}"]) for at in range(6))
        taken, ours, theirs = (set(arch["t"]) for arch in (child, a, b))  # type: ignore[arg-type]
        assert ours & theirs <= taken <= ours | theirs
        mixed += taken not in (ours, theirs)
    assert mixed > 20
    forced = SearchSpace("f", space.choices, (Constraint("w0 + w1 is 8", lambda v: v["w0"] + v["w1"] == 8),))  # type: ignore[operator]
    a = forced.architecture({**dict(space.sample(rng)), "w0": 8, "w1": 0})
    b = forced.architecture({**dict(space.sample(rng)), "w0": 1, "w1": 7})
    assert {forced.crossover(a, b, rng)["w0"] for _ in range(30)} == {1, 8}


def test_a_child_of_parents_with_different_choices_has_what_its_own_values_call_for() -> None:
    rng = np.random.default_rng(0)
    a = KERNELS.architecture({"op": "conv", "kernel": 7, "taps": ["a", "b"]})
    b = KERNELS.architecture({"op": "pool", "taps": ["a", "b"]})
    assert {KERNELS.crossover(a, b, rng) for _ in range(30)} == {a, b}


# --- built-in spaces by name ---


def test_unknown_spaces_and_options_are_named_with_what_there_is() -> None:
    with pytest.raises(ValueError, match="no search space is named 'resnet20'; did you mean resnet20-pooling"):
        make_space("resnet20")
    with pytest.raises(ValueError, match=r"'vit'.* known: resnet20-pooling, resnet18-pooling, resnet50-pooling"):
        make_space("vit")
    with pytest.raises(
        ValueError,
        match=r"no option of search space 'resnet20-pooling' is named 'classes'; did you mean num_classes.* known: "
        "in_channels, num_classes, image_size, operators, bn, stem",
    ):
        make_space("resnet20-pooling", classes=3)
    for option in ("depth", "name", "func"):
        with pytest.raises(ValueError, match=f"no option of search space 'resnet20-pooling' is named '{option}'"):
            make_space("resnet20-pooling", **{option: 20})
