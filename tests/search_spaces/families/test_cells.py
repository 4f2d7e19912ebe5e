"""NAS-Bench-201: equal cells are one architecture, labels are the published ones, and subnets are slices to the last bit."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from estimators import METRICS, Cost, CostModel, Profile, count
from search_spaces import Architecture, SearchSpace, Supernet, make_space
from search_spaces.families.cells import EDGES, KERNELS, NAMES, OPERATIONS, Cell, convolutions
from tests.conformance import check_enumeration, check_variation

SIDE = 4
POOL = np.random.default_rng(1).normal(size=(SIDE, SIDE))
INPUT = np.random.default_rng(2).normal(size=SIDE)
MATRICES = np.random.default_rng(3).normal(size=(2, len(EDGES), SIDE, SIDE))

Operations = tuple[str, ...]


def _small(**options: object) -> SearchSpace:
    return make_space("nas-bench-201", **{"image_size": 8, "channels": 4, "cells": 1, **options})


def _operations(arch: Architecture) -> Operations:
    return tuple(str(arch[name]) for name in NAMES)


def _arch(space: SearchSpace, operations: Operations) -> Architecture:
    return space.architecture(dict(zip(NAMES, operations, strict=True)))


def _random(rng: np.random.Generator) -> Operations:
    return tuple(OPERATIONS[at] for at in rng.integers(len(OPERATIONS), size=len(EDGES)))


# --- equal cells, by a second way: numbers in place of feature maps, and every matching of convolutions tried ---


def _output(operations: Operations, matrix_of: dict[int, np.ndarray]) -> np.ndarray:
    """A cell of vectors: a convolution is tanh(matrix · x), the average a fixed matrix; a node nothing reaches is left out."""
    nodes: list[np.ndarray | None] = [INPUT, None, None, None]
    for at, ((source, target), operation) in enumerate(zip(EDGES, operations, strict=True)):
        value, before = nodes[source], nodes[target]
        if operation == "none" or value is None:
            continue
        if operation in KERNELS:
            value = np.tanh(matrix_of[at] @ value)
        elif operation == "avg_pool_3x3":
            value = POOL @ value
        nodes[target] = value if before is None else before + value
    return np.zeros(SIDE) if nodes[3] is None else nodes[3]


def _edges_in_use(operations: Operations) -> list[int]:
    """Edges with a convolution that the output depends on, found by changing its weights."""
    convs = [at for at, operation in enumerate(operations) if operation in KERNELS]
    matrices = {at: MATRICES[0, at] for at in convs}
    plain = _output(operations, matrices)
    return [at for at in convs if not np.allclose(_output(operations, {**matrices, at: MATRICES[1, at]}), plain)]


def _same_function(a: Operations, b: Operations) -> bool:
    ours, theirs = _edges_in_use(a), _edges_in_use(b)
    if Counter(a[at] for at in ours) != Counter(b[at] for at in theirs):
        return False
    rest = {at: MATRICES[1, at] for at in range(len(EDGES))}
    expected = _output(a, {**rest, **{at: MATRICES[0, at] for at in ours}})
    return any(
        all(a[x] == b[y] for x, y in zip(ours, order, strict=True))
        and np.allclose(
            _output(b, {**rest, **{y: MATRICES[0, x] for x, y in zip(ours, order, strict=True)}}), expected, rtol=1e-9
        )
        for order in itertools.permutations(theirs)
    )


def test_the_canonical_cell_is_the_same_function() -> None:
    space, rng = make_space("nas-bench-201"), np.random.default_rng(0)
    for _ in range(400):
        raw = _random(rng)
        assert _same_function(raw, _operations(_arch(space, raw))), raw


def test_different_architectures_are_different_functions() -> None:
    """Checked where it is hardest: one edge apart, or the same operations elsewhere."""
    space, rng = make_space("nas-bench-201"), np.random.default_rng(0)
    compared = 0
    while compared < 400:
        a = space.sample(rng)
        b = space.mutate(a, rng) if compared % 2 else _arch(space, tuple(rng.permutation(_operations(a)).tolist()))
        if a != b:
            assert not _same_function(_operations(a), _operations(b)), (a, b)
            compared += 1


def _cell(letters: str) -> Architecture:
    """The architecture of a letter for each edge, n none, s skip, 1 and 3 convolutions, p average; edges 01 02 12 03 13 23."""
    operations = dict(zip("ns13p", OPERATIONS, strict=True))
    return _arch(make_space("nas-bench-201"), tuple(operations[letter] for letter in letters))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("333nnn", "nnnnnn"),  # nothing reaches the output
        ("nn3s1n", "nnnsnn"),  # nothing reaches node 1
        ("3nnsnn", "nnnsnn"),  # node 1 leads nowhere
        ("snnn3n", "nnn3nn"),  # a skip passes the input on
        ("3nnn1n", "n3nnn1"),  # nodes 1 and 2 change places
        ("33nnss", "3nn3sn"),  # a sum in node 3 or on the way there
        ("3ssnnp", "3nnppn"),  # an average of a sum, a sum of averages
    ],
)
def test_cells_that_are_one_architecture(one: str, other: str) -> None:
    assert _cell(one) == _cell(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("3nsnss", "33nnss"),  # one convolution twice, two convolutions of the same input
        ("snnssn", "nnnsnn"),  # the input twice, the input once
        ("nnn3nn", "nnn1nn"),
        ("3nnnpn", "pnnn3n"),  # an average after a convolution, before it
        ("nnnnnn", "nnnsnn"),
    ],
)
def test_cells_that_differ(one: str, other: str) -> None:
    assert _cell(one) != _cell(other)


def test_canonical_cells_have_no_dead_edge() -> None:
    archs = [_operations(arch) for arch in make_space("nas-bench-201").enumerate()]
    for operations in archs:
        live = {edge for edge, operation in zip(EDGES, operations, strict=True) if operation != "none"}
        for source, target in live:
            assert source == 0 or any(end == source for _, end in live)
            assert target == 3 or any(start == target for start, _ in live)


# --- the contract of spaces ---


def test_the_space_keeps_the_contract_of_spaces() -> None:
    space, rng = make_space("nas-bench-201"), np.random.default_rng(0)
    assert space.raw_size == 15_625 and space.size == 5_044
    check_enumeration(space)
    check_variation(space, rng)
    archs = [space.sample(rng) for _ in range(200)]
    assert space.decode(space.encode(archs)) == archs
    for arch in archs:
        assert space.parse(space.label(arch)) == space.parse(arch.key) == space.from_json(arch.to_json()) == arch


def test_labels_are_those_of_the_published_table() -> None:
    space = make_space("nas-bench-201")
    label = "|nor_conv_3x3~0|+|nor_conv_1x1~0|avg_pool_3x3~1|+|skip_connect~0|none~1|nor_conv_3x3~2|"
    arch = space.parse(label)
    assert space.label(arch) == label
    assert [arch[name] for name in ("edge01", "edge12", "edge23")] == ["nor_conv_3x3", "avg_pool_3x3", "nor_conv_3x3"]


@pytest.mark.parametrize(("one", "macs", "params"), [("nnnnnn", 7_783_040, 73_306), ("333333", 220_119_680, 1_531_546)])
def test_costs_of_the_smallest_and_the_largest_network(one: str, macs: int, params: int) -> None:
    """The published counts, 7.78305 and 220.11969 million, add one for each of the classifier's ten biases."""
    space, arch = make_space("nas-bench-201"), _cell(one)
    cost = CostModel(space).cost(arch)
    assert (cost.macs, cost.params) == (macs, params)
    assert cost == count(space.net.build(space.locals(arch)), (3, 32, 32)).total
    stage = 5 * 6 * 9 * 16 * 16 * 32 * 32  # cells, edges, taps, channels in and out, pixels: the same in every stage
    assert macs - 7_783_040 == (3 * stage if one == "333333" else 0)


