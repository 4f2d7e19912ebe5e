"""Pooling placements: the published spaces, and subnets that are slices of their supernet to the last bit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from estimators import CostModel, count
from search_spaces import Architecture, SearchSpace, Supernet, make_space, pooling_space
from search_spaces.families.resnet import ALONE_NORMS, ResidualBlock, SharedResidualBlock, Weights
from search_spaces.pooling import POOLINGS
from tests.conformance import check_space

LAYERS = {20: 10, 18: 9, 50: 17}


def _images(space: SearchSpace, n: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(n, *space.net.input_shape, generator=torch.Generator().manual_seed(seed))


def _state(module: nn.Module) -> Mapping[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def _name_in_subnet(name: str) -> str:
    """`block3.body.convs...` is `block3.convs...`, and `block3.poolings.gated.gate` is `block3.pooling.gate`."""
    return re.sub(r"\.poolings\.\w+", ".pooling", name.replace(".body", "", 1))


def _assert_slice(space: SearchSpace, supernet: Supernet, arch: Architecture) -> None:
    """In evaluation and training, the subnet gives the supernet's bits and changes its statistics alike."""
    chosen, images = space.locals(arch), _images(space)
    for training in (False, True):
        supernet.train(training)
        subnet = supernet.extract(chosen)
        assert subnet.training == training
        before = _state(supernet)
        expected = supernet(images, chosen)
        assert torch.equal(subnet(images), expected)
        assert expected.shape == (3, space.net.num_classes) and expected.isfinite().all()
        ours = {_name_in_subnet(name): tensor for name, tensor in supernet.blocks.state_dict().items()}
        assert all(torch.equal(tensor, ours[name]) for name, tensor in subnet.state_dict().items())
        if not training:
            assert all(torch.equal(tensor, before[name]) for name, tensor in supernet.state_dict().items())


def _stirred(space: SearchSpace) -> Supernet:
    """A supernet whose running statistics are not those of the first day."""
    supernet, rng = Supernet(space.net, seed=1).train(), np.random.default_rng(0)
    with torch.no_grad():
        for seed in range(2):
            supernet(_images(space, seed=seed), space.locals(space.sample(rng)))
    return supernet


# --- the published spaces ---


@pytest.mark.parametrize(("depth", "size"), [(20, 36), (18, 56), (50, 560)])
def test_sizes_and_codes(depth: int, size: int) -> None:
    space = make_space(f"resnet{depth}-pooling")
    labels = [space.label(arch) for arch in space.enumerate()]
    codes = [tuple(map(int, label.split("-"))) for label in labels]
    assert space.size == len(codes) == size
    assert codes == sorted(set(codes))
    assert {(len(code), sum(code)) for code in codes} == {(3 if depth == 20 else 4, LAYERS[depth])}
    assert min(map(min, codes)) == 1


def test_codes_of_resnet20_in_the_papers_order() -> None:
    space = make_space("resnet20-pooling")
    labels = [space.label(arch) for arch in space.enumerate()]
    assert [labels[number - 1] for number in (1, 9, 24, 34, 36)] == ["1-1-8", "2-1-7", "4-3-3", "7-1-2", "8-1-1"]
    assert space.parse("4-3-3")["pools"] == (4, 7)
    assert make_space("resnet18-pooling").parse("3-2-2-2")["pools"] == (3, 5, 7)


