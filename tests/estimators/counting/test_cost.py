"""Costs of architectures equal those counted on the built network, in batches and one by one, for built-in and user-made spaces."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import estimators.counting.cost
from estimators import METRICS, Cost, CostModel, count
from search_spaces import SPACES, Architecture, Block, Categorical, Integer, Network, SearchSpace, Subset, make_space
from search_spaces.core.network import Local, Shape

OPTIONS: list[tuple[str, Mapping[str, object]]] = [
    *((name, {}) for name in SPACES),
    ("resnet20-pooling", {"operators": ("max", "avg", "conv"), "in_channels": 1, "num_classes": 7, "image_size": 13}),
    ("resnet20-pooling", {"operators": ("conv",), "bn": "affine"}),
    ("resnet18-pooling", {"operators": ("avg", "conv"), "stem": "large", "image_size": 64}),
    ("resnet50-pooling", {"operators": ("max", "conv"), "bn": "affine", "num_classes": 100}),
    ("resnet20-pooling", {"operators": ("conv", "gated", "tree", "ggem", "adapool"), "image_size": 15}),
    ("nas-bench-macro", {"in_channels": 1, "num_classes": 5, "image_size": 13}),
]


class Attention(nn.Module):
    """Pixels look at each other; the queries have `width` channels."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(channels, width)
        self.key = nn.Linear(channels, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        mixed = nn.functional.scaled_dot_product_attention(self.query(tokens), self.key(tokens), tokens)
        return mixed.transpose(1, 2).reshape(x.shape)


def stage(local: Local, shape: Shape) -> nn.Module:
    """None: nothing. Otherwise (width, kernel, step): a strided convolution and a norm, after which the next block sees `width`."""
    if local is None:
        return nn.Identity()
    width, kernel, step = local  # type: ignore[misc]
    return nn.Sequential(
        nn.Conv2d(shape[0], width, kernel, step, padding=kernel // 2), nn.BatchNorm2d(width), nn.ReLU()
    )


def mixer(local: Local, shape: Shape) -> nn.Module:
    return nn.Identity() if local is None else Attention(shape[0], local)  # type: ignore[arg-type]


def head(local: Local, shape: Shape) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(shape[0], 5))


def unshared() -> nn.Module:
    raise NotImplementedError("this space has no supernet")


def elastic_space() -> SearchSpace:
    """Widths, kernels, an optional second stage and an optional attention: 4 x 2 x (1 + 3 x 3) x (1 + 2) architectures."""

    def second(depth: int, width: int | None, *slots: int | None) -> Local:
        return None if depth == 1 else (width, 1 + 2 * slots.index(1), 2)

    return SearchSpace(
        "elastic",
        (
            Integer("width1", (3, 4, 8, 12)),
            Categorical("kernel1", (3, 5)),
            Integer("depth", (1, 2)),
            Integer("width2", (4, 8, 16), when={"depth": (2,)}),
            Subset("kernel2", (1, 3, 5), 1, when={"depth": (2,)}),
            Categorical("mix", ("no", "attention")),
            Integer("queries", (2, 6), when={"mix": ("attention",)}),
        ),
        network=Network(
            (
                Block("first", ("width1", "kernel1"), lambda w, k: (w, k, 1), stage, unshared),
                Block("second", ("depth", "width2", *(f"kernel2[{k}]" for k in (1, 3, 5))), second, stage, unshared),
                Block("mixer", ("mix", "queries"), lambda mix, queries: queries, mixer, unshared),
                Block("head", (), lambda: None, head, unshared),
            ),
            (2, 7, 6),
            5,
        ),
    )


def counted(space: SearchSpace, arch: Architecture) -> Cost:
    return count(space.net.build(space.locals(arch)), space.net.input_shape).total


def rows(batch: Mapping[str, np.ndarray]) -> list[Cost]:
    assert list(batch) == list(METRICS)
    assert {array.dtype for array in batch.values()} == {np.dtype(np.int64)}
    return [Cost(*map(int, row)) for row in zip(*batch.values(), strict=True)]


# --- exact ---


@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=lambda value: str(value))
def test_built_in_spaces_cost_what_their_networks_count(name: str, options: Mapping[str, object]) -> None:
    space = make_space(name, **options)
    rng = np.random.default_rng(0)
    archs = [space.sample(rng) for _ in range(4)]
    model = CostModel(space)
    expected = [counted(space, arch) for arch in archs]
    assert rows(model.batch(space.encode(archs))) == expected
    assert [model.cost(arch) for arch in archs] == expected
    assert [sum(model.blocks(arch), Cost()) for arch in archs] == expected


def test_every_architecture_of_a_space_with_conditions_and_widths() -> None:
    space = elastic_space()
    archs = list(space.enumerate())
    assert len(archs) == 4 * 2 * (1 + 3 * 3) * (1 + 2)
    expected = [counted(space, arch) for arch in archs]
    assert rows(CostModel(space).batch(space.encode(archs))) == expected
    one_by_one = CostModel(space)
    assert [one_by_one.cost(arch) for arch in archs] == expected
    assert len(set(expected)) > 100