# --- networks ---


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6), side=st.integers(4, 11), channels=st.integers(1, 5), cells=st.integers(1, 2))
def test_every_subnet_is_a_slice(seed: int, side: int, channels: int, cells: int) -> None:
    """In evaluation and training, the subnet gives the supernet's bits and changes its statistics alike."""
    space = _small(image_size=side, channels=channels, cells=cells, num_classes=3)
    supernet, rng = Supernet(space.net, seed=seed), np.random.default_rng(seed)
    images = torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        supernet.train()(images, space.locals(space.sample(rng)))
    arch = space.sample(rng)
    for training in (False, True):
        supernet.train(training)
        subnet = supernet.extract(space.locals(arch))
        assert subnet.training == training
        expected = supernet(images, space.locals(arch))
        assert torch.equal(subnet(images), expected) and expected.shape == (3, 3)
        ours = {name.replace(".body", "", 1): tensor for name, tensor in supernet.blocks.state_dict().items()}
        assert all(torch.equal(tensor, ours[name]) for name, tensor in subnet.state_dict().items())
    alone = space.net.build(space.locals(arch))
    assert {name: t.shape for name, t in alone.state_dict().items()} == {
        n: t.shape for n, t in subnet.state_dict().items()
    }


def test_training_a_subnet_leaves_the_other_weights_alone() -> None:
    space = _small()
    supernet = Supernet(space.net)
    arch = _arch(space, ("nor_conv_3x3", "none", "none", "skip_connect", "nor_conv_1x1", "none"))
    supernet(torch.randn(2, 3, 8, 8), space.locals(arch)).sum().backward()
    touched = {name for name, parameter in supernet.named_parameters() if parameter.grad is not None}
    assert {name.split(".")[4] for name in touched if "cell" in name} == {"nor_conv_3x3_02", "nor_conv_1x1_23"}