def test_placements_of_resnet20_have_270906_weights_in_convolutions_and_the_classifier() -> None:
    space = make_space("resnet20-pooling")
    for arch in list(space.enumerate())[::5]:
        with torch.device("meta"):
            subnet = space.net.build(space.locals(arch))
        layers = [m for m in subnet.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
        assert sum(tensor.numel() for layer in layers for tensor in layer.parameters()) == 270_906
    assert space.net.input_shape == (3, 32, 32) and space.net.num_classes == 10


def test_labels_count_the_layers_at_each_resolution() -> None:
    for depth, label in ((20, "4-3-3"), (20, "1-8-1"), (18, "3-2-2-2"), (50, "4-4-6-3")):
        space = make_space(f"resnet{depth}-pooling", image_size=16)
        subnet = space.net.build(space.locals(space.parse(label))).eval()
        sides, x = [], _images(space, 1)
        for block in list(subnet)[:-1]:
            x = block(x)
            sides.append(x.shape[-1])
        expected = [16 >> at for at, count in enumerate(map(int, label.split("-"))) for _ in range(count)]
        assert sides == expected


def test_channels_belong_to_positions() -> None:
    shapes = [
        [shape[0] for shape in space.net.input_shapes(space.locals(arch))]
        for space in [make_space("resnet20-pooling", in_channels=1)]
        for arch in space.enumerate()
    ]
    assert set(map(tuple, shapes)) == {(1, 16, 16, 16, 16, 32, 32, 32, 64, 64, 64)}


@pytest.mark.parametrize("depth", [20, 18])
@pytest.mark.parametrize("operators", [("max",), ("avg", "conv"), ("max", "avg", "conv")])
def test_pooling_spaces_keep_the_contract_of_spaces(depth: int, operators: tuple[str, ...]) -> None:
    space = pooling_space(depth, operators=operators)
    check_space(space)
    assert space.size == {20: 36, 18: 56}[depth] * len(operators)


# --- a subnet is a slice ---


@pytest.mark.parametrize("bn", ["paper", "affine"])
@pytest.mark.parametrize("operator", POOLINGS)
def test_every_subnet_of_resnet20_is_a_slice(bn: str, operator: str) -> None:
    space = make_space("resnet20-pooling", image_size=8, operators=(operator,), bn=bn)
    supernet = _stirred(space)
    for arch in list(space.enumerate())[:: 1 if operator in ("max", "avg", "conv") else 5]:
        _assert_slice(space, supernet, arch)


@settings(max_examples=10, deadline=None)
@given(
    operators=st.lists(st.sampled_from(list(POOLINGS)), min_size=1, max_size=4, unique=True), seed=st.integers(0, 99)
)
def test_a_subnet_takes_the_weights_of_its_own_operator_only(operators: list[str], seed: int) -> None:
    space = make_space("resnet20-pooling", image_size=9, operators=operators)
    supernet = Supernet(space.net, seed)
    pooled = [p for name, p in supernet.named_parameters() if ".poolings." in name]
    with torch.no_grad():
        for parameter in pooled:
            parameter += 0.5
    arch = space.sample(np.random.default_rng(seed))
    chosen, images = space.locals(arch), _images(space)
    subnet = supernet.eval().extract(chosen)
    assert torch.equal(subnet(images), supernet(images, chosen))
    alone = space.net.build(chosen)
    assert set(dict(subnet.named_parameters())) <= set(dict(alone.named_parameters()))
    assert {n for n, _ in subnet.named_parameters() if ".pooling." in n} == {
        n for n, _ in alone.named_parameters() if ".pooling." in n
    }
    counted = count(alone, space.net.input_shape).total
    assert CostModel(space).cost(arch) == counted
    with torch.no_grad():
        for parameter in pooled:
            parameter += 0.5
    moved = not torch.allclose(subnet(images), supernet(images, chosen))
    assert moved == any(".pooling." in name for name, _ in subnet.named_parameters())


@pytest.mark.parametrize("operators", [("max",), ("conv", "gated")])
@pytest.mark.parametrize(("stem", "size"), [("small", 8), ("large", 16)])
@pytest.mark.parametrize("weights", ["per-resolution", "parting"])
def test_blocks_with_weights_per_resolution_share_those_of_one_resolution_alone(
    stem: Literal["small", "large"], size: int, operators: tuple[str, ...], weights: Weights
) -> None:
    space = pooling_space(20, image_size=size, stem=stem, operators=operators, weights=weights)
    supernet = Supernet(space.net, 0).eval()
    trained: set[str] = set()
    for arch in space.enumerate():
        chosen = space.locals(arch)
        supernet.zero_grad()
        logits = supernet(_images(space), chosen)
        assert torch.equal(supernet.extract(chosen)(_images(space)), logits)
        logits.sum().backward()
        moved = {name for name, parameter in supernet.named_parameters() if parameter.grad is not None}
        sides = [shape[-1] for shape in space.net.input_shapes(chosen)][2:-1]  # what leaves a block enters the next
        assert {(f"block{at}", str(side)) for at, side in enumerate(sides, start=1)} == {
            (name.split(".")[1], name.split(".")[3]) for name in moved if ".sides." in name and f"block{len(sides) + 1}." not in name
        }  # fmt: skip
        trained |= moved
    if len(operators) == 1:
        assert trained == {name for name, _ in supernet.named_parameters()}


def test_operators_without_weights_share_their_supernets_weights_with_any_other_choice_of_them() -> None:
    states = [
        Supernet(make_space("resnet20-pooling", operators=operators).net, 3).state_dict()
        for operators in (("max",), ("conv",), ("max", "avg", "conv", "softpool"))
    ]
    for state in states[1:]:
        assert list(state) == list(states[0])
        assert all(torch.equal(a, b) for a, b in zip(state.values(), states[0].values(), strict=True))


@pytest.mark.parametrize("bn", ["paper", "affine"])
@pytest.mark.parametrize(("depth", "size"), [(18, 8), (18, 13), (50, 9)])
def test_subnets_of_larger_resnets_are_slices(depth: int, size: int, bn: str) -> None:
    options = {"image_size": size, "in_channels": 1, "num_classes": 7, "bn": bn}
    space = pooling_space(depth, operators=("max", "avg", "conv"), **options)  # type: ignore[arg-type]
    supernet, rng = _stirred(space), np.random.default_rng(depth + size)
    for _ in range(2):
        _assert_slice(space, supernet, space.sample(rng))


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_slices_of_any_image_size_and_number_of_channels(data: st.DataObject) -> None:
    stem = data.draw(st.sampled_from(["small", "large"]))
    space = pooling_space(
        20,
        in_channels=data.draw(st.integers(1, 4)),
        num_classes=data.draw(st.integers(2, 12)),
        image_size=data.draw(st.integers(16 if stem == "large" else 4, 40)),
        operators=data.draw(
            st.permutations(("max", "avg", "conv")).flatmap(lambda o: st.sampled_from([o, o[:1], o[:2]]))
        ),
        bn=data.draw(st.sampled_from(["paper", "affine"])),  # type: ignore[arg-type]
        stem=stem,  # type: ignore[arg-type]
    )
    arch = space.sample(np.random.default_rng(data.draw(st.integers(0, 99))))
    _assert_slice(space, Supernet(space.net), arch)


def test_extracting_copies_weights() -> None:
    space = make_space("resnet20-pooling", image_size=8)
    supernet = Supernet(space.net)
    before = _state(supernet)
    subnet = supernet.extract(space.locals(space.parse("4-3-3")))
    with torch.no_grad():
        for parameter in subnet.parameters():
            parameter.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in supernet.state_dict().items())