@pytest.mark.parametrize(("label", "macs"), [("4-3-3", 40_813_184), ("7-1-2", 91_144_832), ("1-1-8", 18_596_480)])
def test_published_costs_of_resnet20_placements(label: str, macs: int) -> None:
    space = make_space("resnet20-pooling")
    arch = space.parse(label)
    assert CostModel(space).cost(arch).macs == macs
    network = space.net.build(space.locals(arch))
    layers = [part for part in network.modules() if isinstance(part, (nn.Conv2d, nn.Linear))]
    assert sum(parameter.numel() for layer in layers for parameter in layer.parameters()) == 270_906


# --- the same whatever was asked before ---


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(0, 40), single_first=st.booleans())
def test_what_was_asked_before_changes_nothing(seed: int, size: int, single_first: bool) -> None:
    space, rng = ELASTIC, np.random.default_rng(seed)
    model = CostModel(space)
    archs = [space.sample(rng) for _ in range(size)]
    if single_first:
        one_by_one = [model.cost(arch) for arch in archs]
    batch = rows(model.batch(space.encode(archs)))
    assert batch == [model.cost(arch) for arch in archs] == [REFERENCE.cost(arch) for arch in archs]
    assert not single_first or batch == one_by_one


ELASTIC = elastic_space()
REFERENCE = CostModel(ELASTIC)


def test_large_batches_are_worked_off_in_pieces() -> None:
    space, rng = ELASTIC, np.random.default_rng(0)
    archs = [space.sample(rng) for _ in range(50)]
    picked = rng.integers(len(archs), size=2 * estimators.counting.cost.CHUNK + 7)
    few = CostModel(space).batch(space.encode(archs))
    many = CostModel(space).batch(space.encode(archs)[picked].astype(np.int8))
    for name in METRICS:
        assert np.array_equal(many[name], few[name][picked])


def test_blocks_too_wide_for_a_table_cost_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = ELASTIC.encode(list(ELASTIC.enumerate()))
    expected = REFERENCE.batch(codes)
    monkeypatch.setattr(estimators.counting.cost, "LARGEST_TABLE", 1)
    found = CostModel(ELASTIC).batch(codes)
    assert all(np.array_equal(found[name], expected[name]) for name in METRICS)


def test_each_kind_of_block_is_counted_once_per_local_choice_and_input_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    space, seen = elastic_space(), []
    estimators.counting.cost._counted.cache_clear()

    def noted(module: nn.Module, shape: Shape) -> object:
        assert all(parameter.is_meta for parameter in module.parameters())
        seen.append(shape)
        return count(module, shape)

    monkeypatch.setattr(estimators.counting.cost, "count", noted)
    archs = list(space.enumerate())
    expected = {
        (block.alone, local, shape)
        for arch in archs
        for block, local, shape in zip(
            space.net.blocks, space.locals(arch), space.net.input_shapes(space.locals(arch)), strict=True
        )
    }
    model = CostModel(space)
    model.batch(space.encode(archs))
    for arch in archs:
        model.cost(arch)
    CostModel(space).batch(space.encode(archs))
    assert len(seen) == len(expected)


def test_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    space = elastic_space()
    CostModel(space).batch(space.encode(list(space.enumerate())[:20]))
    assert torch.equal(before, torch.get_rng_state())


# --- bad input ---


def test_bad_codes_are_explained() -> None:
    model, codes = CostModel(ELASTIC), ELASTIC.encode(list(ELASTIC.enumerate())[:3])
    with pytest.raises(
        ValueError, match=r"integers of shape \(n, 9\), got int32 of shape \(9,\); use `encode` of 'elastic'"
    ):
        model.batch(codes[0])
    with pytest.raises(ValueError, match="got float64"):
        model.batch(codes.astype(float))
    for wrong in (-2, 4):
        codes[1, 0] = wrong
        with pytest.raises(ValueError, match=rf"column 'width1' must be -1 \(absent\) to 3, got {wrong}"):
            model.batch(codes)


def test_other_spaces_are_refused() -> None:
    arch = make_space("resnet18-pooling").sample(np.random.default_rng(0))
    with pytest.raises(ValueError, match="'resnet20-pooling', got one of 'resnet18-pooling'"):
        CostModel(make_space("resnet20-pooling")).cost(arch)
    with pytest.raises(ValueError, match="describes no network"):
        CostModel(SearchSpace("plain", (Integer("a", (1, 2)),)))


def test_a_block_that_reads_too_much_is_refused() -> None:
    names = [f"c{number}" for number in range(40)]
    block = Block("all", tuple(names), lambda *values: values, head, unshared)
    space = SearchSpace("wide", tuple(Integer(name, (1, 2)) for name in names), network=Network((block,), (2, 4, 4), 5))
    with pytest.raises(
        ValueError, match=r"at most 2\*\*48 combinations, got \d+ for block 'all' with 40 columns; split"
    ):
        CostModel(space)