def test_a_cell_adds_up_its_edges() -> None:
    x = torch.randn(2, 4, 6, 6)
    cell = Cell(4, ("skip_connect", "none", "avg_pool_3x3", "nor_conv_1x1", "skip_connect", "skip_connect")).eval()
    average = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(x, (1,) * 4), 3, 1) * 9
    taps = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(torch.ones_like(x), (1,) * 4), 3, 1) * 9
    torch.testing.assert_close(cell(x), cell.convs["nor_conv_1x1_03"](x) + x + average / taps)
    assert torch.equal(Cell(4, ("none",) * 6)(x), torch.zeros_like(x))


# --- bad input ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cells": 0}, "`cells` must be an integer of at least 1; got 0"),
        ({"channels": 1.5}, "`channels` must be an integer of at least 1; got 1.5"),
        ({"num_classes": 1}, "`num_classes` must be an integer of at least 2; got 1"),
        ({"image_size": 3}, "`image_size` must be at least 4 for 2 poolings, got 3"),
    ],
)
def test_options_that_are_not_allowed_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        make_space("nas-bench-201", **options)
    assert message in str(caught.value)


@pytest.mark.parametrize("label", ["", "|none~0|", "|none~0|+|none~0|none~1|+|none~0|none~2|none~1|", "nothing"])
def test_labels_that_name_no_cell_are_refused(label: str) -> None:
    with pytest.raises(ValueError, match="a label must list operation~source node by node, as in"):
        make_space("nas-bench-201").parse(label)
    with pytest.raises(ValueError, match="choice 'edge01' must be one of 'none'"):
        make_space("nas-bench-201").parse("|pool~0|+|none~0|none~1|+|none~0|none~1|none~2|")


@pytest.mark.parametrize("seed", range(2))
def test_cells_that_are_alike_are_counted_once_and_cost_what_each_counts(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    space, rng = _small(channels=4 + seed), np.random.default_rng(seed)
    codes = rng.integers(len(OPERATIONS), size=(150, len(EDGES)))
    counted: list[nn.Module] = []

    def counting(module: nn.Module, shape: tuple[int, ...]) -> Profile:
        counted.append(module)
        return count(module, shape)

    monkeypatch.setattr("estimators.counting.cost.count", counting)
    costs = CostModel(space).batch(codes)
    kinds = {convolutions(tuple(OPERATIONS[at] for at in row)) for row in codes}
    assert len(counted) <= 3 * len(kinds) + 4 < 3 * len(codes)
    for row in rng.permutation(150)[:6]:
        operations = tuple(OPERATIONS[at] for at in codes[row])
        locals = space.net.locals(dict(zip(NAMES, operations, strict=True)))
        found = Cost(*(int(costs[metric][row]) for metric in METRICS))
        assert found == count(space.net.build(locals), space.net.input_shape).total