def test_one_supernet_serves_operators_by_turns() -> None:
    space = make_space("resnet20-pooling", image_size=9, operators=("max", "avg", "conv"))
    supernet, images = Supernet(space.net).eval(), _images(space)
    chosen = [space.locals(space.parse(f"4-3-3/{operator}")) for operator in ("max", "conv", "avg")]
    first = [supernet(images, locals) for locals in chosen]
    again = [supernet(images, locals) for locals in reversed(chosen)]
    assert all(torch.equal(a, b) for a, b in zip(first, reversed(again), strict=True))
    assert not any(torch.allclose(first[a], first[b]) for a, b in ((0, 1), (1, 2), (0, 2)))


# --- blocks ---


@pytest.mark.parametrize("bottleneck", [False, True])
def test_a_strided_identity_shortcut_keeps_every_other_pixel(bottleneck: bool) -> None:
    block = ResidualBlock(8, 8, bottleneck, ALONE_NORMS["affine"], "conv").eval()
    nn.init.zeros_(block.convs[-1].weight)
    for side in (6, 7):
        x = torch.rand(2, 8, side, side)
        assert torch.equal(block(x), x[:, :, ::2, ::2])


@pytest.mark.parametrize("bottleneck", [False, True])
@pytest.mark.parametrize("c_out", [8, 16])
def test_operators_that_pool_act_on_the_input_of_the_block(bottleneck: bool, c_out: int) -> None:
    block = SharedResidualBlock(8, c_out, bottleneck, ALONE_NORMS["paper"], ("max", "avg", "conv")).eval()
    x = torch.randn(2, 8, 9, 9)
    plain = {"max": block(F.max_pool2d(x, 2), None), "avg": block(F.avg_pool2d(x, 2), None)}
    for operator, expected in plain.items():
        assert torch.equal(block(x, operator), expected) and expected.shape == (2, c_out, 4, 4)
    assert block(x, "conv").shape == (2, c_out, 5, 5)
    strided = [layer.stride[0] for layer in block.body.convs]
    assert strided == ([1, 2, 1] if bottleneck else [2, 1])


def test_shortcuts_have_weights_only_where_channels_change() -> None:
    space = make_space("resnet20-pooling")
    subnet = space.net.build(space.locals(space.parse("1-1-8")))
    with_weights = [name for name, block in subnet.named_children() if len(getattr(block, "shortcut", ()))]
    assert with_weights == ["block4", "block7"]


def test_normalisation_of_supernets_and_of_networks_trained_alone() -> None:
    def kinds(module: nn.Module) -> list[tuple[bool, bool]]:
        norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
        return [(norm.affine, norm.track_running_stats) for norm in norms]

    for bn, shared in (("paper", (False, False)), ("affine", (True, True))):
        space = make_space("resnet20-pooling", bn=bn)
        chosen = space.locals(space.parse("4-3-3"))
        assert set(kinds(Supernet(space.net))) == {shared}
        assert set(kinds(Supernet(space.net).extract(chosen))) == {shared}
        alone = space.net.build(chosen)
        assert all(tracks for _, tracks in kinds(alone))
        firsts = [block.norms[0].affine for block in alone if isinstance(block, ResidualBlock)]
        others = [block.norms[1].affine for block in alone if isinstance(block, ResidualBlock)]
        assert firsts == [bn == "affine"] * 9 and others == [True] * 9


# --- seeds ---


def test_the_seed_alone_decides_the_weights_and_no_generator_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    space = make_space("resnet20-pooling", image_size=11, num_classes=3)
    chosen = space.locals(space.parse("4-3-3"))
    torch.manual_seed(5)
    seeded.clear()
    state = torch.random.get_rng_state()
    for make in (lambda seed: space.net.build(chosen, seed), lambda seed: Supernet(space.net, seed)):
        a, b, c = make(3), make(3), make(4)
        assert torch.equal(torch.random.get_rng_state(), state) and not seeded
        weights = [[p for p in m.parameters() if p.dim() > 1] for m in (a, b, c)]
        assert all(torch.equal(x, y) for x, y in zip(weights[0], weights[1], strict=True))
        assert not any(torch.equal(x, y) for x, y in zip(weights[0], weights[2], strict=True))
    Supernet(space.net).extract(chosen)
    assert torch.equal(torch.random.get_rng_state(), state)


# --- bad input ---


@pytest.mark.parametrize(
    ("depth", "options", "message"),
    [
        (34, {}, "`depth` must be one of 20, 18, 50; got 34"),
        (20, {"bn": "none"}, "`bn` must be one of paper, affine; got 'none'"),
        (20, {"weights": "own"}, "`weights` must be one of shared, per-resolution, parting; got 'own'"),
        (
            20,
            {"weights": "per-resolution", "image_size": 30},
            "must be a multiple of 4 for weights per resolution and 2 poolings, got 30",
        ),
        (20, {"stem": "tiny"}, "`stem` must be small or large; got 'tiny'"),
        (20, {"in_channels": 0}, "`in_channels` must be an integer of at least 1; got 0"),
        (20, {"num_classes": 1}, "`num_classes` must be an integer of at least 2; got 1"),
        (20, {"num_classes": "10"}, "`num_classes` must be an integer of at least 2; got '10'"),
        (
            20,
            {"image_size": 32.0},
            "`image_size` must be an integer of at least 1, or two of them, height and width; got 32.0",
        ),
        (20, {"image_size": 3}, "`image_size` must be at least 4 for 2 poolings, got 3; use larger images"),
        (18, {"image_size": 7}, "`image_size` must be at least 8 for 3 poolings, got 7; use larger images"),
        (50, {"image_size": 31, "stem": "large"}, "`image_size` must be at least 32 for 3 poolings, got 31"),
        (
            20,
            {"operators": ("median",)},
            "`operators` must be among max, avg, conv, mixed, gated, tree, softpool, adapool, gem, ggem; got 'median'",
        ),
        (20, {"operators": ("max", "max")}, "`operators` needs at least one operator and none twice"),
        (20, {"operators": ()}, "`operators` needs at least one operator and none twice"),
    ],
)
def test_options_that_are_not_allowed_are_refused_with_what_is(
    depth: int, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError) as caught:
        pooling_space(depth, **options)  # type: ignore[arg-type]
    assert message in str(caught.value)


@pytest.mark.parametrize("label", ["4-3", "4-3-3-1", "4-3-4", "0-5-5", "-1-5-6", "a-b-c", "", "4-3-3/max"])
def test_labels_that_name_no_placement_are_refused(label: str) -> None:
    with pytest.raises(
        ValueError, match="a label must be 3 counts of layers, each at least 1, that add up to 10, as in"
    ):
        make_space("resnet20-pooling").parse(label)


def test_labels_name_the_operator_where_it_is_searched() -> None:
    space = pooling_space(20, operators=("max", "conv"))
    assert space.label(space.parse("4-3-3/conv")) == "4-3-3/conv"
    with pytest.raises(ValueError, match="then / and an operator, as in 1-1-8/max; got '4-3-3'"):
        space.parse("4-3-3")
    with pytest.raises(ValueError, match="choice 'operator' must be one of 'max', 'conv'; got 'avg'"):
        space.parse("4-3-3/avg")


def test_fingerprints_tell_the_options_apart() -> None:
    options: list[dict[str, object]] = [
        {},
        {"in_channels": 1},
        {"num_classes": 11},
        {"image_size": 28},
        {"operators": ("avg",)},
        {"operators": ("max", "avg")},
        {"bn": "affine"},
        {"stem": "large"},
    ]
    prints = [make_space("resnet20-pooling", **chosen).fingerprint for chosen in options]
    assert len(set(prints)) == len(options)
    assert prints[0] == make_space("resnet20-pooling", image_size=32, operators=("max",)).fingerprint
